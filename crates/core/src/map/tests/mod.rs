//! Tests of the map over a platform of their own; see [`world`].

extern crate std;

mod entries;
pub(crate) mod fail;
mod oracle;
mod rows;
mod submap;
mod threads;
mod tree;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use machvm_arena::Handle;
use machvm_hal::{MaySleep, PhysMem, Pindex, Pmap, Prot, RawAddr, Va, VaRange};

use super::{Attributes, Entry, EntryFlags, EntryInfo, Inherit, Kind, Map};
use crate::Vm;
use crate::fault::Fault;
use crate::object::Object;
use world::World;

/// The map under test covers these pages.
pub(crate) const FIRST: u64 = 16;
pub(crate) const LAST: u64 = 80;

/// What is true of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    kind: Kind,
    a: Attributes,
    wired: u32,
    grows: bool,
    /// Marked as seen by others.
    shared: bool,
    /// Object and index; of a foreign page its index in the file.
    behind: (Option<u32>, u64),
}

pub(crate) fn may() -> MaySleep {
    MaySleep::claim()
}
pub(crate) fn va(page: u64) -> Va {
    Va::from_page(page)
}
pub(crate) fn range(start: u64, end: u64) -> VaRange {
    VaRange::between(va(start), va(end)).expect("not empty")
}
fn rw() -> Attributes {
    Attributes::new(Prot::RW)
}
fn bounds() -> VaRange {
    range(FIRST, LAST)
}
pub(crate) fn vm() -> Vm<World> {
    Vm::new(World::new()).expect("memory for a test")
}
pub(crate) fn map(vm: &Vm<World>) -> Map<'_, World> {
    Map::new(vm, vm.plat.pmap(), bounds())
}

pub(crate) fn infos(m: &Map<'_, World>) -> Vec<EntryInfo> {
    let mut all = Vec::new();
    m.for_each_entry(|i| all.push(i), &mut may());
    all
}

/// The map, page by page.
pub(crate) fn cells(m: &Map<'_, World>) -> BTreeMap<u64, Cell> {
    let mut all = BTreeMap::new();
    for i in infos(m) {
        for (n, page) in (i.range.start().page()..i.range.end().page()).enumerate() {
            let index = match i.kind {
                Kind::Guard | Kind::StackGap => 0,
                _ => i.offset.0 + n as u64,
            };
            let cell = Cell {
                kind: i.kind,
                a: i.attributes,
                wired: i.wired,
                grows: i.flags.contains(EntryFlags::GROWS_DOWN),
                shared: i.flags.contains(EntryFlags::SHARED),
                behind: (i.object.map(Handle::get), index),
            };
            assert!(all.insert(page, cell).is_none(), "page {page} twice");
        }
    }
    all
}

/// The protection of every page, submaps looked through.
fn rights_through(m: &Map<'_, World>) -> BTreeMap<u64, Prot> {
    let (mut all, mut at) = (BTreeMap::new(), m.min());
    while let Some((e, _)) = m.entry_through(at, &mut may()) {
        all.extend(e.range.iter().map(|va| (va.page(), e.attributes.prot)));
        at = e.range.end();
    }
    all
}

/// Everything that must hold between operations.
pub(crate) fn check(m: &Map<'_, World>) {
    m.check(&mut may()).expect("invariants 1 to 7");
    let cells = cells(m);
    let through = rights_through(m);
    let machine = m.vm.plat.machine();
    let mut covered = BTreeMap::new();
    for (&page, c) in &cells {
        let region = machine.regions.get(&(m.pmap.id, page)).copied();
        match c.kind {
            Kind::Object => {
                let (Some(o), index) = c.behind else { panic!("object page {page} without object") };
                let o = handle(o);
                let natural = m.vm.object_natural(o, Pindex(index));
                assert_eq!(region, Some((natural, c.a.prot)), "region of page {page}");
                let twice = covered.insert((o.get(), index), (page, c.shared));
                if let Some((other, also)) = twice {
                    assert!(c.shared && also, "index {index} of {o:?} at {page} and {other} (invariant 7)");
                }
            }
            Kind::Guard => assert_eq!(region, None, "a guard has no region"),
            Kind::Foreign => assert_eq!(region.map(|r| r.1), Some(c.a.prot), "own mapping of page {page}"),
            // The regions of a submap come with the first fault in it.
            Kind::StackGap | Kind::Submap => {}
        }
    }
    let of_mine = |k: &&(u64, u64)| k.0 == m.pmap.id;
    for key in machine.regions.keys().filter(of_mine) {
        assert!(cells.contains_key(&key.1), "a region at page {} where nothing is mapped", key.1);
    }
    for (key, t) in machine.mapped.iter().filter(|(k, _)| k.0 == m.pmap.id) {
        assert!(cells.contains_key(&key.1), "pmap mappings are part of entries (invariant 10)");
        let seen = through.get(&key.1).expect("pmap mappings are part of what is seen (invariant 10)");
        assert!(seen.hardware().contains(t.prot), "rights of page {} (invariant 10)", key.1);
    }
}

fn handle(raw: u32) -> Handle<Object> {
    Handle::from_raw(core::num::NonZeroU32::new(raw).expect("a handle"))
}

/// Nothing is left: no entry, object, anon, page, node or extent.
pub(crate) fn check_empty(vm: &Vm<World>) {
    assert_eq!(vm.live(), [0; 6], "pages, anons, leaves, inners, objects, entries left over");
}

fn touch(m: &Map<'_, World>, page: u64, access: Prot) -> Result<machvm_hal::Pfn, crate::FaultError> {
    m.fault(&Fault { addr: RawAddr(page << 12), access }, &mut may())?;
    let machine = m.vm.plat.machine();
    Ok(machine.mapped.get(&(m.pmap.id, page)).expect("entered").pfn)
}
pub(crate) fn poke(m: &Map<'_, World>, page: u64, value: u64) {
    let f = touch(m, page, Prot::W).expect("writable");
    m.vm.plat.write(f, 0, &value.to_le_bytes());
}
pub(crate) fn peek(m: &Map<'_, World>, page: u64) -> u64 {
    let f = touch(m, page, Prot::R).expect("readable");
    let mut b = [0; 8];
    m.vm.plat.read(f, 0, &mut b);
    u64::from_le_bytes(b)
}

/// The map in short, for messages: `16-20 rw-, 24-25 guard`.
pub(crate) fn sketch(m: &Map<'_, World>) -> String {
    let one = |i: &EntryInfo| {
        let (s, e) = (i.range.start().page(), i.range.end().page());
        std::format!("{s}-{e} {:?} {:?} {:?}+{}", i.kind, i.attributes.prot, i.object, i.offset.0)
    };
    infos(m).iter().map(one).collect::<Vec<_>>().join(", ").to_string()
}

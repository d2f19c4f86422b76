//! The whole-machine checks.

use std::collections::HashMap;

use machvm::{Seen, Vm};
use machvm_hal::MaySleep;

use crate::machine::Machine;
use crate::pmap::ModelPmap;
use crate::task::Task;

#[derive(Debug, Default)]
struct Counts {
    entries: Vec<Part>,
    objects: HashMap<u32, u32>,
    /// Memory objects, and how many copies name them.
    below: HashMap<u32, u32>,
    /// By number: times named, and what the structure says.
    inners: HashMap<u32, (u32, u32)>,
    leaves: HashMap<u32, (u32, u32)>,
    anons: HashMap<u32, (u32, u32)>,
    pages: HashMap<u32, u32>,
    swapped: HashMap<u64, u32>,
}

/// The indices of an object that an entry covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Part {
    object: u32,
    first: u64,
    end: u64,
    shared: bool,
}

/// Invariant 7: what two entries cover both know to be shared (decision 17). A missing mark
/// would let one drop what the other sees.
fn check_marks(mut all: Vec<Part>) {
    all.sort_unstable();
    let Some(mut far) = all.first().copied() else { return };
    // By object and index; of an object, the entry so far that reaches furthest, and the one
    // without a mark that does.
    let mut private: Option<Part> = (!far.shared).then_some(far);
    for e in &all[1..] {
        if e.object != far.object {
            (far, private) = (*e, None);
        } else {
            if !e.shared && far.end > e.first {
                panic!("invariant 7: {e:?} is private, and {far:?} covers the same memory");
            }
            if let Some(p) = private.filter(|p| p.end > e.first) {
                panic!("invariant 7: {p:?} is private, and {e:?} covers the same memory");
            }
            far = if e.end > far.end { *e } else { far };
        }
        if !e.shared && private.is_none_or(|p| e.end > p.end) {
            private = Some(*e);
        }
    }
}

fn count(map: &mut HashMap<u32, (u32, u32)>, id: u32, refs: u32) -> bool {
    let slot = map.entry(id).or_insert((0, refs));
    slot.0 += 1;
    slot.0 == 1
}

/// Checks a quiet system against itself, the machine and its maps: reference counts,
/// queues, charges, frames, swap slots, and that every mapping is one the map allows.
///
/// # Panics
/// Something is wrong.
pub fn check_quiet<'a, 'vm: 'a>(vm: &'vm Vm<Machine>, tasks: impl IntoIterator<Item = &'a Task<'vm>>) {
    let c = check_vm(vm);
    assert_eq!(c, check_maps(tasks), "references of objects (left) and entries that name them (right)");
}

/// As [`check_quiet`] where chains of pieces (memory entries, say) name objects too.
///
/// # Panics
/// Something is wrong.
pub fn check_holding<'a, 'vm: 'a>(vm: &'vm Vm<Machine>, tasks: impl IntoIterator<Item = &'a Task<'vm>>) {
    let c = check_vm(vm);
    let (named, mut all) = (check_maps(tasks), HashMap::<u32, u32>::new());
    vm.walk(&mut |seen| {
        if let Seen::Entry { object, .. } = seen {
            *all.entry(object).or_default() += 1;
        }
        false
    });
    assert_eq!(c, all, "references of objects (left) and entries that name them (right)");
    assert!(named.iter().all(|(o, n)| all.get(o).is_some_and(|all| all >= n)));
}

/// Checks each map. Gives how often each object is named.
fn check_maps<'a, 'vm: 'a>(tasks: impl IntoIterator<Item = &'a Task<'vm>>) -> HashMap<u32, u32> {
    let mut named: HashMap<u32, u32> = HashMap::new();
    let mut may = MaySleep::claim();
    for t in tasks {
        if let Err((what, at)) = t.map.check(&mut may) {
            panic!("map of {t:?}: {what} at {at:?}");
        }
        t.map.for_each_entry(
            |e| {
                if let Some(o) = e.object {
                    *named.entry(o.get()).or_default() += 1;
                }
            },
            &mut may,
        );
        check_mappings(t, &mut may);
    }
    named
}

/// As [`check_quiet`], without the maps. Gives the references of every object, but for those
/// of its copies.
///
/// # Panics
/// Something is wrong.
pub fn check_vm(vm: &Vm<Machine>) -> HashMap<u32, u32> {
    let mut c = Counts::default();
    vm.walk(&mut |seen| match seen {
        Seen::Entry { object, first, pages, shared } => {
            c.entries.push(Part { object, first, end: first + pages, shared });
            false
        }
        Seen::Object { id, refs, below } => {
            below.into_iter().for_each(|o| *c.below.entry(o).or_default() += 1);
            c.objects.insert(id, refs).is_none()
        }
        Seen::Inner { id, refs } => count(&mut c.inners, id, refs),
        Seen::Leaf { id, refs } => count(&mut c.leaves, id, refs),
        Seen::Anon { id, refs, page, swap } => {
            let first = count(&mut c.anons, id, refs);
            if first {
                page.into_iter().for_each(|p| *c.pages.entry(p).or_default() += 1);
                swap.into_iter().for_each(|s| *c.swapped.entry(s).or_default() += 1);
            }
            first
        }
    });
    check_marks(std::mem::take(&mut c.entries));
    for (what, map) in [("inner node", &c.inners), ("leaf", &c.leaves), ("anon", &c.anons)] {
        for (id, (found, says)) in map {
            assert_eq!(found, says, "{what} {id}: named (left) and references (right)");
        }
    }
    if let Err((charged, reserved)) = vm.check_commit() {
        panic!("invariant 8: entries and objects are charged {charged} pages, {reserved} are reserved");
    }
    assert!(c.pages.values().all(|n| *n == 1), "two anons have one page");
    assert!(c.swapped.values().all(|n| *n == 1), "two anons have one swap slot");
    let (owned, abandoned) = vm.check_pages().unwrap_or_else(|what| panic!("{what}"));
    let live = vm.live();
    let now = [
        c.pages.len() as u64 + abandoned,
        c.anons.len() as u64,
        c.leaves.len() as u64,
        c.inners.len() as u64,
        c.objects.len() as u64,
    ];
    assert_eq!(
        live[..5],
        now,
        "in use (left) and reachable (right): pages, anons, leaves, inner nodes, objects"
    );
    let machine = vm.platform();
    assert_eq!(machine.resident(), owned + abandoned, "frames resident (left) and pages (right)");
    machine.check_quiet();
    if let Some(swap) = machine.mem_swap() {
        assert_eq!(swap.kept(), c.swapped.len(), "swap slots in use (left) and known (right)");
    }
    for (o, n) in &c.below {
        let refs = c.objects.get_mut(o).unwrap_or_else(|| panic!("copies name object {o}, which has ended"));
        *refs =
            refs.checked_sub(*n).unwrap_or_else(|| panic!("object {o} has {n} copies, {refs} references"));
    }
    c.objects.retain(|_, refs| *refs != 0);
    c.objects
}

/// Invariant 10: mappings are a subset of entries, and so are their rights.
fn check_mappings(t: &Task<'_>, may: &mut MaySleep) {
    let p = match t.map.pmap() {
        ModelPmap::Flat(p) => p,
        ModelPmap::Tables(p) => {
            let (vm, mut wired) = (t.map.vm(), 0);
            p.check(vm.page_array(), |va| {
                let e = t.map.entry_through(va, may).filter(|(e, _)| e.range.contains(va));
                e.map(|(e, _)| e.attributes.prot)
            });
            let mut at = t.map.min();
            while let Some((e, _)) = t.map.entry_through(at, may) {
                wired += if e.wired != 0 { e.range.pages() } else { 0 };
                at = e.range.end();
            }
            // Less where the entry allows nothing.
            assert!(p.wired_count() <= wired, "{t:?}: {} pages wired, {wired} by the map", p.wired_count());
            return;
        }
    };
    for (va, page, prot, _) in p.mappings() {
        let Some((e, _)) = t.map.entry_through(va, may).filter(|(e, _)| e.range.contains(va)) else {
            panic!("{va:?} of {t:?} is mapped to {page:?} without an entry");
        };
        assert!(
            e.attributes.prot.hardware().contains(prot),
            "{va:?} of {t:?} is mapped {prot:?}, the entry has {:?}",
            e.attributes.prot
        );
    }
}

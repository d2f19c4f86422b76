//! Tests of the calls over the small world of the map's tests: refusals and bad input.
//! Contents and races are tested on the model machine (`crates/model/tests/mach.rs`).

extern crate std;

mod fail;
mod nasty;

use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize};

use super::{MapSource, MemoryEntry, Personality, RawFlags, RawInherit, RawProt, Task, VmFlags};
use crate::map::Map;
use crate::map::tests::world::World;
use crate::map::tests::{may, poke};

const P: u64 = PAGE_SIZE;
const COPY: RawInherit = RawInherit(1);
const ANYWHERE: RawFlags = RawFlags(VmFlags::ANYWHERE.bits());
const OVER: RawFlags = RawFlags(VmFlags::OVERWRITE.bits());

fn a(page: u64) -> RawAddr {
    RawAddr(page * P)
}
fn n(pages: u64) -> RawSize {
    RawSize(pages * P)
}
fn rights(prot: u32, max: u32) -> (RawProt, RawProt, RawInherit) {
    (RawProt(prot), RawProt(max), COPY)
}

/// Memory at pages 20 to 28 and 32 to 36, with other attributes in the middle of each, so
/// that there is something to cut.
fn furnish(m: &Map<'_, World>) {
    let t = Task::new(m, &Personality::FREEBSD);
    let may: &mut MaySleep = &mut may();
    assert_eq!(t.vm_allocate(a(20), n(8), RawFlags(0), may), Ok(20 * P));
    assert_eq!(t.vm_allocate(a(32), n(4), RawFlags(0), may), Ok(32 * P));
    assert_eq!(t.vm_inherit(a(22), n(2), RawInherit(0), may), Ok(()));
    assert_eq!(t.vm_protect(a(33), n(1), false, Prot::R.into(), may), Ok(()));
    (20..28).chain([32, 34, 35]).for_each(|page| poke(m, page, 100 + page));
}

//! System calls on memory: the map's operations under Linux's names.

use machvm::map::{Advise, Attributes, Backing, Holes, Inherit, Order, Place, ProtectError, Search, SetProt};
use machvm::map::{FindError, InsertError};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize, Va, VaRange};

use crate::errno::{EACCES, EEXIST, EINVAL, ENODEV, ENOMEM, Result};
use crate::sched;

const MAP_SHARED: u64 = 1;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;

fn prot(p: u64) -> Prot {
    let mut prot = Prot::NONE;
    prot.set(Prot::R, p & 1 != 0);
    prot.set(Prot::W, p & 2 != 0);
    prot.set(Prot::X, p & 4 != 0);
    prot
}

/// A range that starts on a page; its length is rounded up.
fn range(at: u64, len: u64) -> Result<VaRange> {
    if !at.is_multiple_of(PAGE_SIZE) || len == 0 {
        return Err(EINVAL);
    }
    VaRange::check(RawAddr(at), RawSize(len)).map_err(|_| EINVAL)
}

pub(super) fn mmap(a: [u64; 6]) -> Result {
    let [at, len, p, flags, ..] = a;
    if len == 0 || flags & MAP_FIXED != 0 && !at.is_multiple_of(PAGE_SIZE) {
        return Err(EINVAL);
    }
    if flags & MAP_ANONYMOUS == 0 {
        return Err(ENODEV);
    }
    let map = sched::process().space().map();
    let mut may = MaySleep::claim();
    let pages = len.div_ceil(PAGE_SIZE);
    let mut attributes = Attributes::new(prot(p));
    if flags & MAP_TYPE == MAP_SHARED {
        attributes.inherit = Inherit::Share;
    }
    let high = Search { order: Order::HighestFirst, ..map.search() };
    let hint = Va::containing(RawAddr(at));
    let place = if flags & MAP_FIXED_NOREPLACE != 0 {
        Place::At(hint)
    } else if flags & MAP_FIXED != 0 {
        Place::Over(hint)
    } else if at != 0 && map.find(Place::At(hint), pages, Backing::Anonymous, &attributes, &mut may).is_ok() {
        return Ok(hint.get() as i64);
    } else {
        Place::Any(high)
    };
    let va = map.find(place, pages, Backing::Anonymous, &attributes, &mut may).map_err(|e| match e {
        FindError::Insert(InsertError::Occupied(_)) => EEXIST,
        FindError::BadSize => EINVAL,
        _ => ENOMEM,
    })?;
    Ok(va.get() as i64)
}

pub(super) fn munmap(at: u64, len: u64) -> Result {
    let r = range(at, len)?;
    sched::process().space().map().delete(r, &mut MaySleep::claim()).map_err(|_| ENOMEM)?;
    Ok(0)
}

pub(super) fn mprotect(at: u64, len: u64, p: u64) -> Result {
    if len == 0 && at.is_multiple_of(PAGE_SIZE) {
        return Ok(0);
    }
    let r = range(at, len)?;
    let set = SetProt { prot: Some(prot(p)), max: None, holes: Holes::Refuse };
    match sched::process().space().map().protect(r, &set, &mut MaySleep::claim()) {
        Ok(()) => Ok(0),
        Err(ProtectError::Hole(_)) => Err(ENOMEM),
        Err(ProtectError::ExceedsMax(_) | ProtectError::OutsideMax(_)) => Err(EACCES),
        Err(_) => Err(ENOMEM),
    }
}

pub(super) fn madvise(at: u64, len: u64, advice: u64) -> Result {
    if len == 0 {
        return Ok(0);
    }
    let r = range(at, len)?;
    let advise = match advice {
        4 => Advise::DontNeed,
        8 => Advise::Free,
        0..=3 | 12..=15 | 18 | 19 => return Ok(0),
        _ => return Err(EINVAL),
    };
    sched::process().space().map().madvise(r, advise, &mut MaySleep::claim()).map_err(|_| ENOMEM)?;
    Ok(0)
}

pub(super) fn brk(to: u64) -> Result {
    let p = sched::process();
    let mut heap = p.heap.lock();
    let (start, end) = *heap;
    if to < start {
        return Ok(end as i64);
    }
    let up = |a: u64| (a + PAGE_SIZE - 1) & !(PAGE_SIZE - 1);
    let (old, new) = (up(end), up(to));
    let map = p.space().map();
    let mut may = MaySleep::claim();
    let between = |a: u64, b: u64| VaRange::check(RawAddr(a), RawSize(b - a));
    let done = if new > old {
        between(old, new).is_ok_and(|r| {
            map.insert(r, Backing::Anonymous, &Attributes::new(Prot::R | Prot::W), &mut may).is_ok()
        })
    } else {
        new == old || between(new, old).is_ok_and(|r| map.delete(r, &mut may).is_ok())
    };
    if done {
        heap.1 = to;
    }
    Ok(heap.1 as i64)
}

//! mremap(2).

use machvm::map::{Backing, Holes, Inherit, Leave, Wiring};
use machvm_hal::{MaySleep, PAGE_SIZE, Va, VaRange};

use super::mmap::{anywhere, clear_gaps, remove};
use super::{Part, find_error, limit, lock, map, part, round, va};
use crate::embed::the_vm;
use crate::errno::{EFAULT, EINVAL, ENOMEM, Result};
use crate::sched;

const MAYMOVE: u64 = 1;
const FIXED: u64 = 2;
const DONTUNMAP: u64 = 4;

pub(in crate::syscall) fn mremap(a: [u64; 5]) -> Result {
    let [at, old, new, flags, to] = a;
    if flags & !(MAYMOVE | FIXED | DONTUNMAP) != 0
        || flags & (FIXED | DONTUNMAP) != 0 && flags & MAYMOVE == 0
        || flags & DONTUNMAP != 0 && round(old) != round(new)
        || !at.is_multiple_of(PAGE_SIZE)
    {
        return Err(EINVAL);
    }
    let old = round(old).ok_or(EINVAL)?;
    let new = round(new).filter(|n| *n != 0 && *n <= crate::arch::USER_END).ok_or(EINVAL)?;
    if flags & (FIXED | DONTUNMAP) != 0 {
        let end = to.checked_add(new).filter(|e| *e <= map().max().get()).ok_or(EINVAL)?;
        let over = at < end && to < at.saturating_add(old);
        let low = flags & FIXED != 0 && to < map().min().get();
        if !to.is_multiple_of(PAGE_SIZE) || over || low {
            return Err(EINVAL);
        }
    }
    // From finding a place until it is used.
    let _alone = sched::process().layout.close();
    let to = (flags & FIXED != 0).then(|| va(to));
    let first = part(VaRange::page(va(at))).ok_or(EFAULT)?;
    if old == 0 {
        return again(&first, va(at), new, flags, to);
    }
    let r = VaRange::of_pages(va(at), old / PAGE_SIZE).filter(|r| r.end() <= map().max()).ok_or(EFAULT)?;
    if new < old && to.is_none() {
        // Cutting the end off: what is there may be anything.
        remove(VaRange::between(va(at + new), r.end()).ok_or(EINVAL)?)?;
        return Ok(at as i64);
    }
    check_one(r, &first)?;
    if new > old {
        let more = (new - old) / PAGE_SIZE;
        if first.is_locked() {
            limit::locks_new(more)?;
        }
        if super::is_data(&first.info) {
            limit::data(more, None)?;
        }
    }
    if flags & DONTUNMAP != 0 {
        return keep(&first, r, to);
    }
    if let Some(to) = to {
        let keep = VaRange::of_pages(r.start(), old.min(new) / PAGE_SIZE).ok_or(EINVAL)?;
        if let Some(tail) = VaRange::between(keep.end(), r.end()) {
            remove(tail)?;
        }
        let place = VaRange::of_pages(to, new / PAGE_SIZE).ok_or(EINVAL)?;
        remove(place)?;
        return relocate(&first, keep, to, new);
    }
    if new == old || grow(&first, r, new - old).is_ok() {
        return Ok(at as i64);
    }
    if flags & MAYMOVE == 0 {
        return Err(ENOMEM);
    }
    let search = anywhere();
    let to = map().findspace(&search, new / PAGE_SIZE, &mut MaySleep::claim()).map_err(find_error)?;
    relocate(&first, r, to, new)
}

/// Must be pieces of one mapping.
fn check_one(r: VaRange, first: &Part) -> Result<()> {
    super::each_solid(r, |p| {
        let same = p.info.attributes == first.info.attributes && p.is_locked() == first.is_locked();
        if same { Ok(()) } else { Err(EFAULT) }
    })
    .map_err(|_| EFAULT)
}

/// Adds to the end in place.
fn grow(first: &Part, r: VaRange, more: u64) -> Result<()> {
    let added =
        VaRange::of_pages(r.end(), more / PAGE_SIZE).filter(|a| a.end() <= map().max()).ok_or(ENOMEM)?;
    clear_gaps(added)?;
    map().extend(r.end(), added.pages(), &mut MaySleep::claim()).map_err(|_| ENOMEM)?;
    if first.is_locked() || lock::future() {
        let _ = lock::wire(added);
    }
    Ok(())
}

/// Moves `r` to `to`, where nothing is, and grows it there to `new` bytes.
fn relocate(first: &Part, r: VaRange, to: Va, new: u64) -> Result {
    let mut may = MaySleep::claim();
    clear_gaps(VaRange::of_pages(to, new / PAGE_SIZE).ok_or(ENOMEM)?)?;
    map().move_range(r, to, Leave::Hole, &mut may).map_err(|_| ENOMEM)?;
    let moved = VaRange::of_pages(to, r.pages()).ok_or(ENOMEM)?;
    if new > r.bytes()
        && let Err(e) = grow(first, moved, new - r.bytes())
    {
        // Where it came from nothing has been put since, unless another thread did.
        let _ = map().move_range(moved, r.start(), Leave::Hole, &mut may);
        return Err(e);
    }
    Ok(to.get() as i64)
}

/// Size zero: the same shared memory once more.
fn again(first: &Part, at: Va, new: u64, flags: u64, to: Option<Va>) -> Result {
    if !first.is_shared() || flags & DONTUNMAP != 0 {
        return Err(EINVAL);
    }
    if flags & MAYMOVE == 0 {
        return Err(ENOMEM);
    }
    let object = first.info.object.ok_or(EINVAL)?;
    let pages = new / PAGE_SIZE;
    let (vm, mut may) = (the_vm(), MaySleep::claim());
    let place = match to {
        Some(to) => machvm::map::Place::Over(to),
        None => machvm::map::Place::Any(anywhere()),
    };
    vm.object_reference(object);
    let a = machvm::map::Attributes { inherit: Inherit::Share, ..first.info.attributes };
    let backing = Backing::Shared(object, first.info.pindex(at));
    match map().find(place, pages, backing, &a, &mut may) {
        Ok(at) => Ok(at.get() as i64),
        Err(e) => {
            vm.object_deallocate(object, &mut may);
            Err(find_error(e))
        }
    }
}

/// MREMAP_DONTUNMAP: the pages move, an empty mapping stays; of shared memory one that still shows them. A private
/// mapping of a file is refused, as by Linux before 5.13.
fn keep(first: &Part, r: VaRange, to: Option<Va>) -> Result {
    if first.is_shared() {
        let made = again(first, r.start(), r.bytes(), MAYMOVE, to)?;
        if first.is_locked() {
            let _ = VaRange::of_pages(va(made as u64), r.pages()).map(lock::wire);
            let _ = map().unwire(r, Wiring::User, Holes::Skip, &mut MaySleep::claim());
        }
        return Ok(made);
    }
    if !first.is_private_anonymous() {
        return Err(EINVAL);
    }
    let mut may = MaySleep::claim();
    let to = match to {
        Some(to) => {
            remove(VaRange::of_pages(to, r.pages()).ok_or(EINVAL)?)?;
            to
        }
        None => map().findspace(&anywhere(), r.pages(), &mut may).map_err(find_error)?,
    };
    map().move_range(r, to, Leave::Zeroes, &mut may).map_err(|_| ENOMEM)?;
    let _ = map().unwire(r, Wiring::User, Holes::Skip, &mut may);
    Ok(to.get() as i64)
}

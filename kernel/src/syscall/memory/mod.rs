//! System calls on memory: the map's operations under Linux's names.

mod advise;
mod limit;
mod lock;
mod mmap;
mod protect;
mod remap;
mod shm;
mod sync;

use machvm::map::{EntryFlags, EntryInfo, FindError, InsertError, Kind, Map};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize, Va, VaRange};

use crate::embed::Kernel;
use crate::errno::{EEXIST, EINVAL, ENOMEM, Errno, Result};
use crate::sched;

pub(super) use advise::madvise;
pub(crate) use limit::is_data;
pub(super) use lock::{mlock, mlockall, munlock, munlockall};
pub(crate) use mmap::copy_of;
pub(super) use mmap::{brk, mmap, munmap, remap_file_pages};
pub(super) use protect::{mprotect, pkey_mprotect};
pub(super) use remap::mremap;
pub(crate) use shm::{forget_segments, sweep};
pub(super) use shm::{shmat, shmctl, shmdt, shmget};
pub(super) use sync::{mincore, msync};

/// MADV_DONTFORK was given.
const DONT_FORK: EntryFlags = EntryFlags::USER1;
/// MADV_WIPEONFORK was given.
const WIPE_ON_FORK: EntryFlags = EntryFlags::USER2;
/// A private mapping of a file.
pub(crate) const FILE: EntryFlags = EntryFlags::USER3;

/// The map of the calling process.
fn map() -> &'static Map<'static, Kernel> {
    sched::process().space().map()
}

fn prot(p: u64) -> Prot {
    let mut prot = Prot::NONE;
    prot.set(Prot::R, p & 1 != 0);
    prot.set(Prot::W, p & 2 != 0);
    prot.set(Prot::X, p & 4 != 0);
    prot
}

/// The length in whole pages; `None`: more than addresses can name.
fn round(len: u64) -> Option<u64> {
    Some(len.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1))
}

/// A range that starts on a page, of a length that is rounded up and may be zero; `wrong` is for one that does not fit
/// into the addresses.
fn range(at: u64, len: u64, wrong: Errno) -> Result<Option<VaRange>> {
    if !at.is_multiple_of(PAGE_SIZE) {
        return Err(EINVAL);
    }
    let len = round(len).ok_or(wrong)?;
    if len == 0 {
        return Ok(None);
    }
    let end = at.checked_add(len).filter(|e| *e <= crate::arch::USER_END).ok_or(wrong)?;
    VaRange::check(RawAddr(at), RawSize(end - at)).map(Some).map_err(|_| wrong)
}

fn find_error(e: FindError) -> Errno {
    match e {
        FindError::Insert(InsertError::Occupied(_)) => EEXIST,
        FindError::BadSize | FindError::BadAlignment => EINVAL,
        _ => ENOMEM,
    }
}

/// A piece of an entry.
struct Part {
    range: VaRange,
    info: EntryInfo,
}

impl Part {
    fn is_private_anonymous(&self) -> bool {
        !self.is_shared() && !self.info.flags.contains(FILE)
    }
    fn is_shared(&self) -> bool {
        self.info.attributes.tag != 0 && !self.info.flags.contains(FILE)
    }
    fn is_locked(&self) -> bool {
        self.info.flags.contains(EntryFlags::USER_WIRED)
    }
}

/// What is mapped at the start of `r`, if it is: gaps below stacks are not.
fn part(r: VaRange) -> Option<Part> {
    let info = map().entry_from(r.start(), &mut MaySleep::claim())?;
    let range = info.range.intersect(r)?;
    (info.kind == Kind::Object && range.start() == r.start()).then_some(Part { range, info })
}

/// Calls `f` with the parts of `r` that are mapped, ascending; `true`: there were holes.
fn each(r: VaRange, mut f: impl FnMut(&Part) -> Result<()>) -> Result<bool> {
    let (mut at, mut holes) = (r.start(), false);
    while let Some(rest) = VaRange::between(at, r.end()) {
        let Some(info) = map().entry_from(at, &mut MaySleep::claim()) else { return Ok(true) };
        let Some(range) = info.range.intersect(rest) else { return Ok(true) };
        holes |= range.start() != at || info.kind != Kind::Object;
        if info.kind == Kind::Object {
            f(&Part { range, info })?;
        }
        at = range.end();
    }
    Ok(holes)
}

/// As [`each`], up to the first hole: ENOMEM.
fn each_solid(r: VaRange, mut f: impl FnMut(&Part) -> Result<()>) -> Result<()> {
    let mut at = r.start();
    while let Some(rest) = VaRange::between(at, r.end()) {
        let p = part(rest).ok_or(ENOMEM)?;
        at = p.range.end();
        f(&p)?;
    }
    Ok(())
}

fn va(at: u64) -> Va {
    Va::containing(RawAddr(at))
}

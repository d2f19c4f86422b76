//! RLIMIT_DATA and RLIMIT_MEMLOCK. (RLIMIT_AS and RLIMIT_STACK are the core's.)

use machvm::map::{EntryFlags, EntryInfo, Kind};
use machvm_hal::{PAGE_SIZE, Prot, VaRange};

use super::{each, map};
use crate::errno::{EAGAIN, ENOMEM, EPERM, Errno, Result};
use crate::process::limits::{DATA, INFINITY, MEMLOCK};
use crate::sched;

/// Pages of the parts of `r` that `which` is true of.
fn pages(r: VaRange, which: impl Fn(&EntryInfo) -> bool) -> u64 {
    let mut n = 0;
    let _ = each(r, |p| {
        n += if which(&p.info) { p.range.pages() } else { 0 };
        Ok(())
    });
    n
}

fn everything() -> Option<VaRange> {
    VaRange::between(map().min(), map().max())
}

/// What Linux counts as data: private, writable, no stack.
pub(crate) fn is_data(e: &EntryInfo) -> bool {
    let private = e.attributes.tag == 0 || e.flags.contains(super::FILE);
    let stack = e.flags.contains(EntryFlags::GROWS_DOWN);
    e.kind == Kind::Object && private && !stack && e.attributes.prot.contains(Prot::W)
}

/// May there be so many pages of data more, where those in `over` make room?
pub(super) fn data(more: u64, over: Option<VaRange>) -> Result<()> {
    let limit = sched::process().limit(DATA);
    let (Some(all), false) = (everything(), limit == INFINITY) else { return Ok(()) };
    let now = pages(all, is_data) - over.map_or(0, |r| pages(r, is_data));
    if now + more > limit / PAGE_SIZE { Err(ENOMEM) } else { Ok(()) }
}

/// May the pages of `r` become writable?
pub(super) fn becomes_data(r: VaRange) -> Result<()> {
    if sched::process().limit(DATA) == INFINITY {
        return Ok(());
    }
    let writable = |e: &EntryInfo| {
        let mut e = *e;
        e.attributes.prot |= Prot::W;
        is_data(&e)
    };
    data(pages(r, writable) - pages(r, is_data), None)
}

fn is_locked(e: &EntryInfo) -> bool {
    e.flags.contains(EntryFlags::USER_WIRED)
}

/// Bytes that may be locked; `None`: any (CAP_IPC_LOCK).
fn lockable() -> Option<u64> {
    let p = sched::process();
    let privileged = p.identity.lock().user[1] == 0;
    (!privileged).then(|| p.limit(MEMLOCK)).filter(|l| *l != INFINITY)
}

/// May anything be locked at all?
pub(crate) fn may_lock() -> Result<()> {
    if lockable() == Some(0) { Err(EPERM) } else { Ok(()) }
}

/// May so many pages be locked more? `wrong`: what to say if not.
pub(super) fn locks(more: u64, wrong: Errno) -> Result<()> {
    let (Some(limit), Some(all)) = (lockable(), everything()) else { return Ok(()) };
    if pages(all, is_locked) + more > limit / PAGE_SIZE { Err(wrong) } else { Ok(()) }
}

/// May `r` be locked? What is there already counts once.
pub(super) fn locks_range(r: VaRange) -> Result<()> {
    if lockable().is_none() {
        return Ok(());
    }
    locks(r.pages() - pages(r, is_locked), ENOMEM)
}

/// May all be locked that there is?
pub(super) fn locks_all() -> Result<()> {
    let (Some(limit), Some(all)) = (lockable(), everything()) else { return Ok(()) };
    if pages(all, |_| true) > limit / PAGE_SIZE { Err(ENOMEM) } else { Ok(()) }
}

/// New memory that is to be locked.
pub(super) fn locks_new(pages: u64) -> Result<()> {
    locks(pages, EAGAIN)
}

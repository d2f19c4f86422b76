//! System V shared memory: segments are objects, attaching is mapping them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use machvm::map::{Attributes, Backing, Inherit, Place};
use machvm::object::Object;
use machvm_arena::Handle;
use machvm_hal::{MaySleep, PAGE_SIZE, Pindex, Prot, VaRange};

use super::mmap::anywhere;
use super::{each, find_error, map, round, va};
use crate::embed::the_vm;
use crate::errno::{EEXIST, EINVAL, ENOENT, ENOMEM, Result};
use crate::mapped::SEGMENT;
use crate::mutex::Mutex;
use crate::{sched, user};

const IPC_PRIVATE: u32 = 0;
const IPC_CREAT: u64 = 0o1000;
const IPC_EXCL: u64 = 0o2000;
const IPC_RMID: u64 = 0;
const IPC_SET: u64 = 1;
const IPC_STAT: u64 = 2;
const SHM_RDONLY: u64 = 0o10000;
const SHM_RND: u64 = 0o20000;
const SHM_REMAP: u64 = 0o40000;
const SHM_EXEC: u64 = 0o100_000;
/// SHM_DEST: goes with the last attachment.
const DEST: u32 = 0o1000;

struct Segment {
    key: u32,
    size: u64,
    mode: u32,
    object: Handle<Object>,
    first: Pindex,
    creator: u32,
    last: u32,
    times: [u64; 3],
}

static SEGMENTS: Mutex<BTreeMap<u32, Segment>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU32 = AtomicU32::new(0);
/// Some segment goes with its last attachment.
static DOOMED: AtomicBool = AtomicBool::new(false);

fn seconds() -> u64 {
    crate::fs::real_time_ns() / 1_000_000_000
}

fn tag(id: u32, key: u32) -> u64 {
    SEGMENT | u64::from(key & 0x3fff_ffff) << 32 | u64::from(id)
}

/// Mappings of segment `id` in all processes. => the segments are not locked.
fn attached(id: u32) -> u64 {
    let mut n = 0;
    crate::mapped::each(|_, e| {
        let tag = e.attributes.tag;
        n += u64::from(tag & SEGMENT != 0 && tag & 0xffff_ffff == u64::from(id));
    });
    n
}

/// Segments that were removed and that nobody maps any more go. => no lock is held.
pub(crate) fn sweep() {
    if !DOOMED.load(Ordering::Acquire) {
        return;
    }
    let _big = crate::sched::big::hold();
    let is_doomed = |s: &Segment| s.mode & DEST != 0;
    let doomed: Vec<u32> = SEGMENTS.lock().iter().filter(|(_, s)| is_doomed(s)).map(|(id, _)| *id).collect();
    let free: Vec<u32> = doomed.into_iter().filter(|id| attached(*id) == 0).collect();
    let mut all = SEGMENTS.lock();
    for s in free.iter().filter_map(|id| all.remove(id)) {
        the_vm().object_deallocate(s.object, &mut MaySleep::claim());
    }
    DOOMED.store(all.values().any(is_doomed), Ordering::Release);
}

/// All segments go. => no program has one.
pub(crate) fn forget_segments() {
    for s in core::mem::take(&mut *SEGMENTS.lock()).into_values() {
        the_vm().object_deallocate(s.object, &mut MaySleep::claim());
    }
}

pub(in crate::syscall) fn shmget(key: u64, size: u64, flags: u64) -> Result {
    let key = key as u32;
    let mut all = SEGMENTS.lock();
    if key != IPC_PRIVATE
        && let Some((id, s)) = all.iter().find(|(_, s)| s.key == key && s.mode & DEST == 0)
    {
        if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL {
            return Err(EEXIST);
        }
        return if size > s.size { Err(EINVAL) } else { Ok(i64::from(*id)) };
    }
    if key != IPC_PRIVATE && flags & IPC_CREAT == 0 {
        return Err(ENOENT);
    }
    let bytes = round(size).filter(|b| *b != 0 && *b < 1 << 46).ok_or(EINVAL)?;
    let (object, first) = the_vm().object_allocate(bytes / PAGE_SIZE).map_err(|_| ENOMEM)?;
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let mode = (flags & 0o777) as u32;
    let times = [0, 0, seconds()];
    let creator = sched::process().pid;
    all.insert(id, Segment { key, size, mode, object, first, creator, last: 0, times });
    Ok(i64::from(id))
}

pub(in crate::syscall) fn shmat(id: u64, at: u64, flags: u64) -> Result {
    let id = id as u32;
    let _shared = sched::process().layout.pass();
    let mut all = SEGMENTS.lock();
    let s = all.get_mut(&id).ok_or(EINVAL)?;
    let at = if flags & SHM_RND != 0 { at & !(PAGE_SIZE - 1) } else { at };
    if !at.is_multiple_of(PAGE_SIZE) || flags & SHM_REMAP != 0 && at == 0 {
        return Err(EINVAL);
    }
    let mut prot = Prot::R;
    prot.set(Prot::W, flags & SHM_RDONLY == 0);
    prot.set(Prot::X, flags & SHM_EXEC != 0);
    let a = Attributes { inherit: Inherit::Share, tag: tag(id, s.key), ..Attributes::new(prot) };
    let place = match at {
        0 => Place::Any(anywhere()),
        _ if flags & SHM_REMAP != 0 => Place::Over(va(at)),
        _ => Place::At(va(at)),
    };
    let pages = round(s.size).ok_or(EINVAL)? / PAGE_SIZE;
    the_vm().object_reference(s.object);
    let mut may = MaySleep::claim();
    match map().find(place, pages, Backing::Shared(s.object, s.first), &a, &mut may) {
        Ok(made) => {
            s.times[0] = seconds();
            s.last = sched::process().pid;
            Ok(made.get() as i64)
        }
        Err(e) => {
            the_vm().object_deallocate(s.object, &mut may);
            let e = find_error(e);
            Err(if e == EEXIST { EINVAL } else { e })
        }
    }
}

pub(in crate::syscall) fn shmdt(at: u64) -> Result {
    let all = VaRange::between(va(at), map().max()).filter(|_| at.is_multiple_of(PAGE_SIZE)).ok_or(EINVAL)?;
    let first = super::part(all).filter(|p| p.info.attributes.tag & SEGMENT != 0).ok_or(EINVAL)?;
    let tag = first.info.attributes.tag;
    let id = (tag & 0xffff_ffff) as u32;
    let (start, size) = {
        let mut segments = SEGMENTS.lock();
        let s = segments.get_mut(&id).ok_or(EINVAL)?;
        if first.info.pindex(va(at)) != s.first {
            return Err(EINVAL);
        }
        s.times[1] = seconds();
        s.last = sched::process().pid;
        (s.first, s.size)
    };
    // All pieces of this attachment: those whose place in the segment is as far from its start as their address.
    let r = VaRange::of_pages(va(at), size.div_ceil(PAGE_SIZE)).ok_or(EINVAL)?;
    each(r, |p| {
        let distance = p.range.start().page() - r.start().page();
        if p.info.attributes.tag == tag && p.info.pindex(p.range.start()) == start.add(distance) {
            map().delete(p.range, &mut MaySleep::claim()).map_err(|_| ENOMEM)?;
        }
        Ok(())
    })?;
    sweep();
    Ok(0)
}

pub(in crate::syscall) fn shmctl(id: u64, what: u64, buf: u64) -> Result {
    let id = id as u32;
    let attached = if what & !0x100 == IPC_STAT { attached(id) } else { 0 };
    {
        let mut all = SEGMENTS.lock();
        let s = all.get_mut(&id).ok_or(EINVAL)?;
        match what & !0x100 {
            IPC_STAT => {
                // struct shmid64_ds: the permissions, the size, three times, two processes, attachments.
                let perm = [s.key, 0, 0, 0, 0, s.mode, 0, 0, 0, 0, 0, 0];
                let mut b = alloc::vec::Vec::with_capacity(112);
                perm.iter().for_each(|w| b.extend(w.to_le_bytes()));
                b.extend(s.size.to_le_bytes());
                s.times.iter().for_each(|t| b.extend(t.to_le_bytes()));
                b.extend(s.creator.to_le_bytes());
                b.extend(s.last.to_le_bytes());
                b.extend(attached.to_le_bytes());
                b.resize(112, 0);
                return user::write(buf, &b).map(|()| 0);
            }
            IPC_SET => {
                let mode = user::read_u32(buf + 20)?;
                s.mode = s.mode & DEST | mode & 0o777;
                s.times[2] = seconds();
                return Ok(0);
            }
            IPC_RMID => {
                s.mode |= DEST;
                s.key = IPC_PRIVATE;
                DOOMED.store(true, Ordering::Release);
            }
            // SHM_LOCK and SHM_UNLOCK: segments may be paged out all the same.
            11 | 12 => return Ok(0),
            _ => return Err(EINVAL),
        }
    }
    sweep();
    Ok(0)
}

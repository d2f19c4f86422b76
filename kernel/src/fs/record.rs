//! Record locks (fcntl(2)): ranges of bytes of a file that a process, or an open file, shares or has alone.

use alloc::vec::Vec;

use super::file::File;
use super::inode::Inode;
use crate::errno::{EAGAIN, EDEADLK, ENOLCK, ENOMEM, Errno, Result};
use crate::mutex::Mutex;

/// Who has a lock: the number of a table of descriptors, or the address of an open file. (Numbers are lower.)
pub(crate) type Owner = u64;

/// The owner that an open file is.
pub(crate) fn owner_of(file: &File) -> Owner {
    core::ptr::from_ref(file) as u64
}

/// A lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) owner: Owner,
    /// The process that asked for it; -1: it is an open file's.
    pub(crate) pid: i32,
    pub(crate) start: u64,
    /// The byte behind the last; `u64::MAX`: all that come.
    pub(crate) end: u64,
    /// Nobody else may have any of it.
    pub(crate) alone: bool,
}

impl Record {
    fn is_in_the_way_of(&self, r: &Record) -> bool {
        self.owner != r.owner && self.start < r.end && r.start < self.end && (self.alone || r.alone)
    }
}

/// Most locks of one file.
const MOST: usize = 4096;

/// Who waits for whom, of processes.
static WAITS: Mutex<Vec<(Owner, Owner)>> = Mutex::new(Vec::new());

/// Would `me` wait for itself, if it waited for `other`?
fn is_circle(me: Owner, other: Owner) -> bool {
    let waits = WAITS.lock();
    let mut at = other;
    // A list without a circle is no longer than it is.
    for _ in 0..=waits.len() {
        if at == me {
            return true;
        }
        let Some((_, next)) = waits.iter().find(|(who, _)| *who == at) else { return false };
        at = *next;
    }
    false
}

/// Cuts `[start, end)` out of the locks of `owner`.
fn cut(list: &mut Vec<Record>, owner: Owner, start: u64, end: u64) {
    let mut behind = Vec::new();
    for r in list.iter_mut().filter(|r| r.owner == owner && r.start < end && start < r.end) {
        if r.start < start && end < r.end {
            behind.push(Record { start: end, ..*r });
            r.end = start;
        } else if r.start < start {
            r.end = start;
        } else {
            // Of what is wholly inside nothing is left.
            r.start = end.min(r.end);
        }
    }
    list.retain(|r| r.start < r.end);
    list.extend(behind);
}

/// Adds a lock to those of its owner, and joins what touches.
fn add(list: &mut Vec<Record>, mut new: Record) {
    list.retain(|r| {
        let joins = r.owner == new.owner && r.alone == new.alone && r.start <= new.end && new.start <= r.end;
        if joins {
            (new.start, new.end) = (new.start.min(r.start), new.end.max(r.end));
        }
        !joins
    });
    list.push(new);
}

impl Inode {
    /// What is in the way of a lock.
    pub(crate) fn record_in_the_way(&self, of: &Record) -> Option<Record> {
        self.records.lock().iter().filter(|r| r.is_in_the_way_of(of)).min_by_key(|r| r.start).copied()
    }

    /// Locks; with `wait` until nothing is in the way.
    ///
    /// # Errors
    /// EAGAIN: something is in the way; EDEADLK: who has it waits for the caller; ENOLCK: there are too many; or a
    /// signal came.
    pub(crate) fn lock_record(&self, new: &Record, wait: bool) -> Result<()> {
        let done = self.flock_waiters.until(None, || {
            let mut list = self.records.lock();
            let Some(other) = list.iter().find(|r| r.is_in_the_way_of(new)).map(|r| r.owner) else {
                let room = list.len() + 2 <= MOST && list.try_reserve(2).is_ok();
                if room {
                    cut(&mut list, new.owner, new.start, new.end);
                    add(&mut list, *new);
                }
                return Some(if room { Ok(()) } else { Err(ENOLCK) });
            };
            drop(list);
            if !wait {
                return Some(Err(EAGAIN));
            }
            forget_wait(new.owner);
            if new.pid >= 0 && is_circle(new.owner, other) {
                return Some(Err(EDEADLK));
            }
            note_wait(new.owner, other).err().map(Err)
        });
        if wait {
            forget_wait(new.owner);
        }
        if done.is_ok() {
            // It may be less than before.
            self.flock_waiters.wake();
        }
        done
    }

    /// Unlocks a range.
    pub(crate) fn unlock_record(&self, owner: Owner, start: u64, end: u64) {
        let was = {
            let mut list = self.records.lock();
            let before = list.len();
            cut(&mut list, owner, start, end);
            before != 0
        };
        if was {
            self.flock_waiters.wake();
        }
    }
}

fn note_wait(me: Owner, other: Owner) -> core::result::Result<(), Errno> {
    let mut waits = WAITS.lock();
    waits.try_reserve(1).map_err(|_| ENOMEM)?;
    waits.push((me, other));
    Ok(())
}

fn forget_wait(me: Owner) {
    WAITS.lock().retain(|(who, _)| *who != me);
}

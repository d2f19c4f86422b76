//! futex(2), robust lists, and what the end of a thread does to both.
//!
//! One sleeping lock over all queues: words are looked at with it held, so that no wake-up falls between the look and
//! the place in the queue. Private words are told apart by space and address, words in shared memory by object and
//! offset, so that processes meet there.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use machvm::map::Inherit;
use machvm_hal::{Event, MaySleep, Prot, RawAddr, Va, Woken};

use super::time;
use crate::arch;
use crate::errno::{
    EAGAIN, EDEADLK, EFAULT, EINVAL, ENOSYS, EPERM, ERESTARTNOINTR, ERESTARTSYS, ESRCH, ETIMEDOUT, Result,
};
use crate::mutex::Mutex;
use crate::process::{self, signal};
use crate::sched::{self, Thread};
use crate::user;

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAKE_OP: u64 = 5;
const LOCK_PI: u64 = 6;
const UNLOCK_PI: u64 = 7;
const TRYLOCK_PI: u64 = 8;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const LOCK_PI2: u64 = 13;
const PRIVATE: u64 = 128;
const CLOCK_REALTIME: u64 = 256;

const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID: u32 = 0x3fff_ffff;
/// Most entries of a robust list that are followed.
const ROBUST_LIMIT: u32 = 2048;

type Key = (u64, u64);

/// A thread that waits.
struct Waiter {
    bits: u32,
    /// Of a lock that is handed over: the thread's number.
    thread: u32,
    woken: AtomicBool,
    /// Requeued meanwhile: where it is now is found by looking.
    moved: AtomicU32,
}

impl Waiter {
    fn event(&self) -> Event {
        Event(core::ptr::from_ref(self) as u64 | 2)
    }
    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        sched::wakeup(self.event());
    }
}

type Queues = BTreeMap<Key, VecDeque<Arc<Waiter>>>;
static QUEUES: Mutex<Queues> = Mutex::new(BTreeMap::new());

/// What the word at `at` is known by. => the word's page may be absent.
fn key(at: u64, private: bool) -> Result<Key> {
    if !at.is_multiple_of(4) {
        return Err(EINVAL);
    }
    if at >= arch::USER_END {
        return Err(EFAULT);
    }
    let space = sched::process().space();
    let own = (core::ptr::from_ref(space) as u64, at);
    if private {
        return Ok(own);
    }
    let mut may = MaySleep::claim();
    let found =
        space.map().lookup_held(Va::containing(RawAddr(at)), Prot::R, &mut may).map_err(|_| EFAULT)?;
    match found.object {
        Some(o) if found.entry.attributes.inherit == Inherit::Share => {
            // Odd, unlike a space's address.
            Ok((u64::from(o.get()) << 1 | 1, found.pindex.0 * 4096 + at % 4096))
        }
        _ => Ok(own),
    }
}

pub(super) fn futex(a: [u64; 6]) -> Result {
    let [at, op, value, timeout, second, third] = a;
    let private = op & PRIVATE != 0;
    let value = value as u32;
    let command = op & !(PRIVATE | CLOCK_REALTIME) & 0xffff_ffff;
    if op & CLOCK_REALTIME != 0 && !matches!(command, WAIT_BITSET | LOCK_PI2 | 11) {
        return Err(ENOSYS);
    }
    let deadline = || -> Result<Option<u64>> {
        if timeout == 0 {
            return Ok(None);
        }
        let ns = time::read_timespec(timeout)?;
        Ok(Some(match command {
            WAIT => arch::now_ns().saturating_add(ns),
            LOCK_PI => time::monotonic(time::REALTIME, ns),
            _ if op & CLOCK_REALTIME != 0 => time::monotonic(time::REALTIME, ns),
            _ => ns,
        }))
    };
    match command {
        WAIT => wait(at, private, value, deadline()?, u32::MAX),
        WAIT_BITSET => wait(at, private, value, deadline()?, third as u32),
        WAKE => wake(key(at, private)?, value, u32::MAX),
        WAKE_BITSET => wake(key(at, private)?, value, third as u32),
        REQUEUE => requeue(at, second, private, value, timeout as u32, None),
        CMP_REQUEUE => requeue(at, second, private, value, timeout as u32, Some(third as u32)),
        WAKE_OP => wake_op(at, second, private, value, timeout as u32, third as u32),
        LOCK_PI | LOCK_PI2 => lock(at, private, deadline()?, false),
        TRYLOCK_PI => lock(at, private, None, true),
        UNLOCK_PI => unlock(at, private),
        _ => Err(ENOSYS),
    }
}

fn enqueue(queues: &mut Queues, key: Key, bits: u32) -> Arc<Waiter> {
    let w = Arc::new(Waiter {
        bits,
        thread: sched::current().id(),
        woken: AtomicBool::new(false),
        moved: AtomicU32::new(0),
    });
    queues.entry(key).or_default().push_back(w.clone());
    w
}

/// Takes a waiter out, wherever it is. `false`: it was woken.
fn forget(w: &Arc<Waiter>, key: Key) -> bool {
    let mut queues = QUEUES.lock();
    if w.woken.load(Ordering::Acquire) {
        return false;
    }
    let key = if w.moved.load(Ordering::Relaxed) == 0 {
        Some(key)
    } else {
        queues.iter().find(|(_, q)| q.iter().any(|x| Arc::ptr_eq(x, w))).map(|(k, _)| *k)
    };
    if let Some(key) = key
        && let Some(q) = queues.get_mut(&key)
    {
        q.retain(|x| !Arc::ptr_eq(x, w));
        if q.is_empty() {
            queues.remove(&key);
        }
    }
    true
}

/// Sleeps until woken. Otherwise the waiter is taken out, and the error says why.
fn sleep(w: &Arc<Waiter>, key: Key, deadline: Option<u64>) -> core::result::Result<(), Woken> {
    let woken = || w.woken.load(Ordering::Acquire).then_some(());
    match sched::wait_for(w.event(), deadline, woken) {
        Ok(()) => Ok(()),
        Err(how) => {
            if forget(w, key) {
                Err(how)
            } else {
                Ok(())
            }
        }
    }
}

fn wait(at: u64, private: bool, value: u32, deadline: Option<u64>, bits: u32) -> Result {
    if bits == 0 {
        return Err(EINVAL);
    }
    let key = key(at, private)?;
    let w = {
        let mut queues = QUEUES.lock();
        if user::read_u32(at)? != value {
            return Err(EAGAIN);
        }
        enqueue(&mut queues, key, bits)
    };
    match sleep(&w, key, deadline) {
        Ok(()) => Ok(0),
        Err(Woken::TimedOut) => Err(ETIMEDOUT),
        Err(_) => Err(match deadline {
            None => ERESTARTSYS,
            Some(_) => signal::restart_with(move || wait(at, private, value, deadline, bits)),
        }),
    }
}

fn wake(key: Key, n: u32, bits: u32) -> Result {
    if bits == 0 {
        return Err(EINVAL);
    }
    Ok(wake_in(&mut QUEUES.lock(), key, n, bits))
}

fn wake_in(queues: &mut Queues, key: Key, n: u32, bits: u32) -> i64 {
    let Some(q) = queues.get_mut(&key) else { return 0 };
    let mut woken = 0;
    // A request for none wakes one, as ever.
    let n = i64::from((n as i32).max(1));
    q.retain(|w| {
        let now = woken < n && w.bits & bits != 0;
        if now {
            w.wake();
            woken += 1;
        }
        !now
    });
    if q.is_empty() {
        queues.remove(&key);
    }
    woken
}

fn requeue(at: u64, to: u64, private: bool, wakes: u32, moves: u32, expected: Option<u32>) -> Result {
    if (wakes as i32) < 0 || (moves as i32) < 0 {
        return Err(EINVAL);
    }
    let (from, to) = (key(at, private)?, key(to, private)?);
    let mut queues = QUEUES.lock();
    if let Some(expected) = expected
        && user::read_u32(at)? != expected
    {
        return Err(EAGAIN);
    }
    let mut woken = 0;
    if wakes > 0 {
        woken = wake_in(&mut queues, from, wakes, u32::MAX);
    }
    let mut q = queues.remove(&from).unwrap_or_default();
    let n = q.len().min(moves as usize);
    let moved: Vec<_> = q.drain(..n).collect();
    if !q.is_empty() {
        queues.insert(from, q);
    }
    if n != 0 {
        moved.iter().for_each(|w| w.moved.store(1, Ordering::Relaxed));
        queues.entry(to).or_default().extend(moved);
    }
    // REQUEUE and CMP_REQUEUE both count those moved.
    Ok(woken + n as i64)
}

fn wake_op(at: u64, second: u64, private: bool, n: u32, n2: u32, op: u32) -> Result {
    let (one, two) = (key(at, private)?, key(second, private)?);
    let signed = |v: u32| (v << 20) as i32 >> 20;
    let (mut operand, compared) = (signed(op >> 12 & 0xfff), signed(op & 0xfff));
    if op >> 31 != 0 {
        operand = 1i32.wrapping_shl(operand as u32 & 31);
    }
    let mut queues = QUEUES.lock();
    let old = loop {
        let old = user::read_u32(second)?;
        let o = operand as u32;
        let new = match op >> 28 & 7 {
            0 => o,
            1 => old.wrapping_add(o),
            2 => old | o,
            3 => old & !o,
            4 => old ^ o,
            _ => return Err(ENOSYS),
        };
        if arch::compare_exchange_user(second, old, new).ok_or(EFAULT)? == old {
            break old as i32;
        }
    };
    let holds = match op >> 24 & 0xf {
        0 => old == compared,
        1 => old != compared,
        2 => old < compared,
        3 => old <= compared,
        4 => old > compared,
        5 => old >= compared,
        _ => return Err(ENOSYS),
    };
    let mut woken = wake_in(&mut queues, one, n, u32::MAX);
    if holds {
        woken += wake_in(&mut queues, two, n2, u32::MAX);
    }
    Ok(woken)
}

/// Takes a lock whose word holds the owner's number. There are no priorities to inherit here.
fn lock(at: u64, private: bool, deadline: Option<u64>, only_try: bool) -> Result {
    let key = key(at, private)?;
    let me = sched::current().id();
    loop {
        let mut queues = QUEUES.lock();
        let old = user::read_u32(at)?;
        let owner = old & TID;
        if owner == me {
            return Err(EDEADLK);
        }
        let new = if owner == 0 { me | old & (WAITERS | OWNER_DIED) } else { old | WAITERS };
        if owner != 0 && only_try {
            return Err(EAGAIN);
        }
        if owner != 0 && process::find_thread(owner).is_err() {
            return Err(ESRCH);
        }
        if arch::compare_exchange_user(at, old, new).ok_or(EFAULT)? != old {
            continue;
        }
        if owner == 0 {
            return Ok(0);
        }
        let w = enqueue(&mut queues, key, u32::MAX);
        drop(queues);
        // Who unlocks hands the lock over.
        return match sleep(&w, key, deadline) {
            Ok(()) => Ok(0),
            Err(Woken::TimedOut) => Err(ETIMEDOUT),
            Err(_) => Err(ERESTARTNOINTR),
        };
    }
}

fn unlock(at: u64, private: bool) -> Result {
    let key = key(at, private)?;
    let mut queues = QUEUES.lock();
    if user::read_u32(at)? & TID != sched::current().id() {
        return Err(EPERM);
    }
    hand_over(&mut queues, key, at, 0)
}

/// The word becomes the first waiter's, or nobody's.
fn hand_over(queues: &mut Queues, key: Key, at: u64, flags: u32) -> Result {
    let next = queues.get(&key).and_then(|q| q.front().cloned());
    let more = queues.get(&key).is_some_and(|q| q.len() > 1);
    let new = next.as_ref().map_or(0, |w| w.thread) | if more { WAITERS } else { 0 } | flags;
    loop {
        let old = user::read_u32(at)?;
        if arch::compare_exchange_user(at, old, new).ok_or(EFAULT)? == old {
            break;
        }
    }
    wake_in(queues, key, 1, u32::MAX);
    Ok(0)
}

/// What the end of the running thread means to others that share its memory: its robust locks are free, and who joins
/// it is woken.
pub(crate) fn end_of_thread(t: &Thread) {
    let head = t.robust[0].swap(0, Ordering::Relaxed);
    if head != 0 {
        let _ = free_robust(t, head);
    }
    let clear = t.clear_tid.swap(0, Ordering::Relaxed);
    if clear != 0 && user::write(clear, &0u32.to_le_bytes()).is_ok() {
        for private in [true, false] {
            if let Ok(key) = key(clear, private) {
                let _ = wake(key, 1, u32::MAX);
            }
        }
    }
}

/// Follows the list of robust locks: next, offset of the words, the lock that was being taken.
fn free_robust(t: &Thread, head: u64) -> Result<()> {
    let (offset, pending) = (user::read_u64(head + 8)?, user::read_u64(head + 16)?);
    let mut entry = user::read_u64(head)?;
    for _ in 0..ROBUST_LIMIT {
        if entry & !1 == head {
            break;
        }
        let next = user::read_u64(entry & !1);
        if entry != pending {
            free_one(t, (entry & !1).wrapping_add(offset), entry & 1 != 0, false)?;
        }
        entry = next?;
    }
    if pending & !1 != 0 {
        free_one(t, (pending & !1).wrapping_add(offset), pending & 1 != 0, true)?;
    }
    Ok(())
}

/// Marks a lock of a thread that died; `inherits`: it is one of LOCK_PI's.
fn free_one(t: &Thread, at: u64, inherits: bool, pending: bool) -> Result<()> {
    let (own, shared) = (key(at, true)?, key(at, false)?);
    let mut queues = QUEUES.lock();
    let old = user::read_u32(at)?;
    if pending && !inherits && old == 0 {
        wake_in(&mut queues, shared, 1, u32::MAX);
        return Ok(());
    }
    if old & TID != t.id() {
        return Ok(());
    }
    if inherits && queues.contains_key(&shared) {
        return hand_over(&mut queues, shared, at, OWNER_DIED).map(|_| ());
    }
    let new = old & WAITERS | OWNER_DIED;
    if arch::compare_exchange_user(at, old, new) == Some(old)
        && old & WAITERS != 0
        && wake_in(&mut queues, shared, 1, u32::MAX) == 0
        && own != shared
    {
        wake_in(&mut queues, own, 1, u32::MAX);
    }
    Ok(())
}

//! Serving the program's page faults.
//!
//! A thread of the program that touches an absent or write-protected page waits in
//! the kernel, in user mode or inside a system call; the message comes out of the
//! userfaultfd. One thread reads them: every blocked reader would be woken for every
//! fault. It follows the program from CPU to CPU.
//!
//! A page that cannot be had is *poisoned*: the thread runs into a SIGBUS. Poison is taken away a
//! moment later, by the page daemon's thread, since the page may be had the next time (its file
//! has grown). A thread that was not scheduled by then faults once more.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use machvm::fault::Fault;
use machvm::map::Kind;
use machvm::object::Object;
use machvm::{FaultError, Platform};
use machvm_arena::Handle;
use machvm_hal::{MaySleep, Pindex, Prot, RawAddr, Va, VaRange};

use super::files::{give_up, tell_user};
use super::vmspace::VmSpace;
use crate::follow::Follower;
use crate::{sys, uffd};

/// How long a page stays poisoned at least, in nanoseconds.
const POISON_NS: u32 = 5_000_000;
/// Pages poisoned at a time; what is more stays poisoned.
const POISONED: usize = 4096;

/// What serving faults cost.
#[derive(Default)]
pub(super) struct FaultCounters {
    /// Faults on absent pages, by reads and by writes.
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    /// Writes to protected pages.
    pub(super) protected: AtomicU64,
    /// Faults that could not be resolved.
    pub(super) denied: AtomicU64,
    /// Nanoseconds from message to wake-up.
    pub(super) busy_ns: AtomicU64,
    /// Times the thread moved to another CPU.
    pub(super) moves: AtomicU32,
    /// Pages that are poisoned.
    poisoned: Mutex<Vec<Va>>,
}

/// Reads and serves faults, for ever.
pub(super) fn serve(space: &VmSpace) {
    let mut may = MaySleep::claim();
    let none = uffd::Fault { address: 0, write: false, protected: false, minor: false, tid: 0 };
    let mut messages = [none; 16];
    let mut follower = Follower::new();
    loop {
        let n = match space.platform().pv().uffd().read_faults(&mut messages) {
            Ok(n) => n,
            Err(e) => give_up(&format!("cannot read page faults: {e}")),
        };
        for m in &messages[..n] {
            let begun = Instant::now();
            let c = &space.faults;
            if space.slow.is_started() {
                space.slow.serve(space, m, begun, &mut may);
            } else {
                serve_one(space, m, &mut may);
                c.busy_ns.fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
            }
            let kind = match (m.protected, m.write) {
                (true, _) => &c.protected,
                (false, true) => &c.writes,
                (false, false) => &c.reads,
            };
            kind.fetch_add(1, Relaxed);
            c.moves.fetch_add(follower.served(m.tid).into(), Relaxed);
        }
    }
}

fn serve_one(space: &VmSpace, m: &uffd::Fault, may: &mut MaySleep) {
    uffd::watch(Va::containing(RawAddr(m.address)));
    let (mut place, mut result);
    {
        let _inside = space.enter();
        (place, result) = (None, space.map.fault(&fault_of(m), may));
        if result.is_err_and(is_memory_error) {
            place = place_of(space, m, may);
            result = space.map.fault(&fault_of(m), may);
        }
    }
    answer(space, m, (result, place), may);
}

/// What the map has at an address: an object, and a page of it.
pub(super) type Place = Option<(Handle<Object>, Pindex)>;

pub(super) fn place_of(space: &VmSpace, m: &uffd::Fault, may: &mut MaySleep) -> Place {
    let va = Va::containing(RawAddr(m.address));
    let entry = space.map.entry_from(va, may).filter(|entry| entry.range.contains(va))?;
    Some((entry.object?, entry.pindex(va)))
}

/// Is it the page's contents that cannot be had?
pub(super) fn is_memory_error(e: FaultError) -> bool {
    matches!(e, FaultError::Beyond(_) | FaultError::PagerIo(_) | FaultError::PagerGone(_))
}

/// What the message says.
pub(super) fn fault_of(m: &uffd::Fault) -> Fault {
    let access = if m.write || m.protected { Prot::W } else { Prot::R };
    Fault { addr: RawAddr(m.address), access }
}

/// Lets the thread that waits go on. A memory error comes with the place that was asked for.
///
/// => the calling thread watched the page before it was mapped
pub(super) fn answer(
    space: &VmSpace,
    m: &uffd::Fault,
    (result, place): (Result<(), FaultError>, Place),
    may: &mut MaySleep,
) {
    let va = Va::containing(RawAddr(m.address));
    match result {
        Ok(()) => {}
        Err(e) if is_memory_error(e) => poison(space, m, (e, place), may),
        Err(e) => {
            space.faults.denied.fetch_add(1, Relaxed);
            deny(space, e, may);
        }
    }
    // Mapping the page woke the thread, unless it was there already or is denied.
    if uffd::watched_waits() {
        space.map.pmap().wake(VaRange::page(va));
    }
}

/// A waiting thread cannot be sent a signal; it is made to run into one.
fn deny(space: &VmSpace, e: FaultError, may: &mut MaySleep) {
    match e {
        // The map changed under the access: Linux's own mapping is gone or forbids it,
        // and the thread that tries again gets its signal from Linux.
        FaultError::NoMapping(va) => end_of_stack(space, va, may),
        FaultError::Protection(_) | FaultError::Foreign(_) => {}
        FaultError::Beyond(_) | FaultError::PagerIo(_) | FaultError::PagerGone(_) => {}
        FaultError::NoMemory(va) => {
            space.out_of_memory(va);
        }
    }
}

/// The thread that waits runs into a SIGBUS, if the map still has there what could not be had.
/// Else it just tries again: a thread that faulted twice may have got its signal, and something
/// else in that place, before the second fault is served.
fn poison(space: &VmSpace, m: &uffd::Fault, (e, place): (FaultError, Place), may: &mut MaySleep) {
    let va = Va::containing(RawAddr(m.address));
    let Some(place) = place else { return };
    let poisoned = {
        let held = space.map.lookup_held(va, fault_of(m).access, may);
        let now = held.as_ref().ok().and_then(|l| Some((l.entry.object?, l.pindex)));
        if now != Some(place) {
            return;
        }
        space.map.pmap().poison_absent(va)
    };
    space.faults.denied.fetch_add(1, Relaxed);
    space.lost.note((e, va), place);
    if poisoned.is_err() {
        tell_user(&format!(
            "machvm: the page at {va:?} cannot be read, and this kernel cannot raise SIGBUS for it (UFFDIO_POISON, Linux 6.6): the program is ended\n"
        ));
        space.kill();
    }
    let mut poisoned = space.faults.poisoned.lock().unwrap_or_else(PoisonError::into_inner);
    if poisoned.len() < POISONED {
        poisoned.push(va);
    }
    drop(poisoned);
    space.platform().memory_low(); // wakes the daemon
}

/// A stack that may not grow to `va`: Linux has a mapping there still, and the thread
/// would come back for ever. Without the page it gets SEGV_MAPERR.
fn end_of_stack(space: &VmSpace, va: Va, may: &mut MaySleep) {
    let gap = space.map.entry_from(va, may).is_some_and(|e| e.kind == Kind::StackGap && e.range.contains(va));
    if gap && space.map.delete(VaRange::page(va), may).is_err() {
        tell_user("machvm: no memory to end a stack that grew too far: the program is ended\n");
        space.kill();
    }
}

/// Takes poison away.
fn forgive(space: &VmSpace) {
    let list = std::mem::take(&mut *space.faults.poisoned.lock().unwrap_or_else(PoisonError::into_inner));
    if list.is_empty() {
        return;
    }
    // Those who wait for it see it first.
    sys::nap(POISON_NS);
    for va in list {
        let _inside = space.enter();
        // Harmless where something else is by now: its next access is a fault.
        space.map.pmap().unpoison(va);
    }
}

/// The page daemon, for ever.
pub(super) fn daemon(space: &VmSpace) {
    let mut may = MaySleep::claim();
    loop {
        space.platform().wait_memory_low(&mut may);
        forgive(space);
        loop {
            let _inside = space.enter();
            if space.vm.pageout_to_target(&mut may) == 0 {
                break;
            }
        }
    }
}

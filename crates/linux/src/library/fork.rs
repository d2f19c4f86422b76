//! `fork(2)` of a process that has a VM.
//!
//! Without [`Fork::Follow`] a child has no VM: its calls fail with [`Error::Forked`]. With
//! it the child goes on as a process of its own:
//!
//! ```text
//!   parent, prepare   the gate closes: no call, no fault is under way
//!                     memory that is inherited shared moves into a file of its own (lend)
//!        fork
//!   child             a file and a userfaultfd of its own take the place of the parent's
//!                     what it does not inherit goes; the frames of the rest are copied
//!                     regions are mapped, the page daemon starts (child)
//!   parent, after     waits until the child has copied; the gate opens
//! ```
//! The VM's own structures come to the child by Linux's copy-on-write; frames are copied,
//! since two processes cannot have private copies of the pages of one file. What is paged
//! out is in memory of the VM's own and costs nothing here. A process that only wants to
//! start another program does better with `posix_spawn` or `vfork`, where nothing of this
//! happens: such children use the parent's memory until they exec.
//!
//! A child made by the system call itself (`syscall(SYS_fork)`, `clone` without `CLONE_VM`)
//! passes none of this; it notices and refuses every call.
//!
//! [`Error::Forked`]: super::Error::Forked

mod child;
mod copy;
mod lend;
mod pager;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub(super) use pager::{COMMONS, CommonPager, snapshot};

use machvm_hal::MaySleep;

use super::quiet::{self, Quiet};
use super::{Shared, gate};
use crate::sys;

/// What becomes of a VM in a child of `fork(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fork {
    /// The child has none: every call fails there.
    #[default]
    Refuse,
    /// The child has one of its own, with the first task that was made of it: memory that
    /// is inherited as a copy is copied, what is inherited shared is the same memory in both
    /// processes (it is no longer paged then, nor counted), nothing is there of what is
    /// not inherited. Other tasks are the parent's: their calls fail in the child.
    Follow,
}

/// How long a parent waits for its child to copy, in milliseconds. One that takes longer
/// is stopped, not slow.
const PATIENCE: i32 = 60_000;

/// What the forking thread has to remember.
struct Plan {
    mask: libc::sigset_t,
    followers: Vec<(Arc<Shared>, Result<(), String>)>,
    /// The parent's end and the child's.
    ends: io::Result<(OwnedFd, OwnedFd)>,
}

/// Systems that follow forks. Locked inside the gate only, so never at a fork.
static FOLLOWERS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());
/// How many there are.
static FOLLOWING: AtomicU32 = AtomicU32::new(0);
/// Of the thread that has closed the gate.
static PLAN: Mutex<Option<Plan>> = Mutex::new(None);
/// Called in every child, before memory is copied.
static HOOKS: Mutex<Vec<fn()>> = Mutex::new(Vec::new());
/// The number that this process has, or (in a child, for a moment) its parent.
static GENERATION: AtomicU32 = AtomicU32::new(1);

thread_local! {
    /// This thread is forking, and [`PLAN`] is its own.
    static PLANNED: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `hook` is called in children of `fork(2)` that follow, once the other tasks are gone and
/// before memory is copied: what it lets go of is not copied.
pub fn in_child(hook: fn()) {
    let _quiet = Quiet::new();
    lock(&HOOKS).push(hook);
}

/// Forks will be noticed.
pub(super) fn install() -> io::Result<()> {
    // SAFETY: the functions are there as long as the program.
    match unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child_of_fork)) } {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(e)),
    }
}

/// The system is to follow forks until it is dropped.
///
/// => inside the gate.
pub(super) fn follow(shared: &Arc<Shared>) {
    let mut all = lock(&FOLLOWERS);
    all.retain(|w| w.strong_count() != 0);
    all.push(Arc::downgrade(shared));
    FOLLOWING.store(all.len() as u32, SeqCst);
}

extern "C" fn prepare() {
    // Without a VM that follows there is nothing to do. A pager that forks while the VM
    // waits for it has a child without one.
    if FOLLOWING.load(SeqCst) == 0 || quiet::inside() != 0 {
        return;
    }
    let mask = quiet::block();
    gate::close();
    let _quiet = Quiet::new();
    // One that could not follow an earlier fork is another process's.
    let ours = |s: &Arc<Shared>| !s.is_forked();
    let followers: Vec<_> = lock(&FOLLOWERS).iter().filter_map(Weak::upgrade).filter(ours).collect();
    let ready = |s: Arc<Shared>| {
        // What waits to be freed would be copied.
        s.vm.free_all_replaced(&mut MaySleep::claim());
        let done = lend::lend(&s);
        (s, done)
    };
    let followers = followers.into_iter().map(ready).collect();
    *lock(&PLAN) = Some(Plan { mask, followers, ends: pair() });
    PLANNED.set(true);
}

/// The plan of this thread, once.
fn planned() -> Option<Plan> {
    PLANNED.replace(false).then(|| lock(&PLAN).take()).flatten()
}

extern "C" fn parent() {
    let Some(plan) = planned() else { return };
    if let Ok((ours, theirs)) = plan.ends {
        drop(theirs);
        wait(ours.as_raw_fd());
    }
    gate::open();
    // A system may end with its last reference.
    drop(plan.followers);
    quiet::restore(&plan.mask);
}

extern "C" fn child_of_fork() {
    let number = GENERATION.fetch_add(1, Relaxed) + 1;
    let Some(plan) = planned() else { return quiet::set_generation(number) };
    {
        let _quiet = Quiet::new();
        let theirs = plan.ends.map(|(_, theirs)| theirs).map_err(|e| format!("a socket for the parent: {e}"));
        let mut followed = Vec::new();
        for (shared, lent) in &plan.followers {
            match lent.clone().and_then(|()| child::follow(shared)) {
                Ok(()) => followed.push(shared),
                Err(why) => complain(&why),
            }
        }
        match theirs.and_then(|end| tell(end.as_raw_fd())) {
            Ok(()) => followed.iter().for_each(|s| s.generation.store(number, Relaxed)),
            Err(why) => complain(&why),
        }
    }
    quiet::set_generation(number);
    gate::open();
    drop(plan.followers);
    quiet::restore(&plan.mask);
}

/// Standard error is all there is: `fork` has succeeded.
fn complain(why: &str) {
    let text = format!("machvm: this child of fork(2) has no VM: {why}\n");
    // SAFETY: the text is valid for its length.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

/// Two ends: who holds the one learns of it when the other goes.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made them for us alone.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Until the child has copied, or is no more.
fn wait(end: RawFd) {
    let start = sys::monotonic_ns();
    loop {
        let gone = ((sys::monotonic_ns() - start) / 1_000_000) as i32;
        let mut poll = libc::pollfd { fd: end, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd.
        let n = unsafe { libc::poll(&raw mut poll, 1, (PATIENCE - gone.min(PATIENCE)).max(0)) };
        if n >= 0 || sys::errno() != libc::EINTR {
            return; // it says so, or its end is closed; or it finds ours closed
        }
    }
}

/// The parent goes on; it must have waited until now.
fn tell(end: RawFd) -> Result<(), String> {
    // SAFETY: one byte.
    match unsafe { libc::send(end, [1u8].as_ptr().cast(), 1, libc::MSG_NOSIGNAL) } {
        1 => Ok(()),
        _ => Err(format!("the parent did not wait: {}", io::Error::last_os_error())),
    }
}

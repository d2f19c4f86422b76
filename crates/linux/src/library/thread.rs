//! Faults arrive as messages, and a thread serves them.
//!
//! The thread that faulted waits in the kernel, in user mode or inside a system call, so
//! that system calls can be given absent memory. One thread reads: every blocked reader
//! would be woken for every fault. It follows those that fault from CPU to CPU.
//!
//! A waiting thread cannot be sent a signal, nor can its system call be made to fail. What
//! the protection forbids, Linux's mapping forbids too, and it does not come here at all.
//! What only the map denies (nothing left in the pager, no memory, reading what may only be
//! written) is *poisoned*: the thread runs into a SIGBUS whose handler asks the map again,
//! for the signal that is due; its system call fails with EFAULT. Poison stays for a few
//! milliseconds, long enough for whoever waited; who came later waits again.
//!
//! Rules for what runs here: nothing is allocated while serving. The waiting thread may be
//! in a signal handler that interrupted the allocator.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use machvm::FaultError;
use machvm_hal::{Prot, VaRange};

use super::platform::Hosted;
use super::{gate, quiet, table};
use crate::follow::Follower;
use crate::uffd::{self, Uffd};
use crate::{sys, uffd::page_of};

/// How long a page stays poisoned, in milliseconds. A thread that is not scheduled within
/// that time faults again and is denied again.
const POISON_MS: u64 = 5;
/// How long a fault that meets a fork is kept from coming again.
const FORK_NAP_NS: u32 = 100_000;
/// Pages poisoned at a time; a further one takes the place of the oldest.
const POISONED: usize = 64;

/// The thread, until dropped.
#[derive(Debug)]
pub(super) struct FaultThread {
    thread: Option<JoinHandle<()>>,
    /// An eventfd: written to, it ends the thread.
    bell: Arc<OwnedFd>,
}

impl FaultThread {
    /// Starts serving the faults of the tasks of `vm`.
    ///
    /// => signals from outside are blocked, and so they are in the thread.
    pub(super) fn start(vm: &Arc<machvm::Vm<Hosted>>) -> io::Result<Self> {
        // SAFETY: takes numbers.
        let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if bell < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: new, and ours.
        let bell = Arc::new(unsafe { OwnedFd::from_raw_fd(bell) });
        let (vm, ours) = (Arc::clone(vm), Arc::clone(&bell));
        let thread = std::thread::Builder::new().name("machvm-faults".into());
        let thread = thread.spawn(move || {
            Server { uffd: vm.platform().uffd(), denied: Denied::new(), follower: Follower::new() }
                .serve(&ours)
        })?;
        Ok(FaultThread { thread: Some(thread), bell })
    }

    /// In the child of a fork, where the thread is not: what it had goes.
    pub(super) fn forget(mut self, vm: &Arc<machvm::Vm<Hosted>>) {
        core::mem::forget(self.thread.take());
        // SAFETY: `start` gave the thread one reference on each. The descriptor that is
        // closed with the last one is this process's only.
        unsafe {
            Arc::decrement_strong_count(Arc::as_ptr(vm));
            Arc::decrement_strong_count(Arc::as_ptr(&self.bell));
        }
    }
}

impl Drop for FaultThread {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let one = 1u64;
        // SAFETY: eight bytes. It cannot fail: the counter was 0.
        unsafe { libc::write(self.bell.as_raw_fd(), (&raw const one).cast(), 8) };
        let ended = thread.join();
        debug_assert!(ended.is_ok(), "the thread that serves faults panicked");
    }
}

struct Server<'a> {
    uffd: &'a Uffd,
    denied: Denied,
    follower: Follower,
}

impl Server<'_> {
    fn serve(&mut self, bell: &OwnedFd) {
        let none = uffd::Fault { address: 0, write: false, protected: false, minor: false, tid: 0 };
        let mut messages = [none; 16];
        let wait = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut on = [wait(self.uffd.raw()), wait(bell.as_raw_fd())];
        loop {
            // SAFETY: two structures, for the length of the call.
            unsafe { libc::poll(on.as_mut_ptr(), 2, self.denied.patience()) };
            if on[1].revents != 0 {
                return;
            }
            let n = match self.uffd.read_faults(&mut messages) {
                Ok(n) => n,
                // Nobody could go on: whoever faults would wait for ever.
                Err(_) => std::process::abort(),
            };
            for m in &messages[..n] {
                self.serve_one(m);
                self.follower.served(m.tid);
            }
            self.denied.forgive(sys::monotonic_ns());
        }
    }

    fn serve_one(&mut self, m: &uffd::Fault) {
        let va = page_of(m.address);
        let Some(_pass) = gate::try_enter(m.tid) else {
            // A fork is under way, by another thread. That one's faults may be behind this
            // one in the queue, so whoever waits here asks again.
            sys::nap(FORK_NAP_NS);
            return self.uffd.wake(VaRange::page(va));
        };
        uffd::watch(va);
        if let Some(found) = table::find(m.address) {
            let core = found.core();
            quiet::set_inside(m.address);
            let access = if m.write || m.protected { Prot::W } else { Prot::R };
            let served = match core.fault(m.address, access) {
                // A message does not tell a fetch from a read.
                Err(FaultError::Protection(_)) if access == Prot::R => core.fault(m.address, Prot::X),
                r => r,
            };
            if served.is_err() {
                core.poison(m.address);
                self.denied.add(m.address);
            }
            quiet::set_inside(0);
        }
        // Mapping the page woke the thread, unless it was there already or is denied. What
        // is no task's (any more) Linux denies.
        if uffd::watched_waits() {
            self.uffd.wake(VaRange::page(va));
        }
    }
}

/// The poisoned pages: an address in each, and when it is forgiven.
struct Denied {
    pages: [(u64, u64); POISONED],
    len: usize,
}

impl Denied {
    fn new() -> Self {
        Denied { pages: [(0, 0); POISONED], len: 0 }
    }

    /// What `poll` may wait, in milliseconds.
    fn patience(&self) -> i32 {
        if self.len == 0 { -1 } else { POISON_MS as i32 }
    }

    fn add(&mut self, addr: u64) {
        if self.len == POISONED {
            // The thread is inside the gate.
            self.forgive(self.pages[0].1);
            if self.len == POISONED {
                return; // stays poisoned until it is touched
            }
        }
        self.pages[self.len] = (addr, sys::monotonic_ns() + POISON_MS * 1_000_000);
        self.len += 1;
    }

    /// Unpoisons what was poisoned long enough ago.
    fn forgive(&mut self, now: u64) {
        let due = self.pages[..self.len].iter().take_while(|p| p.1 <= now).count();
        if due == 0 {
            return;
        }
        // Later, if the process forks now: the poll has a timeout while there are some.
        let Some(_pass) = gate::try_enter(0) else { return };
        for (addr, _) in &self.pages[..due] {
            // A task that came to these addresses since is not harmed.
            if let Some(found) = table::find(*addr) {
                found.core().unpoison(*addr);
            }
        }
        self.pages.copy_within(due..self.len, 0);
        self.len -= due;
    }
}

//! What is asked for with a page, and waiting for it (the request of `vm_page_alloc`, P29).

use machvm_hal::{Host, MaySleep};

use super::{FREE_EVENT, FrameClass, LIMBO_EVENT};
use crate::platform::Platform;
use crate::vm::Vm;

/// What to do when no page can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Page out and sleep until there is one (`VM_ALLOC_WAITOK`). Fails only when nothing can
    /// be paged out any more, or the platform has no memory for structures.
    Ok,
    /// Page out and sleep once, then fail (`VM_ALLOC_WAITFAIL`): whoever looked anything up
    /// before looks again.
    Fail,
    /// Fail at once (`VM_ALLOC_NOWAIT`); busy pages are not waited for either.
    No,
}

/// How a page is asked for (`VM_ALLOC_*`). What the bits NOBUSY, SBUSY and WIRED ask for is
/// done with the page that comes back: [`super::XBusy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// How far down the pool it may go.
    pub class: FrameClass,
    /// What to do when there is none.
    pub wait: Wait,
    /// A new page is filled with zero and valid (`VM_ALLOC_ZERO`). Always honoured.
    pub zero: bool,
}

impl Request {
    /// `VM_ALLOC_NORMAL`, waiting.
    pub const NORMAL: Self = Request { class: FrameClass::Normal, wait: Wait::Ok, zero: false };
    /// `VM_ALLOC_SYSTEM`, not waiting.
    pub const SYSTEM: Self = Request { class: FrameClass::System, wait: Wait::No, zero: false };
    /// `VM_ALLOC_INTERRUPT`, not waiting.
    pub const INTERRUPT: Self = Request { class: FrameClass::Interrupt, wait: Wait::No, zero: false };

    /// The same with another answer to a shortage.
    #[must_use]
    pub const fn waiting(self, wait: Wait) -> Self {
        Request { wait, ..self }
    }
    /// The same for a page of zeroes.
    #[must_use]
    pub const fn zeroed(self) -> Self {
        Request { zero: true, ..self }
    }
}

/// Rounds of making room for one request; other threads may take what was freed.
const ROUNDS: u32 = 1000;
/// Rounds that freed nothing, after which a request fails.
const STARVED: u32 = 3;

/// How often a request was tried, and how often nothing could be freed for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tries {
    rounds: u32,
    starved: u32,
}

impl Tries {
    /// A request that waits once has waited.
    pub(crate) fn is_over(&self) -> bool {
        self.rounds > 1
    }
}

impl<P: Platform> Vm<P> {
    /// There was no page: makes room as the request says. `false`: give up.
    ///
    /// => nothing is locked; other pages may be busy (the daemon passes over them).
    pub(crate) fn page_retry(&self, wait: Wait, tries: &mut Tries, may: &mut MaySleep) -> bool {
        tries.rounds += 1;
        match wait {
            Wait::No => false,
            Wait::Fail => {
                self.make_room(may);
                false
            }
            Wait::Ok => {
                tries.starved = if self.make_room(may) { 0 } else { tries.starved + 1 };
                tries.starved <= STARVED && tries.rounds < ROUNDS && !self.is_exhausted()
            }
        }
    }

    /// Sleeps until frames whose last users are just letting go are free (sparse).
    pub(crate) fn wait_limbo(&self, _may: &mut MaySleep) {
        machvm_sync::assert_may_sleep();
        let host = self.host();
        let t = host.assert_wait(LIMBO_EVENT);
        if self.limbo_is_empty() {
            host.cancel_wait(t);
        } else {
            // The deadline only turns a lost wake-up into a delay.
            host.thread_block(t, Some(host.now_ns() + 50_000_000));
        }
    }

    /// Sleeps until a page is free for programs (`vm_wait`, `vm_waitpfault`); returns at
    /// once when one is. Wakes the daemon first, and pages nothing out itself.
    ///
    /// => nothing is locked, and the caller is not the daemon, which would wait for itself
    ///    (Z82).
    pub fn vm_wait(&self, _may: &mut MaySleep) {
        machvm_sync::assert_may_sleep();
        let host = self.host();
        loop {
            self.plat.memory_low();
            let t = host.assert_wait(FREE_EVENT);
            if !self.frames_mark_waiting() {
                host.cancel_wait(t);
                return;
            }
            host.thread_block(t, Some(host.now_ns() + 50_000_000));
        }
    }

    /// Are there so few free pages that a program should wait (`vm_page_count_min`)? A
    /// quarter of what wakes the daemon.
    pub fn vm_page_count_min(&self) -> bool {
        self.frames.free() < self.frames.low() / 4
    }

    /// Are there nearly none (`vm_page_count_severe`)? Half of [`Vm::vm_page_count_min`].
    pub fn vm_page_count_severe(&self) -> bool {
        self.frames.free() < self.frames.low() / 8
    }

    /// Wakes the page daemon if there is one (`pagedaemon_wakeup`).
    pub fn pagedaemon_wakeup(&self) {
        self.plat.memory_low();
    }
}

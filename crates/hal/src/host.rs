//! What the embedding kernel, Linux or the test machine provides.

/// A CPU number, dense from zero. In user space only a hint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuId(pub u16);

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuSet(pub u64);

/// Something a thread waits for: the identity of a page, a lock, or the free
/// list. Never dereferenced; two equal values are the same event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Event(pub u64);

/// Why [`Host::thread_block`] came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// The event happened (or the wake-up was spurious: look again).
    Event,
    /// The thread was asked to stop waiting.
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

/// The right to sleep. Every call that can block takes `&mut MaySleep`.
///
/// One is claimed at the outermost entry (trap handler, system call, handler
/// thread), where the caller knows that no spin lock is held; in debug builds
/// the lock layer checks that at every wait.
#[derive(Debug)]
pub struct MaySleep(());

impl MaySleep {
    /// Claims the right to sleep.
    ///
    /// => the caller holds no spin lock and no lock of this crate's users.
    #[must_use]
    pub const fn claim() -> Self {
        MaySleep(())
    }
}

/// Sleep, wake-up, time and CPU identity.
///
/// Waiting is Mach's two-step `assert_wait` / `thread_block`: a wake-up between
/// the check of the condition and the block is never lost, and no interlock
/// argument is needed.
pub trait Host: Sync {
    /// A place in the queue of an event.
    type Ticket;

    /// The CPU this thread runs on, at the moment of the call.
    fn cpu(&self) -> CpuId {
        CpuId(0)
    }
    /// Monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;

    /// Enters the queue of `ev`. From here on a wake-up of `ev` is not lost.
    fn assert_wait(&self, ev: Event) -> Self::Ticket;
    /// Sleeps until `ev` is woken, or the deadline (absolute nanoseconds) passes.
    fn thread_block(&self, t: Self::Ticket, deadline_ns: Option<u64>) -> Woken;
    /// Leaves the queue without sleeping.
    fn cancel_wait(&self, t: Self::Ticket);
    /// Wakes every thread that waits for `ev`.
    fn thread_wakeup(&self, ev: Event);

    /// Has this thread switched its faults off (F10, Z96)? A switch that nests, for code that
    /// must not sleep: the host keeps it, for each thread.
    fn faults_disabled(&self) -> bool {
        false
    }

    /// May this thread take frames of the reserve, and never waits for page-out (Z83,
    /// `vm_privilege`)? The thread that pages out may, and with it the code of pagers and swap
    /// that it calls; a pager's own threads may say so too.
    fn is_privileged(&self) -> bool {
        false
    }
    /// Gives this thread that right, or takes it; gives what it had. A host whose pagers touch
    /// no memory that is paged need not keep it.
    fn set_privileged(&self, _on: bool) -> bool {
        false
    }
}

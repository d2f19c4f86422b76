//! A thread: its stack, its registers, and what belongs to it alone.

use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use machvm_hal::{PAGE_SIZE, Woken};

use super::{SCHED, after_switch, current, make_ready};
use crate::arch::{self, Context, FpuState, Frame};
use crate::kva;
use crate::lock::NoInterrupts;
use crate::mutex::Mutex;
use crate::process::Process;
use crate::process::rseq::Registered;
use crate::process::signal::OfThread;

/// Pages of a kernel stack.
const STACK_PAGES: u64 = 12;
static THREADS: AtomicU32 = AtomicU32::new(0);
static NEXT_ID: AtomicU32 = AtomicU32::new(1);
/// In [`Thread::cpu`]: it does not run.
pub(super) const NOWHERE: u16 = u16::MAX;

/// What a thread does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Runs, or is ready.
    Runnable,
    /// Is in the queue of an event, and runs still.
    Asserted,
    /// Sleeps.
    Blocked,
    /// Will not run again.
    Dead,
}

/// What the scheduler's lock guards of a thread.
pub(super) struct Inner {
    pub(super) state: State,
    pub(super) event: u64,
    pub(super) deadline: u64,
    pub(super) interruptible: bool,
    pub(super) woken: Woken,
    pub(super) next: *mut Thread,
    pub(super) slice: u32,
}

/// A thread, of a process or of the kernel.
pub(crate) struct Thread {
    pub(super) number: AtomicU32,
    /// Its process, if it is a program's.
    pub(crate) process: Option<Arc<Process>>,
    pub(super) context: UnsafeCell<Context>,
    pub(super) stack: u64,
    pub(super) inner: UnsafeCell<Inner>,
    pub(super) fpu: UnsafeCell<Option<Box<FpuState>>>,
    /// Base of FS.
    pub(crate) fs: AtomicU64,
    /// What it blocks and what waits for it.
    pub(crate) signals: OfThread,
    /// Counts of the clock that it ran for, and when it began to run last.
    pub(super) ran: AtomicU64,
    pub(super) since: AtomicU64,
    /// The CPU that it runs on, or [`NOWHERE`]; written with the scheduler's lock held.
    pub(super) cpu: AtomicU16,
    /// CPUs that it may run on, as bits.
    pub(super) allowed: AtomicU64,
    /// It holds the big lock. Its own.
    pub(super) big: AtomicBool,
    /// Ticks of the timer that found it in its program, and in the kernel.
    pub(super) ticks: [AtomicU64; 2],
    /// Signals that ticks made due (ITIMER_VIRTUAL, ITIMER_PROF).
    pub(crate) due: AtomicU64,
    /// What prctl(PR_SET_NAME) called it.
    pub(crate) name: Mutex<Option<Vec<u8>>>,
    /// Its list of robust futexes: address, size.
    pub(crate) robust: [AtomicU64; 2],
    /// Its restartable sequences.
    pub(crate) rseq: Registered,
    /// Where a zero is written and a futex woken when it ends (`set_tid_address`).
    pub(crate) clear_tid: AtomicU64,
    /// It shall end before it runs its program again.
    pub(crate) doomed: AtomicBool,
    /// It pages out: it may take frames of the reserve.
    pub(crate) privileged: AtomicBool,
    /// The first frame of a new thread.
    pub(super) start: UnsafeCell<Frame>,
}

// SAFETY: `inner` is touched with the scheduler's lock held; `context`, `fpu` and `start` by the thread itself, and by
// who made it before it ran; the switch to it comes after both.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

impl Thread {
    /// => the scheduler's lock is held.
    #[expect(clippy::mut_from_ref, reason = "the lock makes it the only one")]
    pub(super) fn inner(&self) -> &mut Inner {
        // SAFETY: by the lock.
        unsafe { &mut *self.inner.get() }
    }

    pub(super) fn make(
        process: Option<Arc<Process>>,
        id: u32,
        entry: extern "C" fn(usize) -> !,
        argument: usize,
    ) -> Option<Arc<Thread>> {
        super::bury();
        let stack = take_stack()?;
        let top = stack + STACK_PAGES * PAGE_SIZE;
        // SAFETY: a stack of our own.
        let context = unsafe { Context::new(top, entry, argument) };
        let fpu = process.is_some().then(|| Box::new(FpuState::new()));
        let inner = Inner {
            state: State::Runnable,
            event: 0,
            deadline: 0,
            interruptible: false,
            woken: Woken::Event,
            next: null_mut(),
            slice: 0,
        };
        THREADS.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Thread {
            number: AtomicU32::new(id),
            process,
            context: UnsafeCell::new(context),
            stack,
            inner: UnsafeCell::new(inner),
            fpu: UnsafeCell::new(fpu),
            fs: AtomicU64::new(0),
            signals: OfThread::new(),
            ran: AtomicU64::new(0),
            since: AtomicU64::new(0),
            cpu: AtomicU16::new(NOWHERE),
            allowed: AtomicU64::new(u64::MAX),
            big: AtomicBool::new(false),
            ticks: [const { AtomicU64::new(0) }; 2],
            due: AtomicU64::new(0),
            name: Mutex::new(None),
            robust: [const { AtomicU64::new(0) }; 2],
            rseq: Registered::none(),
            clear_tid: AtomicU64::new(0),
            doomed: AtomicBool::new(false),
            privileged: AtomicBool::new(false),
            start: UnsafeCell::new(Frame::default()),
        }))
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }
    /// It takes the number of the thread that led the process (exec).
    pub(crate) fn set_id(&self, id: u32) {
        self.number.store(id, Ordering::Relaxed);
    }
    /// Counts of the clock that it ran for so far.
    pub(crate) fn ran(&self) -> u64 {
        let ran = self.ran.load(Ordering::Relaxed);
        if self.cpu.load(Ordering::Relaxed) != NOWHERE {
            ran + arch::ticks().wrapping_sub(self.since.load(Ordering::Relaxed))
        } else {
            ran
        }
    }
    /// Ticks of the timer in its program, and in the kernel.
    pub(crate) fn ticks(&self) -> [u64; 2] {
        core::array::from_fn(|i| self.ticks[i].load(Ordering::Relaxed))
    }
    /// The CPUs that it may run on.
    pub(crate) fn cpus(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed) & super::online()
    }
    /// May it take frames of the reserve? Who pages out may, and who is on the way out.
    pub(crate) fn is_privileged(&self) -> bool {
        self.privileged.load(Ordering::Relaxed) || self.doomed.load(Ordering::Relaxed)
    }
    /// Does it wait for this signal (sigtimedwait)?
    pub(crate) fn awaits(&self, signal: u32) -> bool {
        self.signals.awaited.load(Ordering::Relaxed) & crate::process::signal::bit(signal) != 0
    }

    /// A thread of the kernel that runs `entry`; it is ready at once.
    pub(crate) fn kernel(entry: fn() -> !) -> Option<()> {
        let t = Thread::make(None, 0, kernel_steps, entry as usize)?;
        make_ready(t);
        Some(())
    }

    /// A thread of a program that begins with `frame`; not ready yet. `like`: whose registers and masks it inherits.
    pub(crate) fn user(
        process: Arc<Process>,
        id: u32,
        frame: &Frame,
        like: Option<&Thread>,
    ) -> Option<Arc<Thread>> {
        let t = Thread::make(Some(process), id, first_steps, 0)?;
        // SAFETY: nobody runs it yet.
        unsafe {
            *t.start.get() = *frame;
            if let Some(from) = like {
                t.allowed.store(from.allowed.load(Ordering::Relaxed), Ordering::Relaxed);
                t.fs.store(from.fs.load(Ordering::Relaxed), Ordering::Relaxed);
                t.signals.set_mask(from.signals.mask.load(Ordering::Relaxed));
                if let (Some(to), Some(_)) = (&mut *t.fpu.get(), &*from.fpu.get()) {
                    // `from` is the running thread: its registers are in the CPU.
                    to.save();
                }
            }
        }
        Some(t)
    }

    /// The vector registers of the running thread are as at a program's start.
    pub(crate) fn reset_fpu(&self) {
        let _off = NoInterrupts::new();
        // SAFETY: the running thread's own.
        if let Some(fpu) = unsafe { &mut *self.fpu.get() } {
            **fpu = FpuState::new();
            fpu.load();
        }
    }
    /// Copies the running thread's vector registers out. => `self` runs.
    pub(crate) fn read_vectors(&self, to: &mut [u8]) {
        let _off = NoInterrupts::new();
        // SAFETY: the running thread's own.
        if let Some(fpu) = unsafe { &mut *self.fpu.get() } {
            fpu.save();
            to.copy_from_slice(&fpu.bytes()[..to.len()]);
        }
    }
    /// Loads the running thread's vector registers from a program's copy. => `self` runs.
    pub(crate) fn write_vectors(&self, from: &[u8]) {
        let _off = NoInterrupts::new();
        // SAFETY: the running thread's own.
        if let Some(fpu) = unsafe { &mut *self.fpu.get() } {
            **fpu = FpuState::from_program(from);
            fpu.load();
        }
    }
    /// The top of its kernel stack.
    pub(super) fn stack_top(&self) -> u64 {
        self.stack + STACK_PAGES * PAGE_SIZE
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        give_stack(self.stack);
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread of the kernel begins.
extern "C" fn kernel_steps(entry: usize) -> ! {
    after_switch();
    arch::interrupts_restore(true);
    // SAFETY: `Thread::kernel` put a function of this type there.
    let entry = unsafe { core::mem::transmute::<usize, fn() -> !>(entry) };
    entry()
}

/// A program's thread begins.
extern "C" fn first_steps(_: usize) -> ! {
    after_switch();
    let t = current();
    // SAFETY: this thread's own.
    let frame = unsafe { *t.start.get() };
    crate::trap::leave(frame)
}

/// Threads there are, those of the kernel too.
pub(crate) fn threads() -> u32 {
    THREADS.load(Ordering::Relaxed)
}

/// A number for a thread or a process.
pub(crate) fn new_id() -> u32 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

fn take_stack() -> Option<u64> {
    let again = SCHED.with(|l| {
        let s = l.stacks;
        if s != 0 {
            // SAFETY: the first word of a stack that nobody uses leads to the next.
            l.stacks = unsafe { (s as *const u64).read() };
        }
        s
    });
    if again != 0 { Some(again) } else { kva::allocate(STACK_PAGES).map(|p| p as u64) }
}
fn give_stack(stack: u64) {
    SCHED.with(|l| {
        // SAFETY: as above.
        unsafe { (stack as *mut u64).write(l.stacks) };
        l.stacks = stack;
    });
}

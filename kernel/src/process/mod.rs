//! Processes: a space, threads, files, a family.

pub(crate) mod clone;
pub(crate) mod exec;
pub(crate) mod exit;
pub(crate) mod group;
pub(crate) mod limits;
pub(crate) mod rseq;
pub(crate) mod signal;
pub(crate) mod timer;
pub(crate) mod wait;

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use machvm::vmspace::VmSpace;
use machvm_hal::{CpuId, Event, MaySleep, Pmap as _, RawAddr, Va, VaRange};

use crate::arch::{self, Frame};
use crate::command_line::First;
use crate::embed::{Kernel, Pmap, pmaps, unload_pmap};
use crate::errno::{ENOMEM, ESRCH, Result};
use crate::fs::{self, Files};
use crate::lock::NoInterrupts;
use crate::mutex::{Gate, Mutex};
use crate::sched::{self, Thread};

pub(crate) use exit::{end_thread_with, exit_group};

/// A process's memory.
pub(crate) type Space = VmSpace<'static, Kernel>;

/// User and group numbers: real, effective, saved, of files.
#[derive(Clone, Default, Debug)]
pub(crate) struct Identity {
    /// Of the user.
    pub(crate) user: [u32; 4],
    /// Of the group.
    pub(crate) group: [u32; 4],
    /// Further groups.
    pub(crate) groups: Vec<u32>,
}

/// What a program was started with: strings with a zero behind each, and the auxiliary vector.
#[derive(Default, Debug)]
pub(crate) struct Texts {
    pub(crate) arguments: Vec<u8>,
    pub(crate) environment: Vec<u8>,
    pub(crate) auxiliary: Vec<u8>,
}

/// A process.
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: u32,
    /// Its memory: the pointer is the owner's, or null when the memory was given up.
    space: AtomicPtr<Space>,
    owner: Mutex<Option<Arc<Space>>>,
    /// Threads that are ready, run or wait, until the CPU on which they end has left its memory.
    running: AtomicU32,
    /// Passed by calls that take free addresses in one step, closed by those that need several: what these find free, or
    /// make free, is nobody else's before they have used it.
    pub(crate) layout: Gate,
    /// Its threads that have not ended.
    pub(crate) threads: Mutex<Vec<Arc<Thread>>>,
    /// Open files and the current directory.
    pub(crate) files: Arc<Mutex<Files>>,
    /// What it is called.
    pub(crate) name: Mutex<String>,
    /// The path of its program.
    program: Mutex<String>,
    texts: Mutex<Arc<Texts>>,
    /// Start and end of the heap that brk grows.
    pub(crate) heap: Mutex<(u64, u64)>,
    /// Its group's and its session's number.
    group: AtomicU32,
    session: AtomicU32,
    /// Handlers and pending signals.
    pub(crate) signals: signal::Signals,
    /// Who it is.
    pub(crate) identity: Mutex<Identity>,
    /// Resource limits.
    pub(crate) limits: limits::Limits,
    /// Interval timers.
    pub(crate) timers: timer::Timers,
    /// Small settings of prctl, personality and the scheduler.
    pub(crate) settings: limits::Settings,
    parent: AtomicU32,
    children: Mutex<Vec<Arc<Process>>>,
    /// What the parent is sent at the end.
    exit_signal: AtomicU32,
    /// A parent that called vfork waits for this.
    vfork_over: AtomicBool,
    /// It called exec.
    has_execed: AtomicBool,
    /// Its first exit_group, or a deadly signal, decided the status.
    ending: AtomicBool,
    /// It ended; its parent has not heard.
    zombie: AtomicBool,
    /// As wait4 reports it.
    status: AtomicI32,
    /// Of threads that ended: counts of the clock, ticks in the program and in the kernel.
    ended: [AtomicU64; 3],
    /// Of children that were waited for: nanoseconds in the program and in the kernel.
    of_children: [AtomicU64; 2],
}

static ALL: Mutex<BTreeMap<u32, Arc<Process>>> = Mutex::new(BTreeMap::new());

/// Addresses of programs.
pub(crate) fn bounds() -> VaRange {
    let (start, end) = (Va::containing(RawAddr(0x1_0000)), Va::containing(RawAddr(arch::USER_END)));
    VaRange::between(start, end).unwrap_or(VaRange::page(start))
}

/// A pmap without mappings.
pub(crate) fn new_pmap() -> Result<Pmap> {
    Pmap::create(pmaps()).map_err(|_| ENOMEM)
}

/// What a new process begins with.
struct Beginning {
    pid: u32,
    parent: u32,
    space: Arc<Space>,
    files: Arc<Mutex<Files>>,
    name: String,
    program: String,
    texts: Arc<Texts>,
    heap: (u64, u64),
}

impl Process {
    fn make(b: Beginning) -> Arc<Process> {
        Arc::new(Process {
            pid: b.pid,
            space: AtomicPtr::new(Arc::as_ptr(&b.space).cast_mut()),
            owner: Mutex::new(Some(b.space)),
            running: AtomicU32::new(0),
            layout: Gate::new(),
            threads: Mutex::new(Vec::new()),
            files: b.files,
            name: Mutex::new(b.name),
            program: Mutex::new(b.program),
            texts: Mutex::new(b.texts),
            heap: Mutex::new(b.heap),
            group: AtomicU32::new(b.pid),
            session: AtomicU32::new(b.pid),
            signals: signal::Signals::new(),
            identity: Mutex::new(Identity::default()),
            limits: limits::Limits::new(),
            timers: timer::Timers::new(),
            settings: limits::Settings::new(),
            parent: AtomicU32::new(b.parent),
            children: Mutex::new(Vec::new()),
            exit_signal: AtomicU32::new(signal::SIGCHLD),
            vfork_over: AtomicBool::new(true),
            has_execed: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            zombie: AtomicBool::new(false),
            status: AtomicI32::new(0),
            ended: [const { AtomicU64::new(0) }; 3],
            of_children: [const { AtomicU64::new(0) }; 2],
        })
    }

    /// Its memory. => a thread of it asks, or holds off its end; others use [`Process::hold_space`].
    pub(crate) fn space(&self) -> &Space {
        // SAFETY: the owner keeps it until the last thread ended or exec, with one thread left, replaced it; no
        // reference is kept across either.
        unsafe { self.space.load(Ordering::Acquire).as_ref() }.expect("a process that runs has memory")
    }
    /// Its memory, for others than itself. `None`: it ended. To be given back by [`release`].
    pub(crate) fn hold_space(&self) -> Option<Arc<Space>> {
        self.owner.lock().clone()
    }
    /// Another memory, or none; gives the old one back. => the only thread of it calls, or its last one.
    fn replace_space(&self, new: Option<Arc<Space>>) {
        let mut owner = self.owner.lock();
        {
            let _off = NoInterrupts::new();
            let cpu = CpuId(arch::here().number);
            let p = new.as_ref().map_or(core::ptr::null_mut(), |s| Arc::as_ptr(s).cast_mut());
            self.space.store(p, Ordering::Release);
            match &new {
                Some(s) => s.map().pmap().activate(cpu),
                None => unload_pmap(cpu),
            }
        }
        let old = core::mem::replace(&mut *owner, new);
        drop(owner);
        if let Some(old) = old {
            release(old);
        }
    }
    /// This CPU sees its memory. => interrupts are off, and a thread of it runs here.
    pub(crate) fn activate(&self, cpu: CpuId) {
        // SAFETY: as in `space`.
        match unsafe { self.space.load(Ordering::Acquire).as_ref() } {
            Some(s) => s.map().pmap().activate(cpu),
            None => unload_pmap(cpu),
        }
    }

    /// A thread of it becomes ready for the first time.
    pub(crate) fn runs_another(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }
    /// A thread of it ended, and no CPU uses its memory for it. => interrupts may be off.
    pub(crate) fn runs_one_less(&self) {
        // Release: pairs with the Acquire below, so what that CPU did with the memory is over.
        self.running.fetch_sub(1, Ordering::Release);
    }
    /// Waits until the other threads, which ended, are off their CPUs. => the last thread of it calls.
    fn wait_alone(&self) {
        while self.running.load(Ordering::Acquire) > 1 {
            arch::relax();
        }
    }

    /// Its process group.
    pub(crate) fn group(&self) -> u32 {
        self.group.load(Ordering::Relaxed)
    }
    /// Its session.
    pub(crate) fn session(&self) -> u32 {
        self.session.load(Ordering::Relaxed)
    }
    /// The path of its program.
    pub(crate) fn program(&self) -> String {
        self.program.lock().clone()
    }
    /// What its program was started with.
    pub(crate) fn texts(&self) -> Arc<Texts> {
        self.texts.lock().clone()
    }
    /// Its parent's number.
    pub(crate) fn parent(&self) -> u32 {
        self.parent.load(Ordering::Relaxed)
    }
    /// Its real user's number.
    pub(crate) fn uid(&self) -> u32 {
        self.identity.lock().user[0]
    }
    /// It ended, and nobody has waited for it.
    pub(crate) fn is_zombie(&self) -> bool {
        self.zombie.load(Ordering::Acquire)
    }
    /// Does a signal wait for this thread of it?
    pub(crate) fn has_signal(&self, t: &Thread) -> bool {
        t.doomed.load(Ordering::Acquire) || self.signals.is_stopped() || self.signals.waiting(t) != 0
    }
    /// Where those wait who wait for a child.
    fn family_event(&self) -> Event {
        Event(core::ptr::from_ref(self) as u64 | 1)
    }
    /// Each of its threads ends before it runs its program again.
    pub(crate) fn doom(&self, but: Option<&Thread>) {
        for t in self.threads.lock().iter() {
            if but.is_none_or(|b| !core::ptr::eq(b, &**t)) {
                t.doomed.store(true, Ordering::Release);
                sched::interrupt(t);
            }
        }
        self.wake_stopped();
    }
    /// Nanoseconds that it ran in its program, and in the kernel.
    pub(crate) fn times(&self) -> (u64, u64) {
        let mut sums: [u64; 3] = core::array::from_fn(|i| self.ended[i].load(Ordering::Relaxed));
        for t in self.threads.lock().iter() {
            let [user, kernel] = t.ticks();
            sums = [sums[0] + t.ran(), sums[1] + user, sums[2] + kernel];
        }
        split_time(sums)
    }
    /// Those of its children that were waited for.
    pub(crate) fn times_of_children(&self) -> (u64, u64) {
        (self.of_children[0].load(Ordering::Relaxed), self.of_children[1].load(Ordering::Relaxed))
    }
}

/// The time that somebody ran, by the clock, divided as the ticks fell.
pub(crate) fn split_time([ran, user, kernel]: [u64; 3]) -> (u64, u64) {
    let ns = arch::ticks_to_ns(ran);
    let all = user + kernel;
    if all == 0 {
        return (ns, 0);
    }
    let system = (u128::from(ns) * u128::from(kernel) / u128::from(all)) as u64;
    (ns - system, system)
}

/// Gives a reference of a space back; with the last its contents go. => no lock is held.
pub(crate) fn release(space: Arc<Space>) {
    if let Some(space) = Arc::into_inner(space) {
        sched::big::without(|| space.exit(|| {}, &mut MaySleep::claim()));
        crate::syscall::memory::sweep();
        crate::swap::tidy();
    }
}

/// Real and effective user and group of who runs; root's before the first program.
pub(crate) fn own_ids() -> [u64; 4] {
    let Some(me) = &sched::current().process else { return [0; 4] };
    let i = me.identity.lock();
    [i.user[0], i.user[1], i.group[0], i.group[1]].map(u64::from)
}

/// The process of that number, a zombie too.
pub(crate) fn find(pid: u32) -> Result<Arc<Process>> {
    ALL.lock().get(&pid).cloned().ok_or(ESRCH)
}
/// The process with the next higher number.
pub(crate) fn behind(pid: u32) -> Option<Arc<Process>> {
    ALL.lock().range(pid + 1..).next().map(|(_, p)| p.clone())
}
/// The thread of that number.
pub(crate) fn find_thread(id: u32) -> Result<Arc<Thread>> {
    let everybody = all(|_| true);
    everybody.iter().find_map(|p| p.threads.lock().iter().find(|t| t.id() == id).cloned()).ok_or(ESRCH)
}

/// The processes that `which` is true of.
pub(crate) fn all(which: impl Fn(&Process) -> bool) -> Vec<Arc<Process>> {
    ALL.lock().values().filter(|p| which(p)).cloned().collect()
}

/// The numbers of all, ascending.
pub(crate) fn numbers() -> Vec<u32> {
    ALL.lock().keys().copied().collect()
}

static COMMAND_LINE: Mutex<&str> = Mutex::new("");

/// The kernel's command line.
pub(crate) fn command_line() -> &'static str {
    *COMMAND_LINE.lock()
}

/// Starts the first program as the command line says.
pub(crate) fn start(command_line: &'static str) {
    *COMMAND_LINE.lock() = command_line;
    let First { argv, envp } = crate::command_line::first(command_line);
    Thread::kernel(timer::serve).expect("memory for the timers' thread");
    crate::leaks::programs_start();
    if let Err(e) = first(argv.clone(), &envp) {
        crate::say!(
            "cannot start {:?}: error {}: is it in the initial file system, a static ELF64 program for this machine?",
            String::from_utf8_lossy(&argv[0]),
            e.0
        );
        arch::exit(0x7e);
    }
}

fn first(argv: Vec<Vec<u8>>, envp: &[Vec<u8>]) -> Result<()> {
    let path = String::from_utf8_lossy(&argv[0]).into_owned();
    let new = exec::prepare(&fs::Place::first(), &path, argv, envp)?;
    let pid = sched::new_id();
    let p = Process::make(Beginning {
        pid,
        parent: 0,
        space: new.space,
        files: Arc::new(Mutex::new(Files::standard())),
        name: new.name,
        program: new.program,
        texts: Arc::new(new.texts),
        heap: (new.heap, new.heap),
    });
    let t = Thread::user(p.clone(), pid, &Frame::user(new.entry, new.sp), None).ok_or(ENOMEM)?;
    p.threads.lock().push(t.clone());
    ALL.lock().insert(pid, p);
    sched::make_ready(t);
    Ok(())
}

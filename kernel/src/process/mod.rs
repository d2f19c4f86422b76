//! Processes: a space, threads, files, a family.

pub(crate) mod signal;

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use machvm::vmspace::VmSpace;
use machvm_hal::{CpuId, Event, MaySleep, Pmap as _, RawAddr, Va, VaRange};

use crate::arch::{self, Frame};
use crate::elf;
use crate::embed::{Kernel, Pmap, pmaps, the_vm};
use crate::errno::{ECHILD, ENOMEM, ERESTARTSYS, ESRCH, Result};
use crate::fs::{self, Files};
use crate::lock::NoInterrupts;
use crate::mutex::Mutex;
use crate::sched::{self, Thread};

/// A process's memory.
pub(crate) type Space = VmSpace<'static, Kernel>;

/// A process.
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: u32,
    space: Space,
    /// Its threads that have not ended.
    pub(crate) threads: Mutex<Vec<Arc<Thread>>>,
    /// Open files and the current directory.
    pub(crate) files: Mutex<Files>,
    /// What it is called.
    pub(crate) name: Mutex<String>,
    program: Mutex<String>,
    arguments: Mutex<Vec<u8>>,
    /// Start and end of the heap that brk grows.
    pub(crate) heap: Mutex<(u64, u64)>,
    /// Its group's and its session's number.
    group: AtomicU32,
    session: AtomicU32,
    /// Handlers and pending signals.
    pub(crate) signals: signal::Signals,
    parent: AtomicU32,
    children: Mutex<Vec<Arc<Process>>>,
    /// It ended; its parent has not heard.
    zombie: AtomicBool,
    /// As wait4 reports it.
    status: AtomicI32,
}

static ALL: Mutex<BTreeMap<u32, Arc<Process>>> = Mutex::new(BTreeMap::new());

/// Addresses of programs.
fn bounds() -> VaRange {
    let (start, end) = (Va::containing(RawAddr(0x1_0000)), Va::containing(RawAddr(arch::USER_END)));
    VaRange::between(start, end).unwrap_or(VaRange::page(start))
}

/// A pmap without mappings.
pub(crate) fn new_pmap() -> Result<Pmap> {
    Pmap::create(pmaps()).map_err(|_| ENOMEM)
}

impl Process {
    fn make(
        pid: u32,
        parent: u32,
        space: Space,
        files: Files,
        name: String,
        heap: (u64, u64),
    ) -> Arc<Process> {
        Arc::new(Process {
            pid,
            space,
            threads: Mutex::new(Vec::new()),
            files: Mutex::new(files),
            name: Mutex::new(name),
            program: Mutex::new(String::new()),
            arguments: Mutex::new(Vec::new()),
            heap: Mutex::new(heap),
            group: AtomicU32::new(pid),
            session: AtomicU32::new(pid),
            signals: signal::Signals::new(),
            parent: AtomicU32::new(parent),
            children: Mutex::new(Vec::new()),
            zombie: AtomicBool::new(false),
            status: AtomicI32::new(0),
        })
    }
    /// Its memory.
    pub(crate) fn space(&self) -> &Space {
        &self.space
    }
    /// Its process group.
    pub(crate) fn group(&self) -> u32 {
        self.group.load(Ordering::Relaxed)
    }
    /// Its session.
    #[allow(dead_code)]
    pub(crate) fn session(&self) -> u32 {
        self.session.load(Ordering::Relaxed)
    }
    /// The path of its program.
    pub(crate) fn program(&self) -> String {
        self.program.lock().clone()
    }
    /// The arguments that it was started with, each with a zero behind it.
    pub(crate) fn arguments(&self) -> Vec<u8> {
        self.arguments.lock().clone()
    }
    /// Its parent's number.
    pub(crate) fn parent(&self) -> u32 {
        self.parent.load(Ordering::Relaxed)
    }
    /// It runs this program.
    fn runs(&self, program: String, argv: &[Vec<u8>]) {
        *self.program.lock() = program;
        *self.arguments.lock() = argv.iter().flat_map(|a| a.iter().copied().chain([0])).collect();
    }
    /// Does a signal wait for this thread of it?
    pub(crate) fn has_signal(&self, t: &Thread) -> bool {
        t.doomed.load(Ordering::Acquire) || self.signals.waiting(t) != 0
    }
    /// Where those wait who wait for a child to end.
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
    }
}

/// The process of that number.
pub(crate) fn find(pid: u32) -> Result<Arc<Process>> {
    ALL.lock().get(&pid).cloned().ok_or(ESRCH)
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
    let words: Vec<Vec<u8>> = command_line.split_ascii_whitespace().map(|w| w.as_bytes().to_vec()).collect();
    // What comes before `--` is the kernel's.
    let split = words.iter().position(|w| w == b"--").map_or(0, |i| i + 1);
    let mut argv: Vec<Vec<u8>> = words[split..].to_vec();
    if argv.is_empty() {
        argv.push(b"/init".to_vec());
    }
    let envp = ["PATH=/bin:/usr/bin:/sbin:/usr/sbin:/", "HOME=/", "TERM=dumb", "USER=root"];
    let envp: Vec<Vec<u8>> = envp.iter().map(|e| e.as_bytes().to_vec()).collect();
    if let Err(e) = first(&argv, &envp) {
        crate::say!(
            "cannot start {:?}: error {}: is it in the initial file system, a static ELF64 program for this machine?",
            String::from_utf8_lossy(&argv[0]),
            e.0
        );
        arch::exit(0x7e);
    }
}

fn first(argv: &[Vec<u8>], envp: &[Vec<u8>]) -> Result<()> {
    let path = String::from_utf8_lossy(&argv[0]).into_owned();
    let node = fs::lookup(&fs::Place::first(), &path)?;
    let space = Space::alloc(the_vm(), new_pmap()?, bounds());
    let pid = sched::new_id();
    let image = elf::load(&space, &node)?;
    let sp = elf::stack(&space, &image, argv, envp, &path)?;
    let p = Process::make(pid, 0, space, Files::standard(), name_of(&path), (image.heap, image.heap));
    p.runs(fs::normal(&fs::Place::first(), &path), argv);
    let t = Thread::user(p.clone(), pid, &Frame::user(image.entry, sp), None).ok_or(ENOMEM)?;
    p.threads.lock().push(t.clone());
    ALL.lock().insert(pid, p);
    sched::make_ready(t);
    Ok(())
}

fn name_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).into()
}

/// fork(2) and clone(2) without CLONE_VM. Gives the child's number.
pub(crate) fn fork(f: &Frame, stack: u64) -> Result<Arc<Process>> {
    let me = sched::process();
    let space = me.space.fork(new_pmap()?, &mut MaySleep::claim()).map_err(|_| ENOMEM)?;
    let pid = sched::new_id();
    let files = me.files.lock().for_child();
    let heap = *me.heap.lock();
    let name = me.name.lock().clone();
    let child = Process::make(pid, me.pid, space, files, name, heap);
    child.group.store(me.group(), Ordering::Relaxed);
    child.session.store(me.session(), Ordering::Relaxed);
    child.signals.inherit(&me.signals);
    *child.program.lock() = me.program();
    *child.arguments.lock() = me.arguments();
    let mut frame = *f;
    frame.set_result(0);
    if stack != 0 {
        frame.rsp = stack;
    }
    let Some(t) = Thread::user(child.clone(), pid, &frame, Some(sched::current())) else {
        discard(&child);
        return Err(ENOMEM);
    };
    child.threads.lock().push(t.clone());
    ALL.lock().insert(pid, child.clone());
    me.children.lock().push(child.clone());
    sched::make_ready(t);
    Ok(child)
}

/// A process that never ran.
fn discard(p: &Process) {
    p.space.exit(|| {}, &mut MaySleep::claim());
}

/// execve(2): this process becomes another program.
pub(crate) fn exec(f: &mut Frame, path: &str, argv: &[Vec<u8>], envp: &[Vec<u8>]) -> Result<()> {
    let me = sched::process();
    let place = me.files.lock().cwd.clone();
    let node = fs::lookup(&place, path)?;
    elf::check(&node)?;
    let program = fs::normal(&place, path);
    // From here on there is no way back.
    let t = sched::current();
    me.doom(Some(t));
    while me.threads.lock().len() > 1 {
        sched::yield_now();
    }
    let space = &me.space;
    let mut may = MaySleep::claim();
    match space.exec(bounds(), new_pmap, &mut may) {
        Ok(None) => {}
        _ => fatal("the space is in use"),
    }
    let done = elf::load(space, &node).and_then(|image| {
        let sp = elf::stack(space, &image, argv, envp, path)?;
        Ok((image, sp))
    });
    let Ok((image, sp)) = done else { fatal("no memory for the new program") };
    *me.heap.lock() = (image.heap, image.heap);
    *me.name.lock() = name_of(path);
    me.runs(program, argv);
    me.files.lock().close_on_exec();
    t.fs.store(0, Ordering::Relaxed);
    t.clear_tid.store(0, Ordering::Relaxed);
    {
        let _off = NoInterrupts::new();
        arch::set_fs(0);
        t.reset_fpu();
    }
    *f = Frame::user(image.entry, sp);
    f.return_whole();
    Ok(())
}

/// execve failed when the old program was gone already.
fn fatal(why: &str) -> ! {
    crate::say!("machvm: process {}: execve: {why}: killed", sched::process().pid);
    exit_group(9)
}

/// exit_group(2), with a status as wait4 reports it.
pub(crate) fn exit_group(status: i32) -> ! {
    let me = sched::process();
    me.status.store(status, Ordering::Relaxed);
    me.doom(Some(sched::current()));
    end_thread()
}

/// exit(2). The status is the process's if this is its last thread.
pub(crate) fn end_thread_with(code: i32) -> ! {
    let me = sched::process();
    if me.threads.lock().len() == 1 {
        me.status.store((code & 0xff) << 8, Ordering::Relaxed);
    }
    end_thread()
}

/// This thread ends, and with the last one the process.
pub(crate) fn end_thread() -> ! {
    let t = sched::current();
    let me = sched::process();
    let clear = t.clear_tid.load(Ordering::Relaxed);
    if clear != 0 {
        let _ = crate::user::write(clear, &0u32.to_le_bytes());
        crate::syscall::futex::wake(clear, i32::MAX as u32);
    }
    let last = {
        let mut threads = me.threads.lock();
        threads.retain(|x| !core::ptr::eq(&**x, t));
        threads.is_empty()
    };
    if last {
        end_process(me);
    }
    sched::end()
}

/// => the last thread of it calls.
fn end_process(me: &Arc<Process>) {
    me.files.lock().close_all();
    let leave = || {
        let _off = NoInterrupts::new();
        me.space.map().pmap().deactivate(CpuId(arch::here().number));
    };
    me.space.exit(leave, &mut MaySleep::claim());
    // Children go to the first process.
    let orphans = core::mem::take(&mut *me.children.lock());
    let init = ALL.lock().values().next().cloned();
    if let Some(init) = init.filter(|i| i.pid != me.pid) {
        for o in orphans {
            o.parent.store(init.pid, Ordering::Relaxed);
            init.children.lock().push(o);
        }
        sched::wakeup(init.family_event());
    }
    ALL.lock().remove(&me.pid);
    let parent = find(me.parent()).ok();
    me.zombie.store(true, Ordering::Release);
    match parent {
        Some(p) => {
            signal::send(&p, signal::SIGCHLD);
            sched::wakeup(p.family_event());
        }
        None => the_end(me.status.load(Ordering::Relaxed)),
    }
}

/// The first program ended: the machine is switched off with its status.
fn the_end(status: i32) {
    let code = if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) };
    crate::say!("exit: {code}");
    arch::exit(code as u32);
}

/// Which children wait4 is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// Any.
    Any,
    /// This one.
    Pid(u32),
}

/// wait4(2): number and status of a child that ended; `None`: none has, and `hang` is not set.
pub(crate) fn wait(which: Which, hang: bool) -> Result<Option<(u32, i32)>> {
    let me = sched::process();
    loop {
        let ticket = sched::assert_wait(me.family_event());
        // The ticket is a place in a queue: whatever sleeps must come after it is given up.
        let found = try_reap(me, which, ticket)?;
        match found {
            Reaped::Child(pid, status) => return Ok(Some((pid, status))),
            Reaped::None(ticket) if hang => {
                if sched::block_interruptible(ticket, None) == machvm_hal::Woken::Interrupted {
                    return Err(ERESTARTSYS);
                }
            }
            Reaped::None(ticket) => {
                sched::cancel(ticket);
                return Ok(None);
            }
            Reaped::Again => {}
        }
    }
}

enum Reaped {
    Child(u32, i32),
    None(sched::Ticket),
    Again,
}

/// Takes a child that ended. The lock of the children is taken by try: a thread waits for one thing at a time.
fn try_reap(me: &Process, which: Which, ticket: sched::Ticket) -> Result<Reaped> {
    let Some(mut children) = me.children.try_lock() else {
        sched::cancel(ticket);
        drop(me.children.lock());
        return Ok(Reaped::Again);
    };
    let wanted = |c: &Process| match which {
        Which::Any => true,
        Which::Pid(pid) => c.pid == pid,
    };
    let at = children.iter().position(|c| wanted(c) && c.zombie.load(Ordering::Acquire));
    let any = children.iter().any(|c| wanted(c));
    let child = at.map(|i| children.swap_remove(i));
    drop(children);
    match child {
        Some(c) => {
            sched::cancel(ticket);
            Ok(Reaped::Child(c.pid, c.status.load(Ordering::Relaxed)))
        }
        None if !any => {
            sched::cancel(ticket);
            Err(ECHILD)
        }
        None => Ok(Reaped::None(ticket)),
    }
}

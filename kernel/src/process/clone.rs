//! New processes and threads (fork, vfork, clone, clone3).

use core::sync::atomic::Ordering;

use alloc::sync::Arc;
use machvm::map::MapFlags;
use machvm_hal::{Event, MaySleep};

use super::{ALL, Beginning, Process, limits, new_pmap, release, signal};
use crate::arch::{self, Frame};
use crate::errno::{EAGAIN, EFAULT, EINVAL, ENOMEM, Result};
use crate::mutex::Mutex;
use crate::sched::{self, Thread};
use crate::user;

pub(crate) const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
pub(crate) const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_NEWNS: u64 = 0x2_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
/// Namespaces, PIDFD, PTRACE, IO: what this kernel does not have.
const UNSUPPORTED: u64 = CLONE_NEWNS | 0x1000 | 0x7e00_0000 | 1 << 33 | 0x80;

/// What clone3 is asked for.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Request {
    pub(crate) flags: u64,
    /// The new stack pointer; 0: the old one.
    pub(crate) stack: u64,
    pub(crate) parent_tid: u64,
    pub(crate) child_tid: u64,
    pub(crate) tls: u64,
    pub(crate) exit_signal: u32,
}

/// clone(2). Gives the new number.
pub(crate) fn clone(f: &Frame, r: &Request) -> Result {
    let has = |flag| r.flags & flag != 0;
    if has(UNSUPPORTED)
        || has(CLONE_SIGHAND) && !has(CLONE_VM)
        || has(CLONE_THREAD) && !has(CLONE_SIGHAND)
        || has(CLONE_THREAD) && !(has(CLONE_FILES) && has(CLONE_FS))
        || has(CLONE_SIGHAND) && has(CLONE_CLEAR_SIGHAND)
        || r.exit_signal > signal::SIGNALS
        || has(CLONE_SETTLS) && r.tls >= arch::USER_END
    {
        return Err(EINVAL);
    }
    let mut frame = *f;
    frame.set_result(0);
    if r.stack != 0 {
        frame.set_stack_pointer(r.stack);
    }
    if has(CLONE_SETTLS) {
        frame.set_thread_pointer(r.tls);
    }
    let (t, child) = if has(CLONE_THREAD) { new_thread(&frame)? } else { new_process(&frame, r)? };
    if has(CLONE_SETTLS) {
        t.fs.store(r.tls, Ordering::Relaxed);
    }
    let id = t.id();
    if has(CLONE_CHILD_CLEARTID) {
        t.clear_tid.store(r.child_tid, Ordering::Relaxed);
    }
    // Linux does not say when these cannot be written either.
    if has(CLONE_PARENT_SETTID) {
        let _ = user::write(r.parent_tid, &id.to_le_bytes());
    }
    if has(CLONE_CHILD_SETTID) {
        let space = t.process.as_ref().and_then(|p| p.hold_space());
        if let Some(space) = space {
            let _ = put_word(&space, r.child_tid, id);
            release(space);
        }
    }
    // With memory in common the alternate stack is the old thread's alone.
    if !has(CLONE_VM) || has(CLONE_VFORK) {
        t.signals.set_alternate(sched::current().signals.alternate());
    }
    if !has(CLONE_VM) {
        t.rseq.inherit(&sched::current().rseq);
    }
    sched::make_ready(t);
    if has(CLONE_VFORK)
        && let Some(child) = child
    {
        wait_for_vfork(&child);
    }
    Ok(id.into())
}

fn put_word(space: &super::Space, at: u64, word: u32) -> Result<()> {
    if at % 4096 > 4092 || at >= arch::USER_END {
        return Err(EFAULT);
    }
    space.map().write_in_page(at, &word.to_le_bytes(), &mut MaySleep::claim()).map_err(|_| EFAULT)
}

type New = (Arc<Thread>, Option<Arc<Process>>);

fn new_thread(frame: &Frame) -> Result<New> {
    let me = sched::process();
    let t = Thread::user(me.clone(), sched::new_id(), frame, Some(sched::current())).ok_or(ENOMEM)?;
    let mut threads = me.threads.lock();
    if sched::current().doomed.load(Ordering::Acquire) {
        return Err(EAGAIN);
    }
    threads.push(t.clone());
    Ok((t, None))
}

fn new_process(frame: &Frame, r: &Request) -> Result<New> {
    let me = sched::process();
    let (user, effective) = {
        let i = me.identity.lock();
        (i.user[0], i.user[1])
    };
    let alike = || super::all(|p| p.uid() == user).iter().map(|p| p.threads.lock().len() as u64).sum::<u64>();
    if user != 0 && effective != 0 && alike() >= me.limit(limits::NPROC) {
        return Err(EAGAIN);
    }
    let shares = r.flags & CLONE_VM != 0;
    let space = if shares {
        me.hold_space().ok_or(ENOMEM)?
    } else {
        let pmap = new_pmap()?;
        let copy = sched::big::without(|| me.space().fork(pmap, &mut MaySleep::claim()));
        let copy = copy.map_err(|_| ENOMEM)?;
        // mlockall(2): a child's memory is not locked.
        copy.map().modflags(MapFlags::empty(), MapFlags::WIREFUTURE, &mut MaySleep::claim());
        Arc::new(copy)
    };
    let files = if r.flags & CLONE_FILES != 0 {
        me.files.clone()
    } else {
        Arc::new(Mutex::new(me.files.lock().for_child()))
    };
    let parent = if r.flags & CLONE_PARENT != 0 { me.parent() } else { me.pid };
    let pid = sched::new_id();
    let child = Process::make(Beginning {
        pid,
        parent,
        space,
        files,
        name: me.name.lock().clone(),
        program: me.program(),
        texts: me.texts(),
        heap: *me.heap.lock(),
    });
    child.group.store(me.group(), Ordering::Relaxed);
    child.session.store(me.session(), Ordering::Relaxed);
    child.exit_signal.store(r.exit_signal, Ordering::Relaxed);
    child.vfork_over.store(r.flags & CLONE_VFORK == 0, Ordering::Relaxed);
    child.signals.inherit(&me.signals);
    if r.flags & CLONE_CLEAR_SIGHAND != 0 {
        child.signals.reset();
    }
    *child.identity.lock() = me.identity.lock().clone();
    child.limits.inherit(&me.limits);
    child.settings.inherit(&me.settings);
    let Some(t) = Thread::user(child.clone(), pid, frame, Some(sched::current())) else {
        if let Some(space) = child.owner.lock().take() {
            release(space);
        }
        return Err(ENOMEM);
    };
    *t.name.lock() = sched::current().name.lock().clone();
    child.threads.lock().push(t.clone());
    ALL.lock().insert(pid, child.clone());
    match super::find(parent) {
        Ok(p) => p.children.lock().push(child.clone()),
        Err(_) => me.children.lock().push(child.clone()),
    }
    Ok((t, Some(child)))
}

fn vfork_event(child: &Process) -> Event {
    Event(core::ptr::from_ref(&child.vfork_over) as u64)
}

/// The parent sleeps until the child has a program of its own or is gone; only death ends that.
fn wait_for_vfork(child: &Process) {
    while !child.vfork_over.load(Ordering::Acquire) {
        let ticket = sched::assert_wait(vfork_event(child));
        if child.vfork_over.load(Ordering::Acquire) {
            sched::cancel(ticket);
        } else {
            sched::block(ticket, None);
        }
    }
}

impl Process {
    /// The memory that a parent lent it is no longer used.
    pub(super) fn vfork_ends(&self) {
        if !self.vfork_over.swap(true, Ordering::AcqRel) {
            if let Ok(parent) = super::find(self.parent()) {
                // What the child did to the heap that both used.
                *parent.heap.lock() = *self.heap.lock();
            }
            sched::wakeup(vfork_event(self));
        }
    }
}

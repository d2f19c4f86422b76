//! The end of threads and processes.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use super::{ALL, Process, find, group, signal};
use crate::arch;
use crate::sched;

const CLD_EXITED: i32 = 1;
const CLD_KILLED: i32 = 2;

/// exit_group(2), with a status as wait4 reports it.
pub(crate) fn exit_group(status: i32) -> ! {
    let me = sched::process();
    if !me.ending.swap(true, Ordering::AcqRel) {
        me.status.store(status, Ordering::Relaxed);
        me.doom(Some(sched::current()));
    }
    end_thread()
}

/// Another process ends, as by a signal that nobody catches; nothing is allocated for it.
pub(crate) fn end_by(p: &Process, signal: u32) {
    if !p.ending.swap(true, Ordering::AcqRel) {
        p.status.store(signal as i32, Ordering::Relaxed);
        p.doom(None);
    }
}

/// exit(2). The status is the process's if this is its last thread.
pub(crate) fn end_thread_with(code: i32) -> ! {
    let me = sched::process();
    if me.threads.lock().len() == 1 && !me.ending.load(Ordering::Acquire) {
        me.status.store((code & 0xff) << 8, Ordering::Relaxed);
    }
    end_thread()
}

/// This thread ends, and with the last one the process.
pub(crate) fn end_thread() -> ! {
    {
        let t = sched::current();
        let me = sched::process();
        crate::syscall::futex::end_of_thread(t);
        let last = {
            let mut threads = me.threads.lock();
            threads.retain(|x| !core::ptr::eq(&**x, t));
            let [user, kernel] = t.ticks();
            for (sum, n) in me.ended.iter().zip([t.ran(), user, kernel]) {
                sum.fetch_add(n, Ordering::Relaxed);
            }
            threads.is_empty()
        };
        if last {
            end_process(me);
        }
    }
    sched::end()
}

/// => the last thread of it calls.
fn end_process(me: &Arc<Process>) {
    me.wait_alone();
    me.timers.forget();
    if Arc::strong_count(&me.files) == 1 {
        me.files.lock().close_all();
    }
    crate::syscall::sem::undo(me.pid);
    me.replace_space(None);
    me.vfork_ends();
    leave_children(me);
    group::left_by(me);
    let status = me.status.load(Ordering::Relaxed);
    let Ok(parent) = find(me.parent()) else { the_end(status) };
    let signal = me.exit_signal.load(Ordering::Relaxed);
    let unheard = signal == signal::SIGCHLD && parent.signals.reaps_children();
    let (code, value) =
        if status & 0x7f == 0 { (CLD_EXITED, status >> 8 & 0xff) } else { (CLD_KILLED, status & 0x7f) };
    let info = signal::parent_hears(me, signal, code, value);
    me.zombie.store(true, Ordering::Release);
    if unheard {
        parent.children.lock().retain(|c| !Arc::ptr_eq(c, me));
        ALL.lock().remove(&me.pid);
    }
    if signal != 0 && (!unheard || parent.signals.action(signal::SIGCHLD).flags & signal::SA_NOCLDWAIT != 0) {
        let _ = signal::send_info(&parent, info);
    }
    sched::wakeup(parent.family_event());
}

/// Its children become the first process's.
fn leave_children(me: &Arc<Process>) {
    let orphans = core::mem::take(&mut *me.children.lock());
    let Some(init) = ALL.lock().values().next().filter(|i| i.pid != me.pid).cloned() else { return };
    for o in orphans {
        o.parent.store(init.pid, Ordering::Relaxed);
        o.exit_signal.store(signal::SIGCHLD, Ordering::Relaxed);
        let death = o.settings.death_signal();
        if death != 0 && !o.is_zombie() {
            let _ = signal::send_info(&o, signal::Info::from(death, signal::SI_USER, me.pid, 0));
        }
        if o.is_zombie() && init.signals.reaps_children() {
            ALL.lock().remove(&o.pid);
            continue;
        }
        init.children.lock().push(o);
    }
    sched::wakeup(init.family_event());
}

/// The first program ended: the machine is switched off with its status.
fn the_end(status: i32) -> ! {
    let code = if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) };
    crate::leaks::check();
    crate::say!("exit: {code}");
    arch::exit(code as u32);
}

//! States of tasks that no C call makes, for this crate's tests: memory that is shown through
//! a submap, and pages that are busy. Nothing of it is exported.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize, Va, VaRange};

use crate::calls::{here, task_of};
use crate::ports::{Right, TaskPort};
use crate::types::mach_port_t;

/// A new task whose memory others can show.
///
/// # Panics
/// The VM makes none.
pub fn showable_task() -> mach_port_t {
    let (world, _) = here();
    let task = world.vm().showable_task().expect("a task");
    world.ports().add(Right::Task(Arc::new(TaskPort { task, own: false })))
}

/// Makes `size` bytes at `at` of a task, which must be one whole region that was never
/// touched, show the same addresses of `shown`, a [`showable_task`].
///
/// # Panics
/// They are no tasks, or the region is not like that.
pub fn show(target: mach_port_t, at: u64, size: u64, shown: mach_port_t) {
    let (target, shown) = (task_of(target).expect("a task"), task_of(shown).expect("a task"));
    let (world, how) = here();
    let mut inside = world.inside().expect("not forked");
    let range = VaRange::check(RawAddr(at), RawSize(size)).expect("pages");
    let done = target.mach(how).map().submap(range, shown.mach(how).map(), range.start(), inside.may());
    done.expect("one region without contents");
}

/// Makes `call` while another thread holds the page at `at` busy alone, until `call` sleeps
/// for it or ends. Tells what it gave, and whether it slept.
///
/// => the page is resident.
///
/// # Panics
/// There is no such page, or it is busy.
pub fn while_busy<T>(target: mach_port_t, at: u64, call: impl FnOnce() -> T) -> (T, bool) {
    let task = task_of(target).expect("a task");
    let ended = AtomicBool::new(false);
    // A holder that panics drops the sender, so nobody waits for it.
    let (held, is_held) = mpsc::channel();
    let hold = |held: mpsc::Sender<()>| {
        let (world, how) = here();
        let mut inside = world.inside().expect("not forked");
        let map = task.mach(how).map();
        let va = Va::from_page(at / PAGE_SIZE);
        let may: &mut MaySleep = inside.may();
        let entry = map.lookup(va, Prot::NONE, may).expect("mapped");
        let object = entry.object.expect("memory");
        let page = map.vm().vm_page_tryxbusy(object, entry.pindex(va), may).expect("resident, and free");
        held.send(()).expect("somebody waits for it");
        while !page.is_wanted() && !ended.load(SeqCst) {
            std::thread::yield_now();
        }
        page.is_wanted()
    };
    std::thread::scope(|s| {
        let holder = s.spawn(|| hold(held));
        is_held.recv().expect("a page that can be held");
        let result = call();
        ended.store(true, SeqCst);
        (result, holder.join().expect("no panic"))
    })
}

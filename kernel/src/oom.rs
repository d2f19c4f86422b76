//! Memory is exhausted: who goes.
//!
//! The core names the largest process; here it is ended, so that nothing has to be allocated for that: no signal is
//! queued, its threads are told. They may use the reserve on their way out.

use alloc::sync::Arc;

use machvm::map::Detail;
use machvm::pageout::{OutOfMemory, Shortage, TaskSize};
use machvm_hal::{MaySleep, PAGE_SIZE};

use crate::process::{self, Process, Space, signal};
use crate::sched;

/// Every process that has memory, one after the other. The first program goes only if there is no other.
///
/// => no lock is held.
pub(crate) fn for_each_task(f: &mut dyn FnMut(TaskSize)) {
    let _big = sched::big::hold();
    let others = tasks().filter(|p| p.parent() != 0 && !p.is_zombie()).count();
    for p in tasks() {
        let Some(space) = p.hold_space() else {
            // Its memory is on its way back: nobody else is to go for that.
            if !p.is_zombie() {
                f(TaskSize { id: u64::from(p.pid), resident: 0, swapped: 0, protected: true });
            }
            continue;
        };
        let (resident, swapped) = pages(&space);
        f(TaskSize { id: u64::from(p.pid), resident, swapped, protected: p.parent() == 0 && others != 0 });
        process::release(space);
    }
}

/// Pages in memory and on swap. What is in memory need not be mapped: page-out unmaps pages before it writes them.
fn pages(space: &Space) -> (u64, u64) {
    let (mut n, mut at) = ((0, 0), space.map().min());
    while let Some((f, _)) = space.map().region_through(at, Detail::Pages, &mut MaySleep::claim()) {
        n = (n.0 + f.pages.resident, n.1 + f.pages.swapped);
        at = f.entry.range.end();
    }
    n
}

fn tasks() -> impl Iterator<Item = Arc<Process>> {
    let mut last = 0;
    core::iter::from_fn(move || {
        let p = process::behind(last)?;
        last = p.pid;
        Some(p)
    })
}

/// Ends the process that the core names; says so. `true`: its memory will come.
///
/// => no lock is held.
pub(crate) fn out_of_memory(report: &OutOfMemory) -> bool {
    let _big = sched::big::hold();
    let short = match report.why {
        Shortage::Memory => "memory",
        Shortage::Swap => "swap",
    };
    let victim = report.victim.and_then(|v| Some((v, process::find(v.id as u32).ok()?)));
    let Some((size, p)) = victim else {
        crate::say!("machvm: out of {short}, and there is no process to end");
        return false;
    };
    let kib = |pages: u64| pages * (PAGE_SIZE / 1024);
    crate::say!(
        "machvm: out of {short}: process {} ({}) is killed: {} KiB in memory, {} KiB on swap ({} processes, {} KiB in all)",
        p.pid,
        *p.name.lock(),
        kib(size.resident),
        kib(size.swapped),
        report.tasks,
        kib(report.limit),
    );
    process::exit::end_by(&p, signal::SIGKILL);
    true
}

//! Giving frames back in runs.

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, PageNo, Pfn, PhysMem, PmapPage, RemoveWhy};

use super::{Page, number};
use crate::platform::Platform;
use crate::vm::Vm;

/// Pages in a [`FreeBatch`]: a sixteenth of a leaf; 128 bytes of stack.
const BATCH: usize = 32;

/// Most frames discarded in one call: what others wait for meanwhile is a few milliseconds.
const MOST: u32 = 4096;

/// Pages on their way to the free list: unmapped, flushed, discarded and uncharged
/// together, contiguous frames in one call.
pub(crate) struct FreeBatch<'a, P: Platform> {
    vm: &'a Vm<P>,
    pages: [Option<Handle<Page>>; BATCH],
    len: usize,
    /// First of the frames whose pages are gone already, and how many: charged until they
    /// are discarded, with those that follow or at the end. Nobody fills them before: they
    /// are no anon's, and the extent is the caller's that long.
    run: (u64, u32),
    /// Some page was busy elsewhere; its holder frees it.
    pub(crate) orphaned: bool,
}

impl<'a, P: Platform> FreeBatch<'a, P> {
    pub(crate) fn new(vm: &'a Vm<P>) -> Self {
        FreeBatch { vm, pages: [None; BATCH], len: 0, run: (0, 0), orphaned: false }
    }

    /// Adds a page. If it still has an owner, the contents are taken from that anon.
    ///
    /// => the page is busy and on no queue.
    pub(crate) fn push(&mut self, h: Handle<Page>) {
        if self.len == BATCH {
            self.flush();
        }
        self.pages[self.len] = Some(h);
        self.len += 1;
    }

    /// Frees what was added so far.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if self.len != 0 {
            self.flush_some();
        }
    }

    // Apart: most batches of a fault are empty, and this begins with much to set up.
    #[inline(never)]
    fn flush_some(&mut self) {
        let vm = self.vm;
        let list = &mut self.pages[..self.len];
        let mut mapped = [PageNo(core::num::NonZeroU32::MIN); BATCH];
        let (mut m, mut any) = (0, false);
        let mut g = Gather::new();
        for (h, page) in list.iter().flatten().map(|h| (*h, vm.pages.get(*h))) {
            let wired = page.wired.get();
            if wired != 0 {
                page.change_wirings(-(wired as i32)); // nothing maps it any more
            }
            if !page.is_mapped() {
                continue;
            }
            any = true;
            if page.is_kept() {
                // Its frame is not discarded.
                vm.plat.pmap_page().page_remove(&vm.pages, &[number(h)], RemoveWhy::Sample, &mut g);
            } else {
                mapped[m] = number(h);
                m += 1;
            }
        }
        if m != 0 {
            vm.plat.pmap_page().page_remove(&vm.pages, &mapped[..m], RemoveWhy::Free, &mut g);
        }
        if any {
            // Waits for other CPUs at most, and no spin lock is held here.
            vm.finish(g, &mut MaySleep::claim());
        }
        for slot in list.iter_mut() {
            if let Some(h) = slot.take_if(|h| vm.pages.get(*h).is_kept()) {
                vm.leave_to_holders(h);
            }
        }
        let mut due = 0;
        for h in list.iter().flatten() {
            let f = vm.pages.get(*h).pfn.get();
            let (first, n) = self.run;
            if n != 0 && (first + u64::from(n) != f || n == MOST) {
                due += discard(vm, &mut self.run);
            }
            self.run = if self.run.1 == 0 { (f, 1) } else { (first, n + 1) };
        }
        // A frame that an anon still names may be filled as soon as that gives it up below;
        // and in the dense placement any that is retired.
        let named = |h: &Handle<Page>| vm.pages.get(*h).owner.get().is_some();
        if !vm.frames.is_sparse() || list.iter().flatten().any(named) {
            due += discard(vm, &mut self.run);
        }
        for slot in list.iter_mut() {
            let Some(h) = *slot else { continue };
            // An anon that is still named gives its page up only now: earlier, a fault
            // would find it empty and fill the frame again before the discard.
            if let Some(a) = vm.pages.get(h).owner.get()
                && !vm.anons.get(a).change_page(Some(h), None)
            {
                vm.page_unbusy(h); // dying: both go there
                *slot = None;
                due -= 1;
            }
        }
        vm.pages_retire(list);
        list.fill(None);
        self.len = 0;
        if due != 0 {
            vm.uncharge(due);
        }
    }
}

/// Discards a run of frames, which is empty then; gives how many they were.
fn discard<P: Platform>(vm: &Vm<P>, run: &mut (u64, u32)) -> u64 {
    let (first, n) = core::mem::take(run);
    if n != 0 {
        vm.plat.mem().discard(Pfn(first), n);
    }
    u64::from(n)
}

impl<P: Platform> Drop for FreeBatch<'_, P> {
    fn drop(&mut self) {
        self.flush();
        let left = discard(self.vm, &mut self.run);
        if left != 0 {
            self.vm.uncharge(left);
        }
    }
}

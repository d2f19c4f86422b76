//! Pages between the queues (P19 to P21, P28).
//!
//! Every page of an object is on one queue; wired pages too, and the daemon passes over
//! them. There is no count of activity: a page was used since the daemon last looked, or not.

use core::sync::atomic::Ordering::Relaxed;

use machvm_hal::{Gather, MaySleep, PageNo, PmapPage, RefMod};

use super::{QueueId, XBusy, number};
use crate::platform::Platform;
use crate::vm::Vm;

/// The queues of pages (`PQ_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageQueue {
    /// In use as far as known (on whichever queue the policy has it).
    Active,
    /// Unused: freed next if it is clean.
    Inactive,
    /// Unused and modified: written next.
    Laundry,
    /// Modified, and there was no room to write it.
    Unswappable,
}

/// What is said of a page's future (`MADV_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageAdvice {
    /// It will be used.
    WillNeed,
    /// It will not be used soon.
    DontNeed,
    /// Its contents are not wanted any more.
    Free,
}

impl PageQueue {
    fn of(raw: u32) -> Option<Self> {
        Some(match QueueId::of(raw)? {
            QueueId::Active | QueueId::Fresh => PageQueue::Active,
            QueueId::Inactive => PageQueue::Inactive,
            QueueId::Laundry => PageQueue::Laundry,
            QueueId::Unswappable => PageQueue::Unswappable,
        })
    }
    fn id(self) -> QueueId {
        match self {
            PageQueue::Active => QueueId::Active,
            PageQueue::Inactive => QueueId::Inactive,
            PageQueue::Laundry => QueueId::Laundry,
            PageQueue::Unswappable => QueueId::Unswappable,
        }
    }
}

impl<P: Platform> Vm<P> {
    /// The queue that a page is on (P20 `vm_page_queue`). A hint: takes no lock.
    pub fn vm_page_queue(&self, page: PageNo) -> Option<PageQueue> {
        self.pages.slab.lookup(page.0.get()).and_then(|p| PageQueue::of(p.queue.get()))
    }
}

impl<P: Platform> XBusy<'_, P> {
    /// The queue that it is on; none yet when it was just made.
    pub fn queue(&self) -> Option<PageQueue> {
        PageQueue::of(self.structure().queue.get())
    }

    fn enqueue(&mut self, q: PageQueue) {
        self.vm.queues.enqueue(&self.vm.pages, self.page, q.id());
    }

    /// In use (`vm_page_activate`): to the end of the active queue, and counted when it was
    /// set aside.
    pub fn activate(&mut self) {
        if matches!(self.queue(), Some(PageQueue::Inactive | PageQueue::Laundry)) {
            crate::stats::bump(&self.vm.stats.reactivated, 1);
        }
        self.enqueue(PageQueue::Active);
    }

    /// Not in use (`vm_page_deactivate`): unmapped, its use forgotten, and to the end of the
    /// inactive queue. A modified page stays modified, and is written before it is freed.
    pub fn deactivate(&mut self, may: &mut MaySleep) {
        self.set_aside(may);
        self.enqueue(PageQueue::Inactive);
    }

    /// As [`XBusy::deactivate`], and freed before all others (`vm_page_deactivate_noreuse`).
    pub fn deactivate_noreuse(&mut self, may: &mut MaySleep) {
        self.set_aside(may);
        self.vm.queues.enqueue_first(&self.vm.pages, self.page, QueueId::Inactive);
    }

    /// Not in use and to be written (`vm_page_launder`).
    pub fn launder(&mut self, may: &mut MaySleep) {
        self.set_aside(may);
        self.enqueue(PageQueue::Laundry);
    }

    /// Not in use, and there is no room to write it (`vm_page_unswappable`).
    pub fn unswappable(&mut self, may: &mut MaySleep) {
        self.set_aside(may);
        self.enqueue(PageQueue::Unswappable);
    }

    /// To the end of the queue that it is on (`vm_page_requeue`).
    pub fn requeue(&mut self) {
        if let Some(q) = QueueId::of(self.structure().queue.get()) {
            self.vm.queues.enqueue(&self.vm.pages, self.page, q);
        }
    }

    /// It was used (`vm_page_reference`): the daemon finds it so when it looks next.
    pub fn reference(&mut self) {
        self.structure().md.bits.fetch_or(RefMod::REFERENCED.bits(), Relaxed);
    }

    /// Nobody maps it, and it was not used.
    pub(super) fn set_aside(&self, may: &mut MaySleep) {
        self.unmap(may);
        let mut g = Gather::new();
        let pmaps = self.vm.plat.pmap_page();
        pmaps.page_clear(&self.vm.pages, number(self.page), RefMod::REFERENCED, &mut g);
        self.vm.finish(g, may);
    }

    /// Acts on advice (P21 `vm_page_advise`). A page that is wired, or not valid, is passed
    /// over; contents that copies share are not thrown away.
    pub fn advise(&mut self, advice: PageAdvice, may: &mut MaySleep) {
        if !self.is_valid() || self.is_kept() {
            return;
        }
        match advice {
            PageAdvice::WillNeed => self.activate(),
            PageAdvice::Free if !self.is_shared(may) => {
                self.unmap(may);
                self.clear_dirty(may);
                if let Some(a) = self.structure().owner.get() {
                    self.vm.anon_drop_swap(a);
                }
                self.deactivate(may);
            }
            PageAdvice::DontNeed | PageAdvice::Free if self.test_dirty() => self.launder(may),
            PageAdvice::DontNeed | PageAdvice::Free => self.deactivate(may),
        }
    }

    /// What was read ahead is there, or not (P28 `vm_page_readahead_finish`): a page with
    /// contents is let go inactive, since nobody asked for it; one without is freed.
    pub fn readahead_finish(mut self, may: &mut MaySleep) {
        if self.is_valid() {
            self.deactivate(may);
        }
    }
}

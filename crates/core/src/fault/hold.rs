//! Holding pages for I/O (F04 `vm_fault_quick_hold_pages`).
//!
//! A hold is on the page, not on the mapping: it is good while the memory is paged,
//! copied, protected, unmapped, and after its object has ended (Z60). The page is its
//! object's alone as long as it has one ([`crate::object`], decision 16), so what is
//! written through the hold is seen by those who map the object and in no copy.
//!
//! A hold for writing makes the page modified when it is taken and again when it is let go
//! (Z77): in between it may have been written back. Holding takes the page busy, as the
//! daemon does, so one of the two comes first (Z78).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, PAGE_MASK, PAGE_SIZE, Pfn, PhysMem, Prot, RawAddr, RawSize, Va, VaRange};

use super::own::Own;
use crate::error::FaultError;
use crate::map::{Kind, Map};
use crate::page::{Page, PageFlags, Used};
use crate::platform::Platform;
use crate::vm::Vm;

/// A place for one held page in the caller's array.
#[derive(Debug, Default)]
pub struct HeldPage(Option<Handle<Page>>);

/// What to do about a page that must be faulted in first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absent {
    /// Fault it in.
    Fault,
    /// Fail (`VM_PROT_QUICK_NOFAULT`): nothing is waited for but busy pages.
    Refuse,
}

/// Why nothing is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldError {
    /// The range wraps, or is not inside the map.
    Outside(RawAddr),
    /// The array has fewer places than the range has pages.
    TooMany {
        /// Pages of the range.
        pages: u64,
    },
    /// Not in memory, or shared with a copy, and faults were to be refused.
    Absent(Va),
    /// A page could not be had, or the access is not allowed.
    Fault(FaultError),
}

/// Pages held for I/O. Dropping this lets them go.
///
/// => dropped with no spin lock held.
#[must_use]
pub struct Held<'a, 'vm, P: Platform> {
    vm: &'vm Vm<P>,
    pages: &'a mut [HeldPage],
    /// Where in the first page the range starts.
    offset: usize,
    /// Bytes of the range.
    len: usize,
    used: Used,
}

impl<P: Platform> core::fmt::Debug for Held<'_, '_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Held").field("pages", &self.count()).field("used", &self.used).finish()
    }
}

/// How far a run of holds came.
enum Stop {
    /// To the end, or to that of an entry.
    End,
    /// This page is not in memory, or not the object's alone.
    Absent(Va),
    /// This page is busy elsewhere.
    Busy(Handle<Page>),
    /// Look again.
    Again,
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// Holds the pages of `len` bytes at `addr` for I/O (F04): faults in what is absent,
    /// and makes what copies share the object's own. All of it, or nothing. The first
    /// places of `list` are used. With [`Prot::W`] in `access` the pages are modified
    /// from now on. No bytes: no pages, whatever the address.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`HoldError`]; nothing is held.
    pub fn fault_quick_hold_pages<'a>(
        &self,
        addr: RawAddr,
        len: RawSize,
        access: Prot,
        absent: Absent,
        list: &'a mut [HeldPage],
        may: &mut MaySleep,
    ) -> Result<Held<'a, 'vm, P>, HoldError> {
        let used = if access.contains(Prot::W) { Used::Written } else { Used::Read };
        let offset = (addr.0 & PAGE_MASK) as usize;
        if len.0 == 0 {
            return Ok(Held { vm: self.vm(), pages: &mut list[..0], offset, len: 0, used });
        }
        let range = VaRange::check(addr, len).map_err(|_| HoldError::Outside(addr))?;
        if range.start() < self.min() || range.end() > self.max() {
            return Err(HoldError::Outside(addr));
        }
        let many = HoldError::TooMany { pages: range.pages() };
        let (pages, bytes) = usize::try_from(range.pages())
            .ok()
            .filter(|n| *n <= list.len())
            .zip(usize::try_from(len.0).ok())
            .ok_or(many)?;
        let list = &mut list[..pages];
        list.iter_mut().for_each(|p| p.0 = None);
        // From here on a failure drops this, and with it what is held so far.
        let held = Held { vm: self.vm(), pages: list, offset, len: bytes, used };
        let mut n = 0;
        while n < pages {
            let at = range.start().add(n as u64);
            let (got, stop) =
                self.hold_run(at, access, &mut held.pages[n..], may).map_err(HoldError::Fault)?;
            n += got;
            match stop {
                Stop::End | Stop::Again => {}
                Stop::Busy(p) => self.vm().wait_page(p, may),
                Stop::Absent(va) if absent == Absent::Refuse => return Err(HoldError::Absent(va)),
                Stop::Absent(va) => self.fault_own(va, access, may).map_err(HoldError::Fault)?,
            }
        }
        Ok(held)
    }

    /// Holds pages from `at` on, as long as they are one entry's and can be had at once.
    fn hold_run(
        &self,
        at: Va,
        access: Prot,
        list: &mut [HeldPage],
        may: &mut MaySleep,
    ) -> Result<(usize, Stop), FaultError> {
        let vm = self.vm();
        let inner = self.lock_read(may);
        let seen = self.see(&inner, at, may).ok_or(FaultError::NoMapping(at))?;
        let e = seen.entry;
        let o = match (e.kind(), e.object.get()) {
            (Kind::Foreign, _) => return Err(FaultError::Foreign(at)),
            (Kind::StackGap, _) if seen.view.is_none() => return Ok((0, Stop::Absent(at))),
            // Unlike the MMU this tells write from read.
            (Kind::Object, Some(o)) if e.prot().contains(access) && !access.is_empty() => o,
            _ => return Err(FaultError::Protection(at)),
        };
        let object = vm.objects.get(o).lock.read(vm.host(), may);
        let most = (seen.end.page() - at.page()).min(list.len() as u64) as usize;
        for (n, place) in list[..most].iter_mut().enumerate() {
            let va = at.add(n as u64);
            let index = seen.pindex(va);
            let p = match vm.own_page(o, &object, index, access) {
                Own::Yes(p) => p,
                Own::No => return Ok((n, Stop::Absent(va))),
                Own::Busy(p) => return Ok((n, Stop::Busy(p))),
                Own::Again => return Ok((n, Stop::Again)),
            };
            vm.tree_mark_held(&object.tree, index);
            vm.object_note_held(o);
            let page = vm.pages.get(p);
            page.holds.get(1);
            if access.contains(Prot::W) {
                vm.page_written(p);
            }
            vm.page_unbusy(p);
            place.0 = Some(p);
        }
        Ok((most, Stop::End))
    }
}

impl<P: Platform> Vm<P> {
    /// The page is about to be written, or was: its copy on swap is stale.
    ///
    /// => the page is busy and has an owner.
    fn page_written(&self, p: Handle<Page>) {
        let page = self.pages.get(p);
        page.insert_flags(PageFlags::DIRTY);
        if let Some(anon) = page.owner.get().map(|a| self.anons.get(a))
            && let Some(slot) = anon.swap()
        {
            anon.set_swap(None);
            self.swap_free(slot);
        }
    }
}

impl<P: Platform> Held<'_, '_, P> {
    /// How many pages.
    pub fn count(&self) -> usize {
        self.pages.len()
    }
    /// The frame of page `n`, constant while it is held.
    pub fn frame(&self, n: usize) -> Option<Pfn> {
        Some(self.vm.pages.get(self.pages.get(n)?.0?).pfn())
    }
    /// Reads at `off` bytes from the start of the range, as a device would. `None`: that
    /// reaches beyond the range; nothing was read.
    pub fn read(&self, off: usize, buf: &mut [u8]) -> Option<()> {
        let mem = self.vm.mem();
        self.each_part(off, buf.len(), |frame, at, part| mem.read(frame, at, &mut buf[part]))
    }
    /// Writes likewise. `None`: that reaches beyond the range, or the pages are not held
    /// for writing; nothing was written.
    pub fn write(&self, off: usize, data: &[u8]) -> Option<()> {
        if self.used != Used::Written {
            return None;
        }
        let mem = self.vm.mem();
        self.each_part(off, data.len(), |frame, at, part| mem.write(frame, at, &data[part]))
    }
    /// Lets the pages go (`vm_page_unhold_pages`). Dropping does the same.
    pub fn release(self) {}

    /// Calls `f` with the parts of `[off, off + len)` that lie in one page each: its
    /// frame, where in it, and which bytes of the whole.
    fn each_part(
        &self,
        off: usize,
        len: usize,
        mut f: impl FnMut(Pfn, usize, core::ops::Range<usize>),
    ) -> Option<()> {
        off.checked_add(len).filter(|end| *end <= self.len)?;
        let mut done = 0;
        while done < len {
            let at = self.offset + off + done;
            let (page, at) = (at / PAGE_SIZE as usize, at % PAGE_SIZE as usize);
            let n = (len - done).min(PAGE_SIZE as usize - at);
            f(self.frame(page)?, at, done..done + n);
            done += n;
        }
        Some(())
    }
}

impl<P: Platform> Drop for Held<'_, '_, P> {
    fn drop(&mut self) {
        for p in self.pages.iter_mut().filter_map(|p| p.0.take()) {
            self.vm.page_unhold(p, self.used);
        }
    }
}

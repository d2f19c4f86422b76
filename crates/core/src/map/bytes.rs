//! Reading and writing bytes of a map with its rights, page by page (copyin and
//! copyout of a kernel; U14 to U17 where pages cannot be shared).
//!
//! Rights are looked at under the same hold of the map lock as the bytes move, never
//! remembered from before (Z103), and the page is busy meanwhile: no byte of another
//! object is read, and none is written where the right to it is gone.
//!
//! Nothing but the bytes named is written, so a program's own stores beside them are
//! not lost; against its stores to the same bytes this races as a store does.

use machvm_arena::Handle;
use machvm_hal::{MaySleep, PAGE_SIZE, PhysMem, Prot, RawAddr, Va};

use super::copy::MapCopy;
use super::{Kind, Map, Seen};
use crate::error::FaultError;
use crate::object::Object;
use crate::page::{Page, PageFlags};
use crate::platform::Platform;
use crate::vm::Vm;

/// What one look at a page found.
enum Look {
    /// Done.
    Done,
    /// The page must be faulted in for this access first.
    Fault,
    /// The page is busy elsewhere.
    Busy(Handle<Page>),
    /// It changed: look again.
    Again,
}

/// Where a page of a map lies.
struct Spot {
    object: Handle<Object>,
    index: u64,
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// Reads `buf.len()` bytes at `addr`, which lie in one page. Memory that was never
    /// written reads as zero and gets no page.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`FaultError`]; `Protection` without the right to read.
    pub fn read_in_page(&self, addr: u64, buf: &mut [u8], may: &mut MaySleep) -> Result<(), FaultError> {
        debug_assert!(addr % PAGE_SIZE + buf.len() as u64 <= PAGE_SIZE);
        self.each_look(addr, Prot::R, may, |vm, spot, off, may| vm.look_read(spot, off, buf, may))
    }

    /// Writes `data` at `addr`; it lies in one page.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`FaultError`]; `Protection` without the right to write.
    pub fn write_in_page(&self, addr: u64, data: &[u8], may: &mut MaySleep) -> Result<(), FaultError> {
        debug_assert!(addr % PAGE_SIZE + data.len() as u64 <= PAGE_SIZE);
        self.each_look(addr, Prot::W, may, |vm, spot, off, may| vm.look_write(spot, off, data, may))
    }

    /// Looks until `look` is done, faulting and waiting in between with nothing locked.
    fn each_look(
        &self,
        addr: u64,
        access: Prot,
        may: &mut MaySleep,
        mut look: impl FnMut(&Vm<P>, &Spot, usize, &mut MaySleep) -> Look,
    ) -> Result<(), FaultError> {
        let (va, off) = (Va::containing(RawAddr(addr)), (addr % PAGE_SIZE) as usize);
        loop {
            let found = {
                // Held while the bytes move: who takes a right away waits for it.
                let inner = self.lock_read(may);
                let seen = self.see(&inner, va, may).ok_or(FaultError::NoMapping(va))?;
                look(self.vm(), &spot(&seen, va, access)?, off, may)
            };
            match found {
                Look::Done => return Ok(()),
                Look::Fault => self.fault_contents(va, access, may)?,
                Look::Busy(p) => self.vm().wait_page(p, may),
                Look::Again => {}
            }
        }
    }
}

/// The object behind `va`, if `access` is allowed. Unlike the MMU this tells write from
/// read.
fn spot<P: Platform>(seen: &Seen<'_, P>, va: Va, access: Prot) -> Result<Spot, FaultError> {
    let e = seen.entry;
    match (e.kind(), e.object.get()) {
        (Kind::Foreign, _) => Err(FaultError::Foreign(va)),
        (Kind::Object, Some(object)) if e.prot().contains(access) => {
            Ok(Spot { object, index: seen.pindex(va) })
        }
        _ => Err(FaultError::Protection(va)),
    }
}

impl<P: Platform> Vm<P> {
    fn look_read(&self, spot: &Spot, off: usize, buf: &mut [u8], may: &mut MaySleep) -> Look {
        let object = self.objects.get(spot.object);
        let inner = object.lock.read(self.host(), may);
        let (anon, _) = self.tree_lookup(&inner.tree, spot.index);
        let Some(a) = anon else {
            if inner.source.is_some() {
                return Look::Fault;
            }
            buf.fill(0);
            return Look::Done;
        };
        let Some(p) = self.anons.get(a).page() else { return Look::Fault };
        match self.anon_busy_page(a, p) {
            Ok(()) => {}
            Err(Some(p)) => return Look::Busy(p),
            Err(None) => return Look::Again,
        }
        if self.lock_for(spot.object, p).contains(Prot::R) {
            self.page_unbusy(p);
            return Look::Fault;
        }
        drop(inner);
        self.mem().read(self.pages.get(p).pfn(), off, buf);
        self.page_unbusy(p);
        Look::Done
    }

    /// => the map is read locked, so nobody makes a snapshot through it; who makes one
    /// through another map waits for the busy page.
    fn look_write(&self, spot: &Spot, off: usize, data: &[u8], may: &mut MaySleep) -> Look {
        let object = self.objects.get(spot.object);
        let inner = object.lock.read(self.host(), may);
        let (Some(a), path_shared) = self.tree_lookup(&inner.tree, spot.index) else { return Look::Fault };
        let anon = self.anons.get(a);
        let Some(p) = anon.page().filter(|_| !path_shared && !anon.is_shared()) else { return Look::Fault };
        match self.anon_busy_page(a, p) {
            Ok(()) => {}
            Err(Some(p)) => return Look::Busy(p),
            Err(None) => return Look::Again,
        }
        if !self.is_usable(spot.object, p, Prot::RW) {
            self.page_unbusy(p);
            return Look::Fault;
        }
        drop(inner);
        // The copy on swap is stale from now on.
        self.pages.get(p).insert_flags(PageFlags::DIRTY);
        if let Some(slot) = anon.swap() {
            anon.set_swap(None);
            self.swap_free(slot);
        }
        self.mem().write(self.pages.get(p).pfn(), off, data);
        self.page_unbusy(p);
        Look::Done
    }
}

impl<P: Platform> MapCopy<'_, P> {
    /// Reads from the snapshot, `at` bytes from its start; the bytes lie in one page.
    /// `Ok(false)`: the contents must come from a pager, and no map asked for them
    /// before; `buf` is untouched.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`FaultError::PagerIo`] with the page's place in the snapshot: swap lost it.
    pub fn read_in_page(&self, at: u64, buf: &mut [u8], may: &mut MaySleep) -> Result<bool, FaultError> {
        let (vm, page) = (self.vm, Va::containing(RawAddr(at)));
        let off = (at % PAGE_SIZE) as usize;
        let piece = self.iter().map(|h| vm.entries.get(h)).find(|e| e.start() <= page && page < e.end());
        let Some((object, e)) = piece.and_then(|e| Some((vm.objects.get(e.object.get()?), e))) else {
            return Ok(false);
        };
        loop {
            let inner = object.lock.read(vm.host(), may);
            let (anon, _) = vm.tree_lookup(&inner.tree, e.pindex(page).0);
            let Some(a) = anon else {
                let zero = inner.source.is_none();
                if zero {
                    buf.fill(0);
                }
                return Ok(zero);
            };
            let anon = vm.anons.get(a);
            let Some(p) = anon.page() else {
                // Under the object lock nobody gives it a page, so the slot stays.
                let (Some(slot), Some(swap)) = (anon.swap(), vm.plat.swap()) else {
                    // It was clean and dropped: zero again, or the pager's.
                    let zero = inner.source.is_none();
                    if zero {
                        buf.fill(0);
                    }
                    return Ok(zero);
                };
                let mut whole = [0; PAGE_SIZE as usize];
                swap.get(slot, &mut whole).map_err(|_| FaultError::PagerIo(page))?;
                buf.copy_from_slice(&whole[off..off + buf.len()]);
                return Ok(true);
            };
            match vm.anon_busy_page(a, p) {
                Ok(()) => {
                    drop(inner);
                    vm.mem().read(vm.pages.get(p).pfn(), off, buf);
                    vm.page_unbusy(p);
                    return Ok(true);
                }
                Err(Some(busy)) => {
                    drop(inner);
                    vm.wait_page(busy, may);
                }
                Err(None) => {}
            }
        }
    }
}

//! Finding pages of an object, and their busy state (P10, P14, P15).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, PageNo, Pindex};

use super::{Page, SBusy, XBusy, number};
use crate::object::{Anon, Object};
use crate::platform::Platform;
use crate::vm::Vm;

/// A page that was resident at some moment of the call. Holding nothing, it may be gone by
/// now: take it busy by its place, which looks again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// Where in the object.
    pub index: Pindex,
    /// The page structure.
    pub page: PageNo,
    /// Somebody held it busy.
    pub busy: bool,
}

/// A page was not had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryError {
    /// None is resident there.
    Absent,
    /// It is busy.
    Busy,
}

type Found = (Handle<Anon>, Handle<super::Page>);

impl<P: Platform> Vm<P> {
    fn resident(&self, index: u64, page: Handle<super::Page>) -> Resident {
        let busy = self.pages.get(page).busy.is_busy();
        Resident { index: Pindex(index), page: number(page), busy }
    }

    /// The page at `index`, if it is in memory (`vm_page_lookup`).
    ///
    /// => the caller has a reference to the object.
    pub fn vm_page_lookup(
        &self,
        object: Handle<Object>,
        index: Pindex,
        may: &mut MaySleep,
    ) -> Option<Resident> {
        self.find_from(object, index.0, 1, may).map(|(i, (_, p))| self.resident(i, p))
    }

    /// The first resident page at or above `from` (`vm_page_find_least`).
    ///
    /// => as [`Vm::vm_page_lookup`].
    pub fn vm_page_find_least(
        &self,
        object: Handle<Object>,
        from: Pindex,
        may: &mut MaySleep,
    ) -> Option<Resident> {
        self.find_from(object, from.0, u64::MAX - from.0, may).map(|(i, (_, p))| self.resident(i, p))
    }

    /// The page behind `index`, if it is in memory (`vm_page_next`).
    ///
    /// => as [`Vm::vm_page_lookup`].
    pub fn vm_page_next(
        &self,
        object: Handle<Object>,
        index: Pindex,
        may: &mut MaySleep,
    ) -> Option<Resident> {
        self.vm_page_lookup(object, Pindex(index.0.checked_add(1)?), may)
    }

    /// The page before `index`, if it is in memory (`vm_page_prev`).
    ///
    /// => as [`Vm::vm_page_lookup`].
    pub fn vm_page_prev(
        &self,
        object: Handle<Object>,
        index: Pindex,
        may: &mut MaySleep,
    ) -> Option<Resident> {
        self.vm_page_lookup(object, Pindex(index.0.checked_sub(1)?), may)
    }

    /// The first resident page of `[first, first + pages)`.
    pub(crate) fn find_from(
        &self,
        object: Handle<Object>,
        first: u64,
        pages: u64,
        may: &mut MaySleep,
    ) -> Option<(u64, Found)> {
        let inner = self.objects.get(object).lock.read(self.host(), may);
        let mut found = None;
        self.tree_for_each(&inner.tree, first, pages, &mut |i, a| {
            found = self.anons.get(a).page().map(|p| (i, (a, p)));
            found.is_none()
        });
        found
    }

    /// Takes the page at `index` busy alone, if it is in memory and free
    /// (`vm_page_tryxbusy`). It may be shared with copies: then it is for reading.
    ///
    /// => as [`Vm::vm_page_lookup`].
    ///
    /// # Errors
    /// [`TryError`].
    pub fn vm_page_tryxbusy(
        &self,
        object: Handle<Object>,
        index: Pindex,
        may: &mut MaySleep,
    ) -> Result<XBusy<'_, P>, TryError> {
        loop {
            let (_, (a, page)) = self.find_from(object, index.0, 1, may).ok_or(TryError::Absent)?;
            match self.anon_busy_page(a, page) {
                Ok(()) => return Ok(XBusy { vm: self, page, object, index: index.0, valid: true }),
                Err(Some(_)) => return Err(TryError::Busy),
                Err(None) => {}
            }
        }
    }

    /// Shares the page at `index` busy, if it is in memory and nobody holds it alone or waits
    /// to (`vm_page_trysbusy`).
    ///
    /// => as [`Vm::vm_page_lookup`].
    ///
    /// # Errors
    /// [`TryError`].
    pub fn vm_page_trysbusy(
        &self,
        object: Handle<Object>,
        index: Pindex,
        may: &mut MaySleep,
    ) -> Result<SBusy<'_, P>, TryError> {
        loop {
            let (_, (a, page)) = self.find_from(object, index.0, 1, may).ok_or(TryError::Absent)?;
            let structure = self.pages.get(page);
            if !structure.busy.try_share() {
                return Err(TryError::Busy);
            }
            if structure.owner.get() == Some(a) && self.anons.get(a).holds(page) {
                return Ok(SBusy { vm: self, page, object, index: index.0 });
            }
            self.page_unshare(page); // it changed: look again
        }
    }

    /// Sleeps while the page at `index` is busy (P15 `vm_page_sleep_if_busy`). `true`: it slept,
    /// and whatever the caller knew of the place it looks up again (Z70). Before it sleeps it
    /// looks whether the page still is the one there.
    ///
    /// => nothing is locked, and the caller holds no page busy.
    pub fn vm_page_sleep_if_busy(&self, object: Handle<Object>, index: Pindex, may: &mut MaySleep) -> bool {
        let Some((_, (_, page))) = self.find_from(object, index.0, 1, may) else { return false };
        if !self.pages.get(page).busy.is_busy() {
            return false;
        }
        self.wait_page(page, may);
        true
    }

    /// Is the page busy, one way or the other (`vm_page_busied`)? A hint.
    pub fn vm_page_busied(&self, page: PageNo) -> bool {
        self.pages.slab.lookup(page.0.get()).is_some_and(|p| p.busy.is_busy())
    }
    /// Does somebody hold it alone (`vm_page_xbusied`)? A hint.
    pub fn vm_page_xbusied(&self, page: PageNo) -> bool {
        self.pages.slab.lookup(page.0.get()).is_some_and(|p| p.busy.is_exclusive())
    }
    /// Is it wired, or held for I/O (`vm_page_wired`)? A hint.
    pub fn vm_page_wired(&self, page: PageNo) -> bool {
        self.pages.slab.lookup(page.0.get()).is_some_and(Page::is_kept)
    }
}

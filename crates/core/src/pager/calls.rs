//! The calls that pagers make ([`ObjectControl`]).

use machvm_arena::Handle;
use machvm_hal::{
    Attributes, ControlError, ControlId, LockRequest, MaySleep, ObjectControl, PAGE_SHIFT, PAGE_SIZE,
    PagerError, PhysMem, Pindex, Prot, Supply, SupplyError,
};

use super::Control;
use crate::object::Object;
use crate::page::{Page, PlaceError, Request, Wait};
use crate::platform::Platform;
use crate::vm::Vm;

/// Whole pages that do not wrap: the first and how many.
pub(super) fn pages_of(offset: u64, bytes: u64) -> Option<(u64, u64)> {
    let whole = offset.is_multiple_of(PAGE_SIZE) && bytes.is_multiple_of(PAGE_SIZE);
    let fits = offset.checked_add(bytes).is_some();
    (whole && fits).then_some((offset >> PAGE_SHIFT, bytes >> PAGE_SHIFT))
}

/// What is at an index of a memory object.
enum There {
    Nothing,
    Contents,
    Busy(Handle<Page>),
}

impl<P: Platform> Vm<P> {
    fn supply_page(
        &self,
        (object, c, id): (Handle<Object>, Handle<Control>, ControlId),
        offset: u64,
        data: &[u8],
        (lock, how): (Prot, Supply),
        may: &mut MaySleep,
    ) -> Result<(), SupplyError> {
        let mut waited_for = false;
        while let Some(h) = self.pending_take(c, id, offset, PAGE_SIZE) {
            self.mem().write(self.pages.get(h).pfn(), 0, data);
            self.page_supplied(h, how, lock);
            waited_for = true;
        }
        if waited_for {
            return Ok(());
        }
        let index = Pindex(offset >> PAGE_SHIFT);
        loop {
            match self.what_is_at(object, index.0, may) {
                There::Contents => return Err(SupplyError::Present(offset)),
                There::Busy(p) if self.page_is_pending(p) => {
                    return self.supply_page((object, c, id), offset, data, (lock, how), may);
                }
                There::Busy(p) => self.wait_page_settled(p, may),
                There::Nothing => {}
            }
            if !self.memory_object_is(c, id) {
                return Err(SupplyError::Dead);
            }
            // Nobody asked: only if there is room.
            let req = Request::NORMAL.waiting(Wait::No);
            match self.vm_page_alloc(object, index, req, may) {
                Ok(mut x) => {
                    self.mem().write(x.pfn(), 0, data);
                    x.set_valid();
                    x.deactivate(may);
                    self.page_supplied_to(crate::page::handle(x.number()), how, lock);
                    return Ok(());
                }
                Err(PlaceError::Present) => {}
                Err(PlaceError::Beyond | PlaceError::NoMemory) => return Err(SupplyError::NoMemory(offset)),
            }
        }
    }

    fn what_is_at(&self, object: Handle<Object>, index: u64, may: &mut MaySleep) -> There {
        let inner = self.objects.get(object).lock.read(self.host(), may);
        let (Some(a), _) = self.tree_lookup(&inner.tree, index) else { return There::Nothing };
        let anon = self.anons.get(a);
        match (anon.page(), anon.swap()) {
            (Some(p), _) if self.pages.get(p).busy.is_busy() => There::Busy(p),
            (None, None) => There::Nothing,
            _ => There::Contents,
        }
    }

    /// Does the name still mean this control?
    fn memory_object_is(&self, c: Handle<Control>, id: ControlId) -> bool {
        let _table = self.memory_objects.lock();
        self.control_id(c) == id
    }

    /// Calls `f` with every page of a range that waits.
    fn each_pending(
        &self,
        id: ControlId,
        offset: u64,
        bytes: u64,
        f: &mut dyn FnMut(Handle<Page>),
    ) -> Result<(), ControlError> {
        pages_of(offset, bytes).ok_or(ControlError::Argument)?;
        let c = self.control_named(id).filter(|c| self.memory_object_is(*c, id));
        let c = c.ok_or(ControlError::Dead)?;
        while let Some(h) = self.pending_take(c, id, offset, bytes) {
            f(h);
        }
        Ok(())
    }

    /// Calls `f` with the object that a control names, which has a reference meanwhile.
    pub(super) fn with_object<R>(
        &self,
        id: ControlId,
        may: &mut MaySleep,
        f: impl FnOnce((Handle<Object>, Handle<Control>), &mut MaySleep) -> R,
    ) -> Option<R> {
        let (object, c) = self.control_object(id)?;
        let done = f((object, c), may);
        self.object_deallocate(object, may);
        Some(done)
    }
}

impl<P: Platform> ObjectControl for Vm<P> {
    fn ready(&self, object: ControlId, how: Attributes, may: &mut MaySleep) -> Result<(), ControlError> {
        self.change_attributes(object, how, may)
    }

    fn data_supply(
        &self,
        object: ControlId,
        offset: u64,
        data: &[u8],
        lock: Prot,
        how: Supply,
        may: &mut MaySleep,
    ) -> Result<(), SupplyError> {
        pages_of(offset, data.len() as u64).ok_or(SupplyError::Argument)?;
        let pages = data.chunks_exact(PAGE_SIZE as usize).enumerate();
        let done = self.with_object(object, may, |(o, c), may| {
            for (i, page) in pages {
                let at = offset + i as u64 * PAGE_SIZE;
                self.supply_page((o, c, object), at, page, (lock, how), may)?;
            }
            Ok(())
        });
        done.unwrap_or(Err(SupplyError::Dead))
    }

    fn data_unavailable(
        &self,
        object: ControlId,
        offset: u64,
        bytes: u64,
        _may: &mut MaySleep,
    ) -> Result<(), ControlError> {
        self.each_pending(object, offset, bytes, &mut |h| {
            // Part of it may have been written before the request was put off.
            self.mem().write(self.pages.get(h).pfn(), 0, &[0; PAGE_SIZE as usize]);
            self.page_supplied(h, Supply::Clean, Prot::NONE);
        })
    }

    fn data_error(
        &self,
        object: ControlId,
        offset: u64,
        bytes: u64,
        why: PagerError,
        _may: &mut MaySleep,
    ) -> Result<(), ControlError> {
        self.each_pending(object, offset, bytes, &mut |h| self.page_abandon(h, Some(why)))
    }

    fn lock_request(
        &self,
        object: ControlId,
        request: &LockRequest,
        may: &mut MaySleep,
    ) -> Result<(), ControlError> {
        let (first, pages) = pages_of(request.offset, request.bytes).ok_or(ControlError::Argument)?;
        let done = self.with_object(object, may, |(o, c), may| {
            self.lock_pages((o, c, object), Pindex(first), pages, request, may)
        });
        done.unwrap_or(Err(ControlError::Dead))
    }

    fn change_attributes(
        &self,
        object: ControlId,
        how: Attributes,
        may: &mut MaySleep,
    ) -> Result<(), ControlError> {
        // With a reference: letting it go ends an object that may not be kept any more.
        let done = self.with_object(object, may, |_, _| self.control_ready(object, how));
        if done == Some(true) { Ok(()) } else { Err(ControlError::Dead) }
    }

    fn get_attributes(&self, object: ControlId) -> Result<(bool, Attributes), ControlError> {
        let c = self.control_named(object).ok_or(ControlError::Dead)?;
        let _table = self.memory_objects.lock();
        if self.control_id(c) != object {
            return Err(ControlError::Dead);
        }
        let control = self.controls.get(c);
        Ok((control.state().contains(super::State::READY), control.attributes()))
    }

    fn destroy(&self, object: ControlId, may: &mut MaySleep) -> Result<(), ControlError> {
        if self.control_destroy(object, may) { Ok(()) } else { Err(ControlError::Dead) }
    }
}

//! Pages that must be their object's alone: under wirings and holds (decision 16).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, Prot, RawAddr, Va, VaRange};

use super::{Fault, Purpose};
use crate::error::FaultError;
use crate::map::{Entry, Map};
use crate::object::{Object, ObjectInner};
use crate::page::Page;
use crate::platform::Platform;
use crate::vm::Vm;

/// What a look at the page of an index found.
pub(crate) enum Own {
    /// Busy now, and the object's alone.
    Yes(Handle<Page>),
    /// It is not in memory, or shared, or (sparse) not where this object maps it.
    No,
    /// It is busy elsewhere.
    Busy(Handle<Page>),
    /// It changed: look again.
    Again,
}

impl<P: Platform> Vm<P> {
    /// The page at `index` of an object, busy, if it is the object's alone and may be used so.
    ///
    /// => the object is at least read locked.
    pub(crate) fn own_page(&self, o: Handle<Object>, inner: &ObjectInner, index: u64, access: Prot) -> Own {
        let (Some(a), path) = self.tree_lookup(&inner.tree, index) else { return Own::No };
        let anon = self.anons.get(a);
        let Some(p) = anon.page().filter(|_| !path && !anon.is_shared()) else { return Own::No };
        match self.anon_busy_page(a, p) {
            Ok(()) if self.is_at_home(o, p, index) && self.is_usable(o, p, access) => Own::Yes(p),
            Ok(()) => {
                self.page_unbusy(p);
                Own::No
            }
            Err(Some(busy)) => Own::Busy(busy),
            Err(None) => Own::Again,
        }
    }
}

impl<P: Platform> Vm<P> {
    /// Does neither its lock nor a copy forbid this access to a page?
    ///
    /// => the page is busy and the object's, which is locked.
    pub(crate) fn is_usable(&self, o: Handle<Object>, p: Handle<Page>, access: Prot) -> bool {
        !self.lock_for(o, p).intersects(access) && !self.must_push(o, p)
    }
}

impl<P: Platform> Map<'_, P> {
    /// Brings the page at `va` into memory, for its object alone and for this access.
    ///
    /// => nothing is locked. By the return somebody may share it again.
    ///
    /// # Errors
    /// Those of [`Map::fault`], but for rights.
    pub(crate) fn fault_own(&self, va: Va, access: Prot, may: &mut MaySleep) -> Result<(), FaultError> {
        self.fault_for(&Fault { addr: RawAddr(va.get()), access }, Purpose::Own, may)
    }

    /// Brings the page at `va` into memory for this access, if it has contents.
    ///
    /// => nothing is locked. By the return it may be gone again.
    ///
    /// # Errors
    /// Those of [`Map::fault`]; [`FaultError::Foreign`]: it is a device's.
    pub(crate) fn fault_contents(&self, va: Va, access: Prot, may: &mut MaySleep) -> Result<(), FaultError> {
        self.fault_for(&Fault { addr: RawAddr(va.get()), access }, Purpose::Contents, may)
    }

    /// Marks the wired pages of `part` of `e` as the object's alone, so that copies do not
    /// share them. Gives the address of the first that is shared; what is not in memory
    /// is passed over (F06).
    ///
    /// => the map is write locked.
    pub(crate) fn mark_wired(&self, e: &Entry, part: VaRange, may: &mut MaySleep) -> Option<Va> {
        let (vm, o) = (self.vm(), e.object.get()?);
        let first = e.pindex(part.start()).0;
        let inner = vm.objects.get(o).lock.read(vm.host(), may);
        let mut shared = None;
        vm.tree_for_each(&inner.tree, first, part.pages(), &mut |i, a| {
            let (_, path) = vm.tree_lookup(&inner.tree, i);
            let anon = vm.anons.get(a);
            let Some(p) = anon.page().filter(|p| vm.pages.get(*p).wired.get() != 0) else { return true };
            if path || anon.is_shared() || !vm.is_at_home(o, p, i) {
                shared = Some(part.start().add(i - first));
            } else {
                vm.tree_mark_held(&inner.tree, i);
            }
            shared.is_none()
        });
        shared
    }
}

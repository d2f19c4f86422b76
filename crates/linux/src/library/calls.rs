//! What pagers in other processes call: the memory object calls, into a VM of this one.
//!
//! A thread of the pager's connection makes them. It passes the gate as a helper does: who is
//! inside may be waiting for what this thread brings, or for the pager, which waits for it.

use std::sync::{Arc, Weak};

use machvm_hal::{
    Attributes, ControlError, ControlId, LockRequest, MaySleep, ObjectControl, PagerError, Prot, Supply,
    SupplyError,
};

use super::platform::Hosted;
use super::quiet::Quiet;

/// A VM, as its pagers call it.
#[derive(Debug)]
pub(super) struct Calls(Weak<machvm::Vm<Hosted>>);

impl Calls {
    pub(super) fn new(vm: &Arc<machvm::Vm<Hosted>>) -> Self {
        Calls(Arc::downgrade(vm))
    }

    /// Makes a call; of a VM that is gone every object is.
    fn call<R>(&self, gone: R, f: impl FnOnce(&machvm::Vm<Hosted>) -> R) -> R {
        // Before the VM, which may end with this reference.
        let quiet = Quiet::helper();
        match self.0.upgrade() {
            Some(vm) if quiet.has_passed() => f(&vm),
            _ => gone,
        }
    }
}

impl ObjectControl for Calls {
    fn ready(&self, object: ControlId, how: Attributes, may: &mut MaySleep) -> Result<(), ControlError> {
        self.call(Err(ControlError::Dead), |vm| vm.ready(object, how, may))
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
        self.call(Err(SupplyError::Dead), |vm| vm.data_supply(object, offset, data, lock, how, may))
    }

    fn data_unavailable(
        &self,
        object: ControlId,
        offset: u64,
        bytes: u64,
        may: &mut MaySleep,
    ) -> Result<(), ControlError> {
        self.call(Err(ControlError::Dead), |vm| vm.data_unavailable(object, offset, bytes, may))
    }

    fn data_error(
        &self,
        object: ControlId,
        offset: u64,
        bytes: u64,
        why: PagerError,
        may: &mut MaySleep,
    ) -> Result<(), ControlError> {
        self.call(Err(ControlError::Dead), |vm| vm.data_error(object, offset, bytes, why, may))
    }

    fn lock_request(
        &self,
        object: ControlId,
        request: &LockRequest,
        may: &mut MaySleep,
    ) -> Result<(), ControlError> {
        self.call(Err(ControlError::Dead), |vm| vm.lock_request(object, request, may))
    }

    fn change_attributes(
        &self,
        object: ControlId,
        how: Attributes,
        may: &mut MaySleep,
    ) -> Result<(), ControlError> {
        self.call(Err(ControlError::Dead), |vm| vm.change_attributes(object, how, may))
    }

    fn get_attributes(&self, object: ControlId) -> Result<(bool, Attributes), ControlError> {
        self.call(Err(ControlError::Dead), |vm| vm.get_attributes(object))
    }

    fn destroy(&self, object: ControlId, may: &mut MaySleep) -> Result<(), ControlError> {
        self.call(Err(ControlError::Dead), |vm| vm.destroy(object, may))
    }
}

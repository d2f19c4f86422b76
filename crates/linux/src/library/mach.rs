//! The Mach calls for tasks of this process: the core's own, given what they need.
//!
//! ```
//! use machvm::task::Personality;
//! use machvm_hal::{RawAddr, RawSize};
//! use machvm_linux::{Config, Vm};
//!
//! # fn main() -> Result<(), machvm_linux::Error> {
//! let vm = Vm::new(Config::default())?;
//! let task = vm.task()?;
//! let addr = task.allocate(8192)?;
//! task.write(addr, b"copied")?;
//! let mut inside = vm.inside()?;
//! // SAFETY: no memory entry is made of it.
//! let mach = unsafe { task.mach(&Personality::XNU) };
//! let (from, to) = (RawAddr(addr as u64), RawAddr(addr as u64 + 100));
//! mach.vm_copy(from, RawSize(6), to, inside.may()).unwrap();
//! drop(inside); // before managed memory is touched
//! let mut word = [0; 6];
//! task.read(addr + 100, &mut word)?;
//! assert_eq!(&word, b"copied");
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use machvm::task::Personality;
use machvm_hal::MaySleep;

use super::error::Error;
use super::platform::Hosted;
use super::quiet::Quiet;
use super::task::Task;
use super::{Shared, Vm};

/// The calling thread is inside the VM: no signal from outside is delivered to it, and it
/// must not touch managed memory.
pub struct Inside {
    _quiet: Quiet,
    may: MaySleep,
    _after: After,
}

/// What is done after a call, outside.
struct After(Arc<Shared>);

impl Drop for After {
    fn drop(&mut self) {
        self.0.free_later();
    }
}

impl core::fmt::Debug for Inside {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Inside")
    }
}

impl Inside {
    fn of(shared: &Arc<Shared>) -> Result<Self, Error> {
        Ok(Inside { _quiet: shared.enter()?, may: MaySleep::claim(), _after: After(Arc::clone(shared)) })
    }
    /// The right to sleep, which calls ask for.
    pub fn may(&mut self) -> &mut MaySleep {
        &mut self.may
    }
}

impl Vm {
    /// Enters the VM, until the value is dropped.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn inside(&self) -> Result<Inside, Error> {
        Inside::of(&self.0)
    }
    /// The core's system, for the calls that concern no task.
    ///
    /// # Safety
    /// 1. What is made of it (memory entries) is gone before the last clone of this value
    ///    and the last task are.
    pub unsafe fn core(&self) -> &'static machvm::Vm<Hosted> {
        // SAFETY: 1; the VM does not move.
        unsafe { &*std::sync::Arc::as_ptr(&self.0.vm) }
    }
}

impl Task {
    /// The task as the Mach calls see it.
    ///
    /// => every call is made while the thread is [`Inside`].
    ///
    /// # Safety
    /// 1. What is made of it (memory entries) is gone before the last clone of the [`Vm`]
    ///    and the last task are.
    pub unsafe fn mach(&self, how: &'static Personality) -> machvm::task::Task<'_, 'static, Hosted> {
        machvm::task::Task::new(self.map(), how)
    }
}

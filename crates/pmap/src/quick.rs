//! A page at a kernel address for a moment (PM36, PM37).
//!
//! Through the direct map where there is one; else each CPU has a slot, one page of the
//! kernel's addresses whose table is there for ever, so nothing can fail. Only its CPU
//! touches a slot's address, and the thread stays on the CPU while the guard lives: so
//! the flush at the end is this CPU's alone. What another CPU may have walked there by
//! itself is never used: that CPU has a slot of its own.

use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use machvm_arch::{Space, Tlb};
use machvm_hal::pmap9::{MemAttr, QuickPage};
use machvm_hal::{CpuId, Pfn, Prot, Va, VaRange};

use crate::cpu::MAX_CPUS;
use crate::kernel::kernel_leaf;
use crate::port::{Cpus, Port, TableMem};
use crate::pte::{Format, Pte};
use crate::system::{CreateError, System};

/// The page can be read and written at [`Quick::va`], by this thread, until this is
/// dropped. Preemption is off.
#[must_use]
pub struct Quick<'a, P: Port> {
    sys: &'a System<P>,
    va: Va,
    cpu: CpuId,
    /// Through the CPU's slot.
    slot: bool,
    _pin: <P::Cpus as Cpus>::Pin,
    /// One CPU's, so one thread's.
    _thread: PhantomData<*const ()>,
}

impl<P: Port> Quick<'_, P> {
    /// Where the page is.
    pub fn va(&self) -> Va {
        self.va
    }
}

impl<P: Port> QuickPage for Quick<'_, P> {
    fn va(&self) -> Va {
        self.va
    }
}

impl<P: Port> core::fmt::Debug for Quick<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Quick({:?} on {:?})", self.va, self.cpu)
    }
}

impl<P: Port> System<P> {
    /// What [`System::quick_enter`] needs where there is no direct map: addresses off the
    /// end of the kernel's, and their table. Once, before [`System::virtual_space`] is
    /// asked for; a second call changes nothing.
    ///
    /// # Errors
    /// [`CreateError`]: no frame for the table.
    pub fn prepare_quick(&self) -> Result<(), CreateError> {
        self.make_slots().map_err(|_| CreateError)
    }

    /// `pmap_quick_enter_page` (PM36). Never fails, never waits.
    ///
    /// => any lock may be held; not in an interrupt handler. The frame is not used for
    ///    another purpose meanwhile (Z139). The thread does not sleep, wait, or nest.
    ///
    /// # Panics
    /// Nested (Z138), or neither a direct map nor [`System::prepare_quick`].
    #[track_caller]
    pub fn quick_enter(&self, frame: Pfn) -> Quick<'_, P> {
        let pin = self.port.cpus().pin();
        let cpu = self.port.cpus().current();
        let used = self.kspace.slot_used[cpu.0 as usize % MAX_CPUS].swap(frame.0 + 1, Ordering::Relaxed);
        assert!(used == 0, "frame {:#x} while {cpu:?} has frame {:#x} quickly entered", frame.0, used - 1);
        let direct = self.port.mem().direct(frame);
        let va = direct.unwrap_or_else(|| self.slot_of(cpu));
        let quick = Quick { sys: self, va, cpu, slot: direct.is_none(), _pin: pin, _thread: PhantomData };
        if quick.slot {
            let leaf = kernel_leaf(frame, Prot::RW, MemAttr::WriteBack);
            let old = self.set_slot(va, P::Format::emit(Pte::Leaf(leaf), 1));
            debug_assert!(old == 0, "{va:?} of {cpu:?} was left at {old:#x}");
            self.port.tlb().publish(Space::Kernel, VaRange::page(va), false);
        }
        quick
    }

    fn slot_of(&self, cpu: CpuId) -> Va {
        let slots = self.kspace.slots.load(Ordering::Relaxed);
        assert!(slots != 0, "no direct map, and no System::prepare_quick");
        Va::from_page(slots >> 12).add(u64::from(cpu.0) % MAX_CPUS as u64)
    }

    fn set_slot(&self, va: Va, word: u64) -> u64 {
        let w = self.walk(self.pmap(self.kernel_id()), va.get());
        debug_assert!(w.is_leaf(), "the table of the slots is gone");
        self.port.mem().swap(w.table(1), P::Format::index(va.get(), 1), word)
    }
}

impl<P: Port> Drop for Quick<'_, P> {
    fn drop(&mut self) {
        let now = self.sys.port.cpus().current();
        debug_assert_eq!(now, self.cpu, "{:?} entered on one CPU and given back on another", self.va);
        if self.slot {
            self.sys.set_slot(self.va, 0);
            self.sys.flush_kernel_page(self.va);
        }
        self.sys.kspace.slot_used[self.cpu.0 as usize % MAX_CPUS].store(0, Ordering::Relaxed);
    }
}

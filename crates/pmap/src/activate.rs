//! Which pmap a CPU walks.
//!
//! What runs after [`System::deactivate`] is a root without user addresses: the
//! kernel's where it is the upper half of every root, an empty table where the kernel
//! has a root of its own (its entries would be found at low addresses). A CPU therefore
//! never goes on walking a pmap that it has left, and a pmap that is active nowhere can
//! be destroyed.
//!
//! Between two user pmaps nothing else is loaded: [`System::activate`] of the second
//! leaves the first, and a `deactivate` of the first that comes later does nothing.
//!
//! Interrupts may come at any point of a switch. A request that does finds the CPU's
//! loaded pmap [`Loaded::Unknown`] and flushes everything: whatever is or will be walked
//! then, nothing of before is left under its number.

use machvm_arch::{Asid, Space, Tlb};
use machvm_hal::{CpuId, Pfn};

use crate::asid::Claimer;
use crate::cpu::{Loaded, PerCpu};
use crate::port::{Cpus, Port};
use crate::seed::Bug;
use crate::system::{PmapData, PmapId, System};

/// What the numbers ask of a CPU that loads a pmap.
struct Switching<'a, P: Port> {
    sys: &'a System<P>,
    cpu: CpuId,
    pm: &'a PmapData,
}

impl<P: Port> Claimer for Switching<'_, P> {
    fn flush_all(&self) {
        if self.sys.port.seeded(Bug::AsidReusedWithoutFlush) {
            return;
        }
        let tlb = self.sys.port.tlb();
        tlb.before();
        tlb.flush_all();
        tlb.after();
    }
    fn wait(&self) {
        self.sys.serve(self.cpu);
        self.sys.port.cpus().relax();
    }
    fn forget(&self) {
        self.pm.cpus.forget();
    }
}

impl<P: Port> System<P> {
    /// `pmap_activate` (PM44): this CPU walks the pmap from now on; the one that it
    /// walked before is left. The kernel's pmap: no user addresses.
    ///
    /// => on `cpu`, pinned, and not from an interrupt that may have come into another
    ///    activate; interrupts as you like.
    /// => the pmap is referenced, and stays so until the CPU has left it.
    /// => while it waits for other CPUs (numbers ran out), this CPU answers theirs.
    pub fn activate(&self, id: PmapId, cpu: CpuId) {
        debug_assert_eq!(cpu, self.port.cpus().current(), "{id:?} is activated for another CPU");
        let (here, old) = self.leaving(cpu);
        if id == self.kernel_id() {
            return self.load_idle(cpu, here, old);
        }
        if let Loaded::User(same, _) = old
            && same == id
        {
            return;
        }
        let pm = self.pmap(id);
        debug_assert!(pm.is_alive(), "{id:?} is activated and does not exist");
        here.set_loaded(Loaded::Unknown);
        // Z142: first to be asked, then the number, then what to flush, then the root.
        pm.cpus.enter(cpu);
        let asid = Asid(self.asids.claim(cpu, &pm.context, &Switching { sys: self, cpu, pm }));
        let stale = pm.cpus.is_stale(cpu);
        // Under 0 there may be another's.
        self.port.tlb().switch(pm.root(), asid, stale || asid.0 == 0);
        self.asids.settle(cpu);
        if asid.0 != 0 && unnumbered(old) {
            self.clean_zero();
        }
        here.set_loaded(Loaded::User(id, asid.0));
        self.left(old, cpu);
    }

    /// `pmap_deactivate` (PM44): this CPU walks no user addresses from now on. Nothing
    /// when it does not walk this pmap.
    ///
    /// => as [`System::activate`].
    pub fn deactivate(&self, id: PmapId, cpu: CpuId) {
        debug_assert_eq!(cpu, self.port.cpus().current(), "{id:?} is deactivated for another CPU");
        let (here, old) = self.leaving(cpu);
        if let Loaded::User(loaded, _) = old
            && loaded == id
        {
            self.load_idle(cpu, here, old);
        }
    }

    fn leaving(&self, cpu: CpuId) -> (&PerCpu, Loaded) {
        let here = self.per_cpu(cpu);
        let old = here.loaded();
        debug_assert!(old != Loaded::Unknown, "{cpu:?} switches inside a switch");
        (here, old)
    }

    fn load_idle(&self, cpu: CpuId, here: &PerCpu, old: Loaded) {
        here.set_loaded(Loaded::Unknown);
        // Number 0 is also that of unnumbered pmaps.
        self.port.tlb().switch(self.idle_root(), Asid(0), unnumbered(old));
        self.asids.idle(cpu);
        here.set_loaded(Loaded::Idle);
        self.left(old, cpu);
    }

    fn left(&self, old: Loaded, cpu: CpuId) {
        if let Loaded::User(old, _) = old {
            self.pmap(old).cpus.leave(cpu);
        }
    }

    /// An unnumbered pmap was left for a number: the kernel's root may be next under 0.
    fn clean_zero(&self) {
        let tlb = self.port.tlb();
        tlb.before();
        tlb.flush_space(Space::User { asid: Asid(0), current: false });
        tlb.after();
    }

    /// A root without user addresses.
    fn idle_root(&self) -> Pfn {
        self.idle
    }
}

fn unnumbered(l: Loaded) -> bool {
    matches!(l, Loaded::User(_, 0))
}

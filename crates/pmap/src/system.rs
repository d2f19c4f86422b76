//! All pmaps of a machine.

use core::num::NonZeroU32;

use machvm_arch::{Asid, Space, Tlb};
use machvm_arena::{Handle, NoMemory, Slab};
use machvm_hal::{CpuId, Flush, Invalidations, MaySleep, Pfn, VaRange};
use machvm_sync::atomic::{AtomicU64, Ordering};
use machvm_sync::{Field32, Field64, Rank, Refs, Spin};

use crate::active::ActiveSet;
use crate::asid::{self, AsidPool};
use crate::cpu::{MAX_CPUS, PerCpu};
use crate::defer::Deferred;
use crate::epoch::{Epoch, Epochs};
use crate::kernel::KernelSpace;
use crate::port::{Cpus, Port, TableMem};
use crate::pte::{Format, Pte};
use crate::pv::PvPool;
use crate::seed::Bug;
use crate::table::{Ident, TableMd};

/// Names a pmap. The tag of its ranges in a [`machvm_hal::Gather`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct PmapId(NonZeroU32);

impl PmapId {
    /// The inverse of [`PmapId::raw`]; zero names none.
    #[inline]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match NonZeroU32::new(raw) {
            Some(n) => Some(PmapId(n)),
            None => None,
        }
    }
    /// As a number.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0.get()
    }
    #[inline]
    pub(crate) fn handle(self) -> Handle<PmapData> {
        Handle::from_raw(self.0)
    }
}

/// Why a pmap or the [`System`] could not be made: no structure, or no frame for the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CreateError;

impl From<NoMemory> for CreateError {
    fn from(_: NoMemory) -> Self {
        CreateError
    }
}

/// One pmap. Type-stable: a stale number finds a recycled one, so whoever comes from a
/// page or a table asks again under the lock.
///
/// Letters: \[P\] `lock`, \[T\] the leaf table concerned, \[I\] constant while the pmap
/// lives, \[a\] atomic on its own.
#[derive(Debug)]
pub(crate) struct PmapData {
    /// Upper tables, and which tables there are.
    pub(crate) lock: Spin<()>,
    /// Frame of the root table; 0: not alive. \[I\]
    root: Field64,
    /// 1: the kernel's. \[I\]
    kernel: Field32,
    /// Handles.
    pub(crate) refs: Refs,
    /// CPUs that its translations may be on. \[a\]
    pub(crate) cpus: ActiveSet,
    /// Generation << 16 | address-space number; 0: none yet. \[a\], protocol in `asid`
    pub(crate) context: AtomicU64,
    /// Pages mapped. \[a\]
    pub(crate) resident: AtomicU64,
    /// Of those, wired. \[a\]
    pub(crate) wired: AtomicU64,
    /// What `pmap(9)` has to flush at the next update.
    pub(crate) deferred: Spin<Deferred>,
}

impl Default for PmapData {
    fn default() -> Self {
        PmapData {
            lock: Spin::new(Rank::Pmap, ()),
            root: Field64::new(0),
            kernel: Field32::new(0),
            refs: Refs::new(0),
            cpus: ActiveSet::new(),
            context: AtomicU64::new(0),
            resident: AtomicU64::new(0),
            wired: AtomicU64::new(0),
            deferred: Spin::new(Rank::Deferred, Deferred::default()),
        }
    }
}

impl PmapData {
    #[inline]
    pub(crate) fn root(&self) -> Pfn {
        Pfn(self.root.get())
    }
    #[inline]
    pub(crate) fn is_alive(&self) -> bool {
        self.root.get() != 0
    }
    #[inline]
    pub(crate) fn is_kernel(&self) -> bool {
        self.kernel.get() != 0
    }
    /// The number its translations carry now.
    #[inline]
    pub(crate) fn asid(&self) -> Asid {
        Asid(asid::number(self.context.load(Ordering::Relaxed)))
    }
    /// For instructions on a CPU that has it loaded.
    #[inline]
    pub(crate) fn space_here(&self) -> Space {
        if self.is_kernel() { Space::Kernel } else { Space::User { asid: self.asid(), current: true } }
    }
    /// Counts mappings that came (positive) and went.
    #[inline]
    pub(crate) fn count(&self, resident: i64, wired: i64) {
        // Two's complement: adding the wrapped value subtracts.
        if resident != 0 {
            self.resident.fetch_add(resident as u64, Ordering::Relaxed);
        }
        if wired != 0 {
            self.wired.fetch_add(wired as u64, Ordering::Relaxed);
        }
    }
}

/// All pmaps of a machine, and what they share. No statics: a test makes a hundred.
pub struct System<P: Port> {
    pub(crate) port: P,
    pub(crate) pmaps: Slab<PmapData, P::Chunks>,
    pub(crate) pv: PvPool<P>,
    pub(crate) epochs: Epochs,
    pub(crate) cpus: [PerCpu; MAX_CPUS],
    pub(crate) asids: AsidPool<MAX_CPUS>,
    /// Root of CPUs that walk no user pmap. \[I\]
    pub(crate) idle: Pfn,
    kernel: PmapId,
    /// Kernel addresses below this have tables. \[P\] of the kernel's pmap to write
    pub(crate) kernel_end: AtomicU64,
    pub(crate) kspace: KernelSpace,
}

impl<P: Port> System<P> {
    /// `pmap_init` (PM01): the system and the kernel's pmap, without mappings.
    ///
    /// # Errors
    /// [`CreateError`]: no memory for the kernel's root.
    pub fn new(port: P) -> Result<Self, CreateError> {
        let c = port.chunks();
        let pmaps = Slab::new(c, u32::MAX >> 1);
        let h: Handle<PmapData> = pmaps.alloc()?;
        // A port that forgets to flush is to be caught soon.
        let few = if port.seeded(Bug::AsidReusedWithoutFlush) { 3 } else { u32::MAX };
        let mut sys = System {
            pv: PvPool::new(c),
            pmaps,
            epochs: Epochs::new(),
            cpus: core::array::from_fn(|_| PerCpu::new()),
            asids: AsidPool::new(port.tlb().asids().min(few), P::Tlb::BROADCAST),
            idle: Pfn(0),
            kernel: PmapId(h.raw()),
            kernel_end: AtomicU64::new(port.kernel_range().start().get()),
            kspace: KernelSpace::new(port.kernel_range().start()),
            port,
        };
        let root = sys.table_take().ok_or(CreateError)?;
        sys.bring_to_life(sys.kernel, root, true);
        sys.idle = if P::Format::SPLIT_ROOT { sys.table_take().ok_or(CreateError)? } else { root };
        Ok(sys)
    }

    /// The epoch of what is about to be taken away under `g`.
    #[inline]
    pub(crate) fn epoch(&self, g: &mut machvm_hal::Gather) -> Epoch {
        self.epochs.of(g, self.port.cpus().current().0.into())
    }

    fn bring_to_life(&self, id: PmapId, root: Pfn, kernel: bool) {
        let pm = self.pmap(id);
        if let Some(md) = self.port.mem().md(root) {
            md.set_ident(Ident { pmap: id, va: 0, level: P::Format::LEVELS, deposited: false });
        }
        pm.refs.revive();
        pm.cpus.reset();
        for word in [&pm.context, &pm.resident, &pm.wired] {
            word.store(0, Ordering::Relaxed);
        }
        pm.kernel.set(u32::from(kernel));
        pm.root.set(root.0);
    }

    /// `pmap_create` (PM05): a new empty user pmap with one reference. The kernel's
    /// upper entries are in it where the format has one root.
    ///
    /// # Errors
    /// [`CreateError`]; nothing is left over.
    pub(crate) fn create_raw(&self) -> Result<PmapId, CreateError> {
        let h = self.pmaps.alloc()?;
        let Some(root) = self.table_take() else {
            self.pmaps.free(h);
            return Err(CreateError);
        };
        let id = PmapId(h.raw());
        let kernel = self.pmap(self.kernel);
        // The kernel's lock: its upper entries are copied before or after they grow, and
        // growing reaches every pmap that is alive.
        let _k = kernel.lock.lock();
        if !P::Format::SPLIT_ROOT {
            let mem = self.port.mem();
            let level = P::Format::LEVELS;
            for i in P::Format::entries(level) / 2..P::Format::entries(level) {
                let raw = mem.load(kernel.root(), i);
                if raw != 0 {
                    mem.store(root, i, raw);
                }
            }
        }
        self.bring_to_life(id, root, false);
        Ok(id)
    }

    /// `pmap_destroy` (PM08), at zero references: frees every table.
    ///
    /// => no mapping is left (Z135); it is loaded on no CPU.
    pub(crate) fn destroy_raw(&self, id: PmapId) {
        let pm = self.pmap(id);
        let resident = pm.resident.load(Ordering::Relaxed);
        let active = pm.cpus.active().0;
        debug_assert!(active == 0, "{id:?} is destroyed while CPUs {active:#b} have it loaded");
        debug_assert!(resident == 0, "{id:?} is destroyed with {resident} pages mapped");
        if resident != 0 || active != 0 {
            // Its tables lead to memory that somebody thinks is mapped: lose them rather
            // than hand them out again.
            return;
        }
        self.finish_deferred(id, &mut MaySleep::claim());
        // Walks of it may be remembered wherever it was loaded.
        self.flush_everywhere(id);
        let root = pm.root();
        {
            // Growing the kernel writes into the roots of live pmaps.
            let _k = self.pmap(self.kernel).lock.lock();
            pm.root.set(0);
        }
        self.free_tree(root, P::Format::LEVELS);
        self.pmaps.free(id.handle());
    }

    /// Empties and frees a table and all below. Kernel entries of a root are not below.
    fn free_tree(&self, table: Pfn, level: u8) {
        let mem = self.port.mem();
        let root = level == P::Format::LEVELS;
        let own = if root && !P::Format::SPLIT_ROOT {
            P::Format::entries(level) / 2
        } else {
            P::Format::entries(level)
        };
        for i in 0..P::Format::entries(level) {
            let raw = mem.load(table, i);
            if raw == 0 {
                continue;
            }
            if i < own
                && level > 1
                && let Pte::Next(n) = P::Format::parse(raw, level)
            {
                self.free_tree(n.pfn, level - 1);
            }
            mem.store(table, i, 0);
        }
        if let Some(md) = mem.md(table) {
            md.clear_ident();
        }
        self.table_give(table);
    }

    /// Cache lines of records in use, beyond the first record of each page, which is in the
    /// page's own structure: six records each.
    pub fn record_chunks(&self) -> u32 {
        self.pv.live()
    }
    /// What the embedder gave.
    pub fn port(&self) -> &P {
        &self.port
    }
    /// `pmap_kernel()` (PM10).
    #[inline]
    pub fn kernel_id(&self) -> PmapId {
        self.kernel
    }
    /// Kernel addresses that may be handed out.
    pub(crate) fn kernel_range(&self) -> VaRange {
        self.port.kernel_range()
    }
    #[inline]
    pub(crate) fn pmap(&self, id: PmapId) -> &PmapData {
        self.pmaps.get(id.handle())
    }
    #[inline]
    pub(crate) fn md(&self, table: Pfn) -> Option<&TableMd> {
        self.port.mem().md(table)
    }
    /// The structures of this CPU, which may be another's by the time they are used.
    #[inline]
    pub(crate) fn here(&self) -> &PerCpu {
        self.per_cpu(self.port.cpus().current())
    }
    #[inline]
    pub(crate) fn per_cpu(&self, cpu: CpuId) -> &PerCpu {
        &self.cpus[cpu.0 as usize % MAX_CPUS]
    }

    /// A table of zeroes: the one this CPU kept, or a new one.
    pub(crate) fn table_take(&self) -> Option<Pfn> {
        match self.here().spare.swap(0, Ordering::Acquire) {
            0 => self.port.mem().alloc(),
            pfn => Some(Pfn(pfn)),
        }
    }
    /// Gives back a table of zeroes that no CPU walks: this CPU keeps one.
    pub(crate) fn table_give(&self, table: Pfn) {
        match self.here().spare.swap(table.0, Ordering::AcqRel) {
            0 => {}
            old => self.port.mem().free(Pfn(old)),
        }
    }
}

impl<P: Port> Drop for System<P> {
    fn drop(&mut self) {
        // Frames are the embedder's: give back what is kept here.
        if P::Format::SPLIT_ROOT && self.idle != Pfn(0) {
            self.port.mem().free(self.idle);
        }
        for cpu in &self.cpus {
            if let Some(spare) = Some(cpu.spare.swap(0, Ordering::Acquire)).filter(|s| *s != 0) {
                self.port.mem().free(Pfn(spare));
            }
        }
    }
}

impl<P: Port> Flush for System<P> {
    fn flush(&self, what: &Invalidations<'_>) {
        self.shoot(what);
    }
    fn free_tables(&self, first: Pfn) {
        let mut at = Some(first);
        while let Some(table) = at {
            at = self.md(table).and_then(TableMd::next);
            self.table_give(table);
        }
    }
    fn epoch_over(&self, epoch: core::num::NonZeroU64) {
        self.epochs.close(epoch);
    }
}

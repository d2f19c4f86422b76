//! One address space.

use super::{
    Advice, EnterFailed, Frame, Held, InCore, LargeFailed, MemAttr, PhysAddr, PmapFlags, PmapStatistics,
};
use crate::addr::{Pfn, RawAddr, Va, VaRange};
use crate::host::{CpuId, MaySleep};
use crate::pmap::PageNo;
use crate::prot::Prot;

/// One address space, under the names of `pmap(9)`. A value is a reference to it.
///
/// Ranges lie in the half (user or kernel) of the pmap; debug builds refuse others.
pub trait Pmap9: Sync + Sized {
    /// `pmap_reference` (PM07): one more reference.
    #[must_use]
    fn pmap_reference(&self) -> Self;
    /// `pmap_destroy` (PM08): one reference less. The last one frees every page table, after
    /// what was deferred is done; no CPU has it loaded and nothing is mapped (Z135: debug
    /// builds panic; release builds lose the tables rather than free them). Immediate.
    /// Dropping a value is the same without the wait, so only for values that are not the
    /// last or have nothing deferred.
    fn pmap_destroy(self, may: &mut MaySleep);

    // -- Making mappings ------------------------------------------------------------

    /// `pmap_enter` (PM11): maps a frame at `va`. Another frame there is taken out and
    /// flushed first (contract rule 7); the same one gets these rights (fewer ones too)
    /// and this wiring. The access in `flags` is noted. Lazy in what it takes away of the
    /// same page, immediate in the rest.
    ///
    /// => the page is busy; the access in `flags` is within `prot`.
    ///
    /// # Errors
    /// With [`PmapFlags::PMAP_CANFAIL`]: [`EnterFailed`].
    ///
    /// # Panics
    /// Without it, on the same: naming address, page and what was short, as the manual
    /// demands.
    fn pmap_enter(
        &self,
        va: Va,
        frame: Frame,
        prot: Prot,
        flags: PmapFlags,
        may: &mut MaySleep,
    ) -> Result<(), EnterFailed>;
    /// FreeBSD's `pmap_enter` with `psind` (PM11, Q11, Q12): maps the superpage of size
    /// index `psind` whose first frame is `frame`, at `va`. Small mappings there go, unless
    /// [`PmapFlags::PMAP_ENTER_NOREPLACE`] or one is wired. With
    /// [`PmapFlags::PMAP_ENTER_LARGEPAGE`] it is never broken up: removing, protecting or
    /// unwiring a part of it is the caller's mistake. A writable one counts as modified,
    /// whole.
    ///
    /// => every page is busy.
    ///
    /// # Errors
    /// [`LargeFailed`]; nothing changed, except that small mappings may be gone when memory
    /// was short.
    fn pmap_enter_psind(
        &self,
        va: Va,
        frame: Frame,
        prot: Prot,
        flags: PmapFlags,
        psind: u8,
        may: &mut MaySleep,
    ) -> Result<(), LargeFailed>;
    /// `pmap_enter_quick` (PM12): maps a page that nobody asked for yet. Never replaces,
    /// never waits, never writable, not noted as use; on any shortage it silently does
    /// nothing.
    fn pmap_enter_quick(&self, va: Va, page: PageNo, prot: Prot);
    /// `pmap_enter_object` (PM13): [`Pmap9::pmap_enter_quick`] for the resident pages of an
    /// object: `(i, page)` for the page at `range.start() + i`, ascending. Those beyond the
    /// range are left out; superpages where 512 fit.
    ///
    /// => the object is read locked, the pages stay what they are.
    fn pmap_enter_object(
        &self,
        range: VaRange,
        resident: &mut dyn Iterator<Item = (u64, PageNo)>,
        prot: Prot,
    ) {
        for (i, page) in resident.take_while(|(i, _)| *i < range.pages()) {
            self.pmap_enter_quick(range.start().add(i), page, prot);
        }
    }
    /// `pmap_object_init_pt` (PM14): a device's memory from frame `first` on, with the
    /// largest mappings that fit. Advice: what does not fit or find memory is left to
    /// faults. Gives the pages mapped.
    fn pmap_object_init_pt(&self, _range: VaRange, _first: Pfn, _prot: Prot, _attr: MemAttr) -> u64 {
        0
    }
    /// `pmap_copy` (PM41): the mappings of `range` of `from` may be wanted here too. Pure
    /// advice; never copies wiring, write access or what is known of use (Z146).
    fn pmap_copy(&self, _from: &Self, _range: VaRange) {}

    // -- Taking them away -----------------------------------------------------------

    /// `pmap_remove` (PM15): every mapping of the range, wired or not, managed or not. Its
    /// use moves to the page. What is not mapped is skipped. Never fails. Lazy.
    fn pmap_remove(&self, range: VaRange);
    /// `pmap_remove_pages` (PM18): every managed mapping of a user pmap that is not wired.
    /// Immediate.
    ///
    /// => loaded on this CPU at most; not the kernel's (debug assertion).
    fn pmap_remove_pages(&self, may: &mut MaySleep);
    /// NetBSD's and OpenBSD's `pmap_remove_all(pm)` (PM17): everything will be removed soon.
    /// `true`: everything has been. The other `pmap_remove_all` is
    /// [`super::PmapMachine::remove_page_mappings`] (Z140).
    fn hint_teardown(&self) -> bool {
        false
    }
    /// `pmap_protect` (PM19): every right beyond `prot` goes in the range; none is added.
    /// Without [`Prot::R`] the mappings go. Never fails. Lazy.
    fn pmap_protect(&self, range: VaRange, prot: Prot);
    /// `pmap_unwire` (PM22): the mappings of the range may be forgotten. What is not mapped
    /// or not wired is skipped (Z150). Lazy.
    fn pmap_unwire(&self, range: VaRange);
    /// `pmap_update` (PM42): when it returns, every CPU obeys all that was deferred for this
    /// pmap before the call. Nothing deferred: nothing is done.
    fn pmap_update(&self, may: &mut MaySleep);
    /// `pmap_collect` (PM43): the address space is idle: gives back what it can without
    /// touching wired mappings (Z147). Advice. Immediate.
    fn pmap_collect(&self, may: &mut MaySleep);

    // -- Questions --------------------------------------------------------------------

    /// `pmap_extract` (PM28): the physical address, with the offset in the page. `None`: not
    /// mapped (Z141).
    ///
    /// => any lock may be held.
    fn pmap_extract(&self, at: RawAddr) -> Option<PhysAddr>;
    /// `pmap_extract_and_hold` (PM29): the page at `at` if it is mapped with `prot` at
    /// least, after `hold` was called for it while the mapping could not go: there the
    /// caller wires or holds the page. It may refuse; then nothing is held. Until
    /// [`Pmap9::pmap_unhold`], copy-on-write protects this part of the address space
    /// at once and entry by entry.
    ///
    /// => `hold` takes no lock.
    fn pmap_extract_and_hold(
        &self,
        at: RawAddr,
        prot: Prot,
        hold: &mut dyn FnMut(PageNo) -> bool,
    ) -> Option<Held>;
    /// Ends a hold of this pmap's. The page's own hold is the caller's to end.
    fn pmap_unhold(&self, held: Held);
    /// `pmap_resident_count`, `pmap_wired_count` (PM45).
    fn pmap_statistics(&self) -> PmapStatistics;
    /// `pmap_resident_count` (PM45), in pages.
    fn pmap_resident_count(&self) -> u64 {
        self.pmap_statistics().resident_count
    }
    /// `pmap_wired_count` (PM45), in pages.
    fn pmap_wired_count(&self) -> u64 {
        self.pmap_statistics().wired_count
    }
    /// `pmap_is_prefaultable` (PM48): is there a page table for `va`, and nothing in it?
    fn pmap_is_prefaultable(&self, va: Va) -> bool;
    /// `pmap_mincore` (PM49). `None`: not mapped.
    fn pmap_mincore(&self, va: Va) -> Option<InCore>;
    /// `pmap_page_exists_quick` (PM46): is the page mapped here? Looks at a few mappings
    /// only, so no is not sure.
    fn pmap_page_exists_quick(&self, page: PageNo) -> bool;

    // -- Use and faults ---------------------------------------------------------------

    /// `pmap_advise` (PM27). Immediate.
    fn pmap_advise(&self, range: VaRange, advice: Advice, may: &mut MaySleep);
    /// `pmap_fault` (PM53): `true`: the fault was about noting use, or this CPU remembered
    /// less than the tables say; go on. `false`: it is the map's.
    ///
    /// => on the CPU that faulted, with the pmap loaded; any lock of a rank below the
    ///    pmap's may be held.
    fn pmap_fault(&self, at: RawAddr, access: Prot) -> bool;
    /// `pmap_activate` (PM44): this CPU runs on the pmap from now on.
    ///
    /// => the thread stays on `cpu`.
    fn pmap_activate(&self, cpu: CpuId);
    /// `pmap_deactivate` (PM44).
    ///
    /// => as above.
    fn pmap_deactivate(&self, cpu: CpuId);
}

//! The machine: everything that does not start from a user address.

use super::{Frame, MemAttr, MemAttrFailed, PhysAddr, PhysSegment, Pmap9, PmapCreateFailed, PmapFlags};
use crate::addr::{RawAddr, RawSize, Va, VaRange};
use crate::host::MaySleep;
use crate::pmap::PageNo;
use crate::prot::Prot;

/// A page at an address of the kernel's for a moment; dropping it is
/// `pmap_quick_remove_page` (PM37).
pub trait QuickPage {
    /// Where the page can be read and written, on this CPU. Always valid.
    fn va(&self) -> Va;
}

/// All pmaps of a machine, under the names of `pmap(9)`.
pub trait PmapMachine: Sync + Sized {
    /// One address space.
    type Pmap: Pmap9;
    /// See [`PmapMachine::pmap_quick_enter_page`].
    type Quick<'a>: QuickPage
    where
        Self: 'a;

    // -- Beginning and ending -------------------------------------------------------

    /// `pmap_init` (PM01): the page array is complete; what was for bootstrapping ends
    /// here. A second call changes nothing.
    fn pmap_init(&self) {}
    /// `pmap_kernel` (PM10): the kernel's pmap. Exists from the first moment, and its
    /// references do not keep it: it never goes away.
    fn pmap_kernel(&self) -> Self::Pmap;
    /// `pmap_create` (PM05): a new empty user pmap with one reference.
    ///
    /// # Errors
    /// [`PmapCreateFailed`]; nothing is left over.
    fn pmap_create(&self) -> Result<Self::Pmap, PmapCreateFailed>;

    // -- Unmanaged mappings of the kernel -------------------------------------------

    /// `pmap_kenter_pa` (PM31): maps a frame at a kernel address: unmanaged, wired, no
    /// record, its use not noted. Never fails, never waits. Over an older such mapping
    /// it takes that one's place; until the update a CPU may use either. A CPU that
    /// remembers that nothing was there may fault once (RISC-V): [`Pmap9::pmap_fault`].
    ///
    /// => any lock may be held, in interrupts too; page tables reach `va`
    ///    ([`PmapBootstrap::pmap_growkernel`]); no managed mapping is there (debug
    ///    builds refuse it, release builds leave it).
    ///
    /// # Panics
    /// No page table for `va`: it is outside what was grown.
    fn pmap_kenter_pa(&self, va: Va, frame: Frame, prot: Prot, flags: PmapFlags);
    /// `pmap_kremove` (PM32): removes what [`PmapMachine::pmap_kenter_pa`] made. Holes
    /// are skipped. Lazy.
    ///
    /// => as above. A managed mapping in the range is the caller's mistake: debug builds
    ///    panic and name both sides, release builds leave it (Z136).
    fn pmap_kremove(&self, range: VaRange);
    /// `pmap_qenter` (PM34): wired pages at consecutive kernel addresses, readable and
    /// writable, over whatever unmanaged mappings are there. None is nothing.
    ///
    /// => as [`PmapMachine::pmap_kenter_pa`]; where something is there no spin lock is held,
    ///    for that is removed everywhere first.
    fn pmap_qenter(&self, va: Va, pages: &[PageNo]) {
        for (i, page) in pages.iter().enumerate() {
            self.pmap_kenter_pa(va.add(i as u64), (*page).into(), Prot::RW, PmapFlags::empty());
        }
    }
    /// `pmap_qremove` (PM34): removes `pages` mappings from `va`; tolerates holes. Lazy.
    ///
    /// => as [`PmapMachine::pmap_kremove`].
    fn pmap_qremove(&self, va: Va, pages: u64) {
        if let Some(range) = VaRange::of_pages(va, pages) {
            self.pmap_kremove(range);
        }
    }
    /// `pmap_kextract`, `vtophys` (PM30): where a kernel address is in physical memory.
    ///
    /// => any lock may be held.
    fn pmap_kextract(&self, at: RawAddr) -> Option<PhysAddr>;

    // -- A page for a moment --------------------------------------------------------

    /// `pmap_quick_enter_page` (PM36): the page at an address of this CPU's, readable
    /// and writable. Never fails, never sleeps. Until it is given back the thread stays
    /// on its CPU and does not nest, sleep or wait.
    ///
    /// => any lock may be held; not in an interrupt handler; the page is wired, held or
    ///    unmanaged, and is not used for another purpose meanwhile (Z139).
    ///
    /// # Panics
    /// Nested on one CPU (Z138).
    fn pmap_quick_enter_page(&self, page: PageNo) -> Self::Quick<'_>;
    /// `pmap_quick_remove_page` (PM37): the same as dropping it.
    fn pmap_quick_remove_page(&self, page: Self::Quick<'_>) {
        drop(page);
    }

    // -- Contents -------------------------------------------------------------------

    /// `pmap_zero_page` (PM38): fills the page with zero. Not noted as use or
    /// modification. Immediate.
    fn pmap_zero_page(&self, page: PageNo);
    /// `pmap_zero_page_area` (PM38): `size` bytes from `off`.
    ///
    /// # Panics
    /// The area leaves the page.
    fn pmap_zero_page_area(&self, page: PageNo, off: usize, size: usize);
    /// `pmap_copy_page` (PM39). Not noted as use or modification. Immediate.
    ///
    /// => `src` is not `dst`.
    fn pmap_copy_page(&self, src: PageNo, dst: PageNo);
    /// `pmap_copy_pages` (PM39): `size` bytes from byte `src_off` of the run `src` to byte
    /// `dst_off` of the run `dst`; the offsets may lie in any page of their run.
    ///
    /// # Panics
    /// An area leaves its run.
    fn pmap_copy_pages(&self, src: &[PageNo], src_off: usize, dst: &[PageNo], dst_off: usize, size: usize);

    // -- Every mapping of a page ----------------------------------------------------

    /// `pmap_page_protect` (PM20): every managed mapping of the page loses what is beyond
    /// `prot`: without [`Prot::R`] it goes ([`PmapMachine::remove_page_mappings`]),
    /// without [`Prot::W`] it is read-only ([`PmapMachine::pmap_remove_write`]);
    /// [`Prot::ALL`] changes nothing. Unmanaged mappings keep theirs (Z137). What is
    /// known of the page's use stays. Immediate.
    fn pmap_page_protect(&self, page: PageNo, prot: Prot, may: &mut MaySleep) {
        if !prot.contains(Prot::R) {
            self.remove_page_mappings(page, may);
        } else if !prot.contains(Prot::W) {
            self.pmap_remove_write(page, may);
        }
    }
    /// FreeBSD's `pmap_remove_all(m)` (PM16): every managed mapping of the page goes,
    /// wired ones too; what is known of its use stays. Immediate. The other
    /// `pmap_remove_all` is [`Pmap9::hint_teardown`] (Z140).
    fn remove_page_mappings(&self, page: PageNo, may: &mut MaySleep);
    /// `pmap_remove_write` (PM21): no managed mapping of the page allows writing.
    /// Immediate.
    fn pmap_remove_write(&self, page: PageNo, may: &mut MaySleep);

    /// `pmap_is_modified` (PM23): was the page written since this was last cleared?
    /// Exact. No lock is needed, see the module text.
    fn pmap_is_modified(&self, page: PageNo) -> bool;
    /// `pmap_clear_modify` (PM24): forgets it, and gives what it was. The next write is
    /// noticed again. Immediate.
    fn pmap_clear_modify(&self, page: PageNo, may: &mut MaySleep) -> bool;
    /// `pmap_is_referenced` (PM25): was the page used since this was last cleared? Never
    /// falsely no; at times falsely yes.
    fn pmap_is_referenced(&self, page: PageNo) -> bool;
    /// `pmap_clear_reference` (PM25): forgets it, and gives what it was. The next use is
    /// noticed again. Immediate.
    fn pmap_clear_reference(&self, page: PageNo, may: &mut MaySleep) -> bool;
    /// `pmap_ts_referenced` (PM26): how many reference bits were set, at most
    /// [`super::PMAP_TS_REFERENCED_MAX`]; those are cleared, except in wired mappings. 0 only
    /// if none was set.
    fn pmap_ts_referenced(&self, page: PageNo, may: &mut MaySleep) -> u32;

    /// `pmap_page_is_mapped` (PM46): is there a managed mapping?
    fn pmap_page_is_mapped(&self, page: PageNo) -> bool;
    /// `pmap_page_is_write_mapped` (PM46): does one allow writing?
    fn pmap_page_is_write_mapped(&self, page: PageNo) -> bool;
    /// `pmap_page_wired_mappings` (PM46): how many of them are wired.
    fn pmap_page_wired_mappings(&self, page: PageNo) -> u64;

    /// `pmap_page_get_memattr` (PM47): how mappings of the page are cached.
    fn pmap_page_get_memattr(&self, page: PageNo) -> MemAttr;
    /// `pmap_page_set_memattr` (PM47): how mappings made from now on are cached. A direct
    /// map of the embedder's own is its own to change.
    ///
    /// # Errors
    /// [`MemAttrFailed`]; nothing changed.
    fn pmap_page_set_memattr(&self, page: PageNo, attr: MemAttr) -> Result<(), MemAttrFailed>;
    /// `pmap_is_valid_memattr` (PM47).
    fn pmap_is_valid_memattr(&self, attr: MemAttr) -> bool;

    /// log2 of the bytes of a superpage of size index `psind` (1: the smallest). `None`:
    /// the machine has none.
    fn superpage_shift(&self, psind: u8) -> Option<u32>;
    /// `pmap_align_superpage` (PM50): moves `va` up so that the mapping of `size` bytes at
    /// `offset` of an object can have superpages; leaves it when there is no room for a
    /// whole one. `offset` and `size` in bytes.
    fn pmap_align_superpage(&self, offset: u64, va: Va, size: u64) -> Va {
        self.superpage_shift(1).map_or(va, |s| super::pmap_align_superpage(offset, va, size, s))
    }
    /// `pmap_map` (PM35), for one page: a kernel address at which the frame can always be
    /// read and written, where the machine has a direct map.
    fn direct_map(&self, _at: PhysAddr) -> Option<RawAddr> {
        None
    }
}

/// What has a meaning only where a kernel boots.
pub trait PmapBootstrap: PmapMachine {
    /// `pmap_virtual_space` (PM02): kernel addresses for the rest of the system. Its end is
    /// the highest that [`PmapBootstrap::pmap_growkernel`] can reach. Stealing may take
    /// from its start.
    fn pmap_virtual_space(&self) -> VaRange;
    /// `pmap_steal_memory` (PM03): `size` bytes of zeroed memory for ever, before there are
    /// pages, at the address returned. The frames leave `segments`; addresses taken leave
    /// [`PmapBootstrap::pmap_virtual_space`].
    ///
    /// # Panics
    /// No segment has so many frames in a row; no page table can be had; or after
    /// [`PmapMachine::pmap_init`] (Z149).
    fn pmap_steal_memory(&self, size: RawSize, segments: &mut [PhysSegment]) -> Va;
    /// `pmap_growkernel` (PM04): page tables for all kernel addresses below `max`, in every
    /// pmap. Gives the end of what has them, which only rises (Z148); below it already:
    /// nothing changes.
    ///
    /// => the kernel map is locked.
    ///
    /// # Panics
    /// No memory for a table; `max` lies beyond [`PmapBootstrap::pmap_virtual_space`].
    fn pmap_growkernel(&self, max: RawAddr) -> RawAddr;
}

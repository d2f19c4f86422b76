//! A platform where nothing costs anything: what is counted is the core.

use machvm::Platform;
use machvm_arena::HeapChunks;
use machvm_hal::{
    EnterError, EnterFlags, Event, ExtentError, Flush, Gather, Host, Invalidations, PageArray, PageNo, Pfn,
    PhysMem, Placement, Pmap, PmapPage, PopulateError, Prot, RefMod, RemoveWhy, Va, VaRange, Woken,
};
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module text.
#[derive(Default)]
pub(crate) struct Null {
    mem: NullMem,
}
#[derive(Default)]
pub(crate) struct NullMem(AtomicU64);
pub(crate) struct NullHost;
pub(crate) struct NullPmap;

impl Host for NullHost {
    type Ticket = ();
    fn now_ns(&self) -> u64 {
        0
    }
    fn assert_wait(&self, _ev: Event) {}
    fn thread_block(&self, (): (), _deadline_ns: Option<u64>) -> Woken {
        Woken::TimedOut
    }
    fn cancel_wait(&self, (): ()) {}
    fn thread_wakeup(&self, _ev: Event) {}
}

impl PhysMem for NullMem {
    fn placement(&self) -> Placement {
        Placement::Sparse { frames: 1 << 40 }
    }
    fn extent_reserve(&self, pages: u64) -> Result<Pfn, ExtentError> {
        Ok(Pfn(self.0.fetch_add(pages.next_multiple_of(512), Ordering::Relaxed)))
    }
    fn extent_release(&self, _base: Pfn, _pages: u64) {}
    fn zero(&self, _first: Pfn, _n: u32) -> Result<(), PopulateError> {
        Ok(())
    }
    fn discard(&self, _first: Pfn, _n: u32) {}
    fn copy(&self, _from: Pfn, _to: Pfn) {}
    fn read(&self, _f: Pfn, _off: usize, buf: &mut [u8]) {
        buf.fill(0);
    }
    fn write(&self, _f: Pfn, _off: usize, _buf: &[u8]) {}
}

impl Pmap for NullPmap {
    fn enter<A: PageArray>(
        &self,
        _pages: &A,
        _va: Va,
        _run: &[PageNo],
        _prot: Prot,
        _access: Prot,
        _flags: EnterFlags,
        _gather: &mut Gather,
    ) -> Result<(), EnterError> {
        Ok(())
    }
    fn remove<A: PageArray>(&self, _pages: &A, _range: VaRange, _gather: &mut Gather) {}
    fn protect<A: PageArray>(&self, _pages: &A, _range: VaRange, _prot: Prot, _gather: &mut Gather) {}
    fn unwire<A: PageArray>(&self, _pages: &A, _range: VaRange, _gather: &mut Gather) {}
    fn extract<A: PageArray>(&self, _pages: &A, _va: Va) -> Option<(PageNo, Prot)> {
        None
    }
    fn resident_count(&self) -> u64 {
        0
    }
}

impl PmapPage for NullPmap {
    fn page_write_protect<A: PageArray>(&self, _pages: &A, _list: &[PageNo], _gather: &mut Gather) {}
    fn page_remove<A: PageArray>(&self, _pages: &A, _list: &[PageNo], _why: RemoveWhy, _gather: &mut Gather) {
    }
    fn page_refmod<A: PageArray>(&self, _pages: &A, _page: PageNo) -> RefMod {
        RefMod::empty()
    }
    fn page_clear<A: PageArray>(
        &self,
        _pages: &A,
        _page: PageNo,
        _clear: RefMod,
        _gather: &mut Gather,
    ) -> RefMod {
        RefMod::empty()
    }
}

impl Flush for NullPmap {
    fn flush(&self, _what: &Invalidations<'_>) {}
}

impl Platform for Null {
    type Host = NullHost;
    type Mem = NullMem;
    type Pmap = NullPmap;
    type PmapPage = NullPmap;
    type Flush = NullPmap;
    type Chunks = HeapChunks;

    fn host(&self) -> &NullHost {
        &NullHost
    }
    fn mem(&self) -> &NullMem {
        &self.mem
    }
    fn pmap_page(&self) -> &NullPmap {
        &NullPmap
    }
    fn flush(&self) -> &NullPmap {
        &NullPmap
    }
    fn chunks(&self) -> HeapChunks {
        HeapChunks::default()
    }
}

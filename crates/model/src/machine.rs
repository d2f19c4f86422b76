//! The platform.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use machvm::{PagerId, Platform};
use machvm_arena::HeapChunks;
use machvm_hal::{Pager, Pfn, Placement, Swap};

use crate::hardware::Hardware;
use crate::host::ModelHost;
use crate::inject::Injector;
use crate::mem::ModelMem;
use crate::mmu::{ModelFlush, ModelPages, ModelPmap};
use crate::pager::MemPager;
use crate::swap::MemSwap;

/// What machine to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The sparse placement, else the dense one.
    pub sparse: bool,
    /// Frames.
    pub frames: u32,
    /// Pages that fit on swap; `None`: there is no swap.
    pub swap: Option<usize>,
    /// One enter in so many makes the pmap forget a mapping; 0: never.
    pub forget: u64,
    /// The MMU notes every access, else only the pmap notes what it is told of faults
    /// (Linux). Modified is exact either way.
    pub reference_bits: bool,
    /// Of everything the machine chooses.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { sparse: true, frames: 256, swap: Some(1 << 20), forget: 0, reference_bits: true, seed: 1 }
    }
}

/// See the crate text.
#[derive(Debug)]
pub struct Machine {
    host: Arc<ModelHost>,
    hw: Arc<Hardware>,
    mem: ModelMem,
    pages: ModelPages,
    flush: ModelFlush,
    swap: Option<MemSwap>,
    /// Pagers live as long as the process, so that they can be lent out.
    pagers: Mutex<Vec<&'static MemPager>>,
    users: AtomicU64,
    inject: &'static Injector,
}

impl Machine {
    /// A machine, with nothing running on it.
    pub fn new(c: Config) -> Self {
        let inject: &'static Injector = Box::leak(Box::default());
        let host = Arc::new(ModelHost::new(c.seed));
        let hw = Arc::new(Hardware::new(host.clone(), inject, c));
        let placement = if c.sparse {
            Placement::Sparse { frames: u64::from(c.frames) }
        } else {
            Placement::Dense { first: Pfn(0x100), frames: c.frames }
        };
        Machine {
            mem: ModelMem { hw: hw.clone(), placement },
            pages: ModelPages { hw: hw.clone() },
            flush: ModelFlush { hw: hw.clone() },
            swap: c.swap.map(|n| MemSwap::new(n, host.clone(), inject)),
            pagers: Mutex::default(),
            users: AtomicU64::new(0),
            host,
            hw,
            inject,
        }
    }
    /// A new address space.
    pub fn pmap(&self) -> ModelPmap {
        ModelPmap::new(self.hw.clone())
    }
    /// Frames and the walker.
    pub fn hardware(&self) -> &Hardware {
        &self.hw
    }
    /// What fails.
    pub fn inject(&self) -> &'static Injector {
        self.inject
    }
    /// Swap, if there is any.
    pub fn mem_swap(&self) -> Option<&MemSwap> {
        self.swap.as_ref()
    }
    /// A new pager over `data`.
    pub fn add_pager(&self, data: Vec<u8>) -> (PagerId, &'static MemPager) {
        let p: &'static MemPager = Box::leak(Box::new(MemPager::new(data, self.host.clone(), self.inject)));
        let mut list = self.pagers.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(p);
        let id = NonZeroU32::new(list.len() as u32).expect("not empty");
        (PagerId(id), p)
    }
    /// Objects that use a pager now, as the core told.
    pub fn pager_users(&self) -> u64 {
        self.users.load(SeqCst)
    }
}

impl Platform for Machine {
    type Host = ModelHost;
    type Mem = ModelMem;
    type Pmap = ModelPmap;
    type PmapPage = ModelPages;
    type Flush = ModelFlush;
    type Chunks = HeapChunks;

    fn host(&self) -> &ModelHost {
        &self.host
    }
    fn mem(&self) -> &ModelMem {
        &self.mem
    }
    fn pmap_page(&self) -> &ModelPages {
        &self.pages
    }
    fn flush(&self) -> &ModelFlush {
        &self.flush
    }
    fn chunks(&self) -> HeapChunks {
        HeapChunks::gated(self.inject)
    }
    fn swap(&self) -> Option<&dyn Swap> {
        self.swap.as_ref().map(|s| s as &dyn Swap)
    }
    fn pager(&self, id: PagerId) -> Option<&dyn Pager> {
        let list = self.pagers.lock().unwrap_or_else(PoisonError::into_inner);
        list.get(id.0.get() as usize - 1).map(|p| *p as &dyn Pager)
    }
    fn pager_used(&self, _id: PagerId) {
        self.users.fetch_add(1, SeqCst);
    }
    fn pager_unused(&self, _id: PagerId) {
        machvm_sync::assert_may_sleep();
        let before = self.users.fetch_sub(1, SeqCst);
        assert!(before != 0, "a pager is not used more often than it was");
    }
}

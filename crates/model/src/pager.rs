//! A file in memory, as a pager.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machvm_hal::{PAGE_SIZE, PageIn, Pager, PagerError, Supply};

use crate::host::ModelHost;
use crate::inject::{Injector, Point};

#[derive(Debug, Default)]
struct File {
    data: Vec<u8>,
    bad: HashSet<u64>,
}

/// Bytes that can be read and written, with pages that cannot.
#[derive(Debug)]
pub struct MemPager {
    file: Mutex<File>,
    reads: AtomicU64,
    writes: AtomicU64,
    /// Pages supplied by one request at most.
    pub(crate) most: AtomicU64,
    host: Arc<ModelHost>,
    inject: &'static Injector,
}

impl MemPager {
    pub(crate) fn new(data: Vec<u8>, host: Arc<ModelHost>, inject: &'static Injector) -> Self {
        let file = Mutex::new(File { data, bad: HashSet::new() });
        let (reads, writes, most) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
        MemPager { file, reads, writes, most, host, inject }
    }
    fn lock(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The page at byte `offset` cannot be read, until `false`.
    pub fn set_bad(&self, offset: u64, bad: bool) {
        let mut f = self.lock();
        if bad {
            f.bad.insert(offset);
        } else {
            f.bad.remove(&offset);
        }
    }
    /// At most so many pages for one request.
    pub fn set_most(&self, pages: u64) {
        self.most.store(pages, SeqCst);
    }
    /// The file has so many bytes from now on, new ones zero.
    pub fn set_len(&self, bytes: u64) {
        self.lock().data.resize(bytes as usize, 0);
    }
    /// Requests so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(SeqCst)
    }
    /// Pages written back so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(SeqCst)
    }
    /// The bytes now.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().data.clone()
    }
}

impl Pager for MemPager {
    fn page_in(&self, mut req: PageIn<'_>) {
        self.host.preempt();
        self.reads.fetch_add(1, SeqCst);
        let most = self.most.load(SeqCst);
        for i in 0..req.pages() {
            let at = req.offset().wrapping_add(i as u64 * PAGE_SIZE);
            if i as u64 >= most {
                return req.supplied(i, Supply::Clean);
            }
            let data = {
                let f = self.lock();
                if f.bad.contains(&at) || self.inject.fails(Point::PageIn) {
                    drop(f);
                    return req.failed(i, PagerError::Io);
                }
                let end = f.data.len() as u64;
                if at >= end {
                    drop(f);
                    return req.failed(i, PagerError::Beyond);
                }
                f.data[at as usize..end.min(at + PAGE_SIZE) as usize].to_vec()
            };
            req.write(i as u64 * PAGE_SIZE, &data);
        }
        let n = req.pages();
        req.supplied(n, Supply::Clean);
    }

    fn page_out(&self, offset: u64, data: &[u8; PAGE_SIZE as usize]) -> Result<(), PagerError> {
        self.host.preempt();
        if self.inject.fails(Point::PageOut) {
            return Err(PagerError::Io);
        }
        let mut f = self.lock();
        let end = f.data.len() as u64;
        if offset >= end {
            return Err(PagerError::Beyond);
        }
        let n = (end - offset).min(PAGE_SIZE) as usize;
        f.data[offset as usize..offset as usize + n].copy_from_slice(&data[..n]);
        self.writes.fetch_add(1, SeqCst);
        Ok(())
    }
}

type AnyPager = &'static (dyn Pager + Send + Sync);

/// The pagers of a machine, by name.
#[derive(Default)]
pub(crate) struct Pagers(Mutex<Vec<Option<AnyPager>>>);

impl std::fmt::Debug for Pagers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pagers", self.list().len())
    }
}

impl Pagers {
    fn list(&self) -> MutexGuard<'_, Vec<Option<AnyPager>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn add(&self, p: AnyPager) -> NonZeroU32 {
        let mut list = self.list();
        list.push(Some(p));
        NonZeroU32::new(list.len() as u32).expect("not empty")
    }
    pub(crate) fn remove(&self, name: NonZeroU32) {
        self.list()[name.get() as usize - 1] = None;
    }
    pub(crate) fn get(&self, name: NonZeroU32) -> Option<AnyPager> {
        self.list().get(name.get() as usize - 1).copied().flatten()
    }
}

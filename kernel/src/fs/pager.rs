//! Where the contents of files come from: the initial file system's bytes, in memory or on a disk, then zeroes.
//!
//! The VM names pagers by number and asks for them at any time, so their places live for ever and are used again.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use alloc::boxed::Box;
use alloc::vec::Vec;
use machvm::PagerId;
use machvm_hal::{PAGE_SIZE, PageIn, Pager, PagerError, Supply};
use machvm_sync::Rank;

use super::initial::Initial;
use crate::lock::IrqSpin;

/// Of one file. Modified pages are the VM's: they go to swap.
pub(crate) struct FilePager {
    id: PagerId,
    /// Bytes of the file. Pages wholly behind them cannot be had.
    size: AtomicU64,
    /// What the file begins with where nothing was written; zeroes follow.
    initial: IrqSpin<Initial>,
    /// Objects that use it.
    uses: AtomicU32,
}

struct Table {
    all: Vec<&'static FilePager>,
    free: Vec<&'static FilePager>,
}

static TABLE: crate::mutex::Mutex<Table> =
    crate::mutex::Mutex::new(Table { all: Vec::new(), free: Vec::new() });

/// As `TABLE.all`, for those who may not sleep: blocks of places, published once.
const BLOCK: usize = 1024;
type Block = [AtomicU64; BLOCK];
static BLOCKS: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

fn place(index: usize) -> Option<&'static AtomicU64> {
    let block = BLOCKS.get(index / BLOCK)?.load(Ordering::Acquire) as *const Block;
    // SAFETY: null, or a block that was leaked by `publish`.
    unsafe { block.as_ref() }.map(|b| &b[index % BLOCK])
}

/// => the table is locked.
fn publish(index: usize, pager: &'static FilePager) -> Option<()> {
    let block = BLOCKS.get(index / BLOCK)?;
    if block.load(Ordering::Relaxed) == 0 {
        let new: Box<Block> = Box::new([const { AtomicU64::new(0) }; BLOCK]);
        block.store(Box::leak(new) as *const Block as u64, Ordering::Release);
    }
    place(index)?.store(core::ptr::from_ref(pager) as u64, Ordering::Release);
    Some(())
}

/// The pager of that number.
pub(crate) fn pager(id: PagerId) -> Option<&'static FilePager> {
    let p = place(id.0.get() as usize - 1)?.load(Ordering::Acquire) as *const FilePager;
    // SAFETY: null, or leaked by `take`.
    unsafe { p.as_ref() }
}

/// A pager for a new file that begins with these bytes. `None`: there are a million already.
pub(super) fn take(initial: Initial) -> Option<&'static FilePager> {
    let mut table = TABLE.lock();
    let p = match table.free.pop() {
        Some(p) => p,
        None => {
            let id = PagerId(NonZeroU32::new(u32::try_from(table.all.len() + 1).ok()?)?);
            let initial = IrqSpin::new(Rank::Leaf, Initial::NONE);
            let new = FilePager { id, size: AtomicU64::new(0), initial, uses: AtomicU32::new(0) };
            let p: &'static FilePager = Box::leak(Box::new(new));
            publish(table.all.len(), p)?;
            table.all.push(p);
            p
        }
    };
    p.begin_as(initial);
    Some(p)
}

/// One more object uses it.
pub(crate) fn used(id: PagerId) {
    if let Some(p) = pager(id) {
        p.uses.fetch_add(1, Ordering::AcqRel);
    }
}

/// One object less. => nothing of the VM's is locked.
pub(crate) fn unused(id: PagerId) {
    if let Some(p) = pager(id)
        && p.uses.fetch_sub(1, Ordering::AcqRel) == 1
    {
        TABLE.lock().free.push(p);
    }
}

impl FilePager {
    pub(super) fn id(&self) -> PagerId {
        self.id
    }
    /// The file is these bytes. => no page was asked for yet.
    pub(super) fn begin_as(&self, initial: Initial) {
        *self.initial.lock() = initial;
        self.size.store(initial.len(), Ordering::Release);
    }
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }
    /// The file has so many bytes from now on. What is cut off never comes back.
    pub(super) fn set_size(&self, size: u64) {
        let mut initial = self.initial.lock();
        if let Some(left) = initial.part(0, size) {
            *initial = left;
        }
        self.size.store(size, Ordering::Release);
    }
    /// Bytes that come from the initial file system where nothing was written.
    pub(super) fn initial_len(&self) -> u64 {
        self.initial.lock().len()
    }
}

impl Pager for FilePager {
    fn page_in(&self, mut req: PageIn<'_>) {
        let (offset, pages) = (req.offset(), req.pages());
        // Pages that begin before the end.
        let inside = self.size().saturating_sub(offset).div_ceil(PAGE_SIZE).min(pages as u64) as usize;
        if inside == 0 {
            return req.failed(0, PagerError::Beyond);
        }
        let initial = *self.initial.lock();
        let left = initial.len().saturating_sub(offset).min(inside as u64 * PAGE_SIZE);
        // What is not written is zero.
        if let Some(part) = initial.part(offset, left)
            && part.read(|at, bytes| req.write(at, bytes)).is_err()
        {
            return req.failed(0, PagerError::Io);
        }
        req.supplied(inside, Supply::Clean);
    }
    fn page_out(&self, _offset: u64, _data: &[u8; PAGE_SIZE as usize]) -> Result<(), PagerError> {
        // Files' objects keep what is modified.
        Err(PagerError::Gone)
    }
}

//! The slab.
//!
//! Chunk `k` holds `FIRST << k` objects, so 32 chunk pointers reach every index
//! and finding an object is a shift and a load. Objects are initialised when first
//! handed out, in index order; the free list is linked through a side word in
//! front of each object.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use machvm_sync::{Rank, Spin};

use crate::handle::Handle;
use crate::source::{CHUNK_ALIGN, ChunkSource};

const CHUNKS: usize = 26;
/// log2 of the objects in chunk 0.
const FIRST: u32 = 6;

/// The source gave no memory, or the slab's limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

struct Slot<T> {
    /// Index of the next free slot while this one is free or reserved.
    next: AtomicU32,
    value: MaybeUninit<T>,
}

struct Free {
    head: u32,
    /// Objects handed out or free: index of the next never-used slot, minus one.
    used: u32,
    live: u32,
}

/// See the crate text.
pub struct Slab<T, C: ChunkSource> {
    chunks: [AtomicPtr<Slot<T>>; CHUNKS],
    /// Slots `1..=inited` hold an initialised `T`. Release on growth, Acquire on use.
    inited: AtomicU32,
    limit: u32,
    free: Spin<Free>,
    source: C,
}

/// Slots taken ahead of time: taking from it cannot fail. What is left goes back
/// when it is dropped.
#[must_use]
pub struct Reserved<'a, T: Default, C: ChunkSource> {
    slab: &'a Slab<T, C>,
    head: u32,
    left: u32,
}

/// Chunk and place of slot `index` (from one).
const fn locate(index: u32) -> (usize, usize) {
    let at = index - 1 + (1 << FIRST);
    let chunk = 31 - FIRST - at.leading_zeros();
    (chunk as usize, (at - (1 << (FIRST + chunk))) as usize)
}

// SAFETY: handles give `&T` to any thread (T: Sync) and the last owner drops the
// `T`s wherever the slab is dropped (T: Send).
unsafe impl<T: Send + Sync, C: ChunkSource> Sync for Slab<T, C> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync, C: ChunkSource> Send for Slab<T, C> {}

impl<T: Default, C: ChunkSource> Slab<T, C> {
    /// An empty slab of at most `limit` objects.
    pub fn new(source: C, limit: u32) -> Self {
        Slab {
            chunks: [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS],
            inited: AtomicU32::new(0),
            limit: limit.min(u32::MAX - (1 << (FIRST + 1))),
            free: Spin::new(Rank::Slab, Free { head: 0, used: 0, live: 0 }),
            source,
        }
    }

    fn slot(&self, index: u32) -> &Slot<T> {
        assert!(
            index != 0 && index <= self.inited.load(Ordering::Acquire),
            "handle {index} was never handed out"
        );
        let (chunk, at) = locate(index);
        let base = self.chunks[chunk].load(Ordering::Relaxed);
        // SAFETY: index <= inited, so the chunk was stored before `inited` was
        // released and slot `at` of it is initialised; chunks live as long as self.
        unsafe { &*base.add(at) }
    }

    /// The object. Any handle that was ever handed out is good.
    #[inline]
    pub fn get(&self, h: Handle<T>) -> &T {
        // SAFETY: slots up to `inited` hold an initialised `T` (checked by slot()).
        unsafe { self.slot(h.get()).value.assume_init_ref() }
    }

    /// Like [`Slab::get`] for a number that may be nonsense.
    pub fn lookup(&self, raw: u32) -> Option<&T> {
        let raw = core::num::NonZeroU32::new(raw)?;
        (raw.get() <= self.inited.load(Ordering::Acquire)).then(|| self.get(Handle::from_raw(raw)))
    }

    /// Objects handed out and not freed (reserved ones count).
    pub fn live(&self) -> u32 {
        self.free.lock().live
    }

    /// Bytes of memory taken from the source.
    pub fn bytes(&self) -> usize {
        self.chunks
            .iter()
            .enumerate()
            .filter(|(_, c)| !c.load(Ordering::Relaxed).is_null())
            .map(|(k, _)| Self::chunk_bytes(k))
            .sum()
    }

    /// Bytes of memory that objects handed out so far occupy (chunks are taken ahead).
    pub fn touched_bytes(&self) -> usize {
        self.inited.load(Ordering::Relaxed) as usize * size_of::<Slot<T>>()
    }

    const fn chunk_bytes(k: usize) -> usize {
        let bytes = (1usize << (FIRST as usize + k)) * size_of::<Slot<T>>();
        (bytes + CHUNK_ALIGN - 1) & !(CHUNK_ALIGN - 1)
    }

    /// One more slot, never used before.
    fn grow(&self, free: &mut Free) -> Result<u32, NoMemory> {
        const { assert!(align_of::<Slot<T>>() <= CHUNK_ALIGN) }
        if free.used >= self.limit {
            return Err(NoMemory);
        }
        let index = free.used + 1;
        let (chunk, at) = locate(index);
        let mut base = self.chunks[chunk].load(Ordering::Relaxed);
        if base.is_null() {
            base = self.source.chunk(Self::chunk_bytes(chunk)).ok_or(NoMemory)?.as_ptr().cast();
            self.chunks[chunk].store(base, Ordering::Relaxed);
        }
        // SAFETY: the chunk has room for `at` (locate), is aligned (CHUNK_ALIGN), is
        // ours alone (ChunkSource), and slot `index` is not yet visible to anyone.
        unsafe {
            base.add(at).write(Slot { next: AtomicU32::new(0), value: MaybeUninit::new(T::default()) });
        }
        free.used = index;
        self.inited.store(index, Ordering::Release);
        Ok(index)
    }

    fn take(&self, free: &mut Free) -> Result<u32, NoMemory> {
        let index = match free.head {
            0 => self.grow(free)?,
            head => {
                free.head = self.slot(head).next.load(Ordering::Relaxed);
                head
            }
        };
        free.live += 1;
        Ok(index)
    }

    /// An object in whatever state its last owner left it (fresh: `T::default()`).
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn alloc(&self) -> Result<Handle<T>, NoMemory> {
        let index = self.take(&mut self.free.lock())?;
        core::num::NonZeroU32::new(index).map(Handle::from_raw).ok_or(NoMemory)
    }

    /// `n` objects ahead of time.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing is taken then.
    pub fn reserve(&self, n: u32) -> Result<Reserved<'_, T, C>, NoMemory> {
        let mut r = Reserved { slab: self, head: 0, left: 0 };
        let mut free = self.free.lock();
        for _ in 0..n {
            match self.take(&mut free) {
                Ok(index) => r.push(index),
                Err(e) => {
                    drop(free); // r's Drop takes the lock
                    return Err(e);
                }
            }
        }
        Ok(r)
    }

    /// Gives an object back. Stale handles go on reading it.
    pub fn free(&self, h: Handle<T>) {
        let slot = self.slot(h.get());
        let mut free = self.free.lock();
        slot.next.store(free.head, Ordering::Relaxed);
        free.head = h.get();
        free.live -= 1;
    }

    /// Calls `f` with every object ever handed out, live or not.
    pub fn for_each(&self, mut f: impl FnMut(Handle<T>, &T)) {
        for i in 1..=self.inited.load(Ordering::Acquire) {
            if let Some(raw) = core::num::NonZeroU32::new(i) {
                let h = Handle::from_raw(raw);
                f(h, self.get(h));
            }
        }
    }
}

impl<T: Default, C: ChunkSource> Reserved<'_, T, C> {
    fn push(&mut self, index: u32) {
        self.slab.slot(index).next.store(self.head, Ordering::Relaxed);
        self.head = index;
        self.left += 1;
    }
    /// How many are left.
    pub fn left(&self) -> u32 {
        self.left
    }
    /// Takes one. `None` only when more are taken than were reserved: a bug of the
    /// caller that it must turn into an error.
    pub fn take(&mut self) -> Option<Handle<T>> {
        let index = core::num::NonZeroU32::new(self.head)?;
        self.head = self.slab.slot(index.get()).next.load(Ordering::Relaxed);
        self.left -= 1;
        Some(Handle::from_raw(index))
    }
}

impl<T: Default, C: ChunkSource> Drop for Reserved<'_, T, C> {
    fn drop(&mut self) {
        while let Some(h) = self.take() {
            self.slab.free(h);
        }
    }
}

impl<T, C: ChunkSource> Drop for Slab<T, C> {
    fn drop(&mut self) {
        let inited = *self.inited.get_mut();
        for index in 1..=inited {
            let (chunk, at) = locate(index);
            let base = *self.chunks[chunk].get_mut();
            // SAFETY: initialised (index <= inited), dropped once, nobody else has self.
            unsafe { (*base.add(at)).value.assume_init_drop() };
        }
        for (k, c) in self.chunks.iter_mut().enumerate() {
            if let Some(ptr) = NonNull::new((*c.get_mut()).cast::<u8>()) {
                let bytes = (1usize << (FIRST as usize + k)) * size_of::<Slot<T>>();
                let bytes = (bytes + CHUNK_ALIGN - 1) & !(CHUNK_ALIGN - 1);
                // SAFETY: from `chunk(bytes)` in grow(); the objects were dropped above.
                unsafe { self.source.release(ptr, bytes) };
            }
        }
    }
}

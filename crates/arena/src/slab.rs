//! The slab.
//!
//! Chunk `k` holds `FIRST << k` objects, so 32 chunk pointers reach every index
//! and finding an object is a shift and a load. Objects are initialised when first
//! handed out, in index order; the free list is linked through a side word in
//! front of each object, which also tells a live object from a free one.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use machvm_sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use machvm_sync::{Rank, Spin};

use crate::handle::Handle;
use crate::source::{CHUNK_ALIGN, ChunkSource};

/// log2 of the objects in chunk 0. The model checker gets to see chunks being added.
const FIRST: u32 = if cfg!(loom) { 0 } else { 6 };
/// Doublings until every 32-bit index has a place.
const CHUNKS: usize = if cfg!(loom) { 4 } else { 26 };
/// The side word of an object that is handed out.
const LIVE: u32 = u32::MAX;

/// The source gave no memory, or the slab's limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

struct Slot<T> {
    /// Index of the next free slot while this one is free or reserved (0 ends the
    /// list), `LIVE` while it is handed out. Written by whoever owns the slot: the
    /// holder of the free list's lock, of the reservation, or of the handle.
    next: AtomicU32,
    value: MaybeUninit<T>,
}

struct Free {
    head: u32,
    /// Objects handed out or free: index of the next never-used slot, minus one.
    used: u32,
    live: u32,
}

/// On cache lines of its own: lookups read what stands next to it.
#[repr(align(64))]
struct Line<T>(T);

/// See the crate text.
pub struct Slab<T, C: ChunkSource> {
    chunks: [AtomicPtr<Slot<T>>; CHUNKS],
    /// Slots `1..=inited` hold an initialised `T`. Release on growth, Acquire on use.
    inited: AtomicU32,
    limit: u32,
    source: C,
    free: Line<Spin<Free>>,
}

/// Slots taken ahead of time: taking from it cannot fail. What is left goes back
/// when it is dropped.
#[must_use]
pub struct Reserved<'a, T: Default, C: ChunkSource> {
    slab: &'a Slab<T, C>,
    head: u32,
    /// The last of the list, which goes back to the free list in one piece.
    tail: u32,
    left: u32,
}

/// The largest index: what `CHUNKS` chunks hold, less a margin under `LIVE`.
const MOST: u32 = ((((1u64 << CHUNKS) - 1) << FIRST) - 1) as u32;
const _: () = assert!(MOST < LIVE && locate(MOST).0 == CHUNKS - 1);

/// Chunk and place of slot `index` (from one).
const fn locate(index: u32) -> (usize, usize) {
    let at = index - 1 + (1 << FIRST);
    // `| 1` changes no result and spares the test for zero that a bit scan needs.
    let chunk = 31 - FIRST - (at | 1).leading_zeros();
    (chunk as usize, (at - (1 << (FIRST + chunk))) as usize)
}

/// Bytes of chunk `k`: what is asked of the source and given back to it.
const fn chunk_bytes<T>(k: usize) -> usize {
    let bytes = (1usize << (FIRST as usize + k)) * size_of::<Slot<T>>();
    (bytes + CHUNK_ALIGN - 1) & !(CHUNK_ALIGN - 1)
}

#[cold]
#[track_caller]
fn never_handed_out(index: u32) -> ! {
    panic!("handle {index} was never handed out")
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
            chunks: core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut())),
            inited: AtomicU32::new(0),
            limit: limit.min(MOST),
            source,
            free: Line(Spin::new(Rank::Slab, Free { head: 0, used: 0, live: 0 })),
        }
    }

    /// The slot, if it was ever handed out.
    #[inline]
    fn try_slot(&self, index: u32) -> Option<&Slot<T>> {
        // Zero wraps to the largest, which is not below anything. Acquire pairs with
        // the Release of grow().
        if index.wrapping_sub(1) >= self.inited.load(Ordering::Acquire) {
            return None;
        }
        let (chunk, at) = locate(index);
        let base = self.chunks[chunk].load(Ordering::Relaxed);
        // SAFETY: 1 <= index <= inited, so the chunk was stored before `inited` was
        // released and slot `at` of it is initialised; chunks live as long as self.
        Some(unsafe { &*base.add(at) })
    }

    #[inline]
    #[track_caller]
    fn slot(&self, index: u32) -> &Slot<T> {
        match self.try_slot(index) {
            Some(slot) => slot,
            None => never_handed_out(index),
        }
    }

    /// The object. Any handle that this slab ever handed out is good.
    ///
    /// # Panics
    /// The handle is another slab's and names no object of this one.
    #[inline]
    #[track_caller]
    pub fn get(&self, h: Handle<T>) -> &T {
        // SAFETY: slots up to `inited` hold an initialised `T` (checked by slot()).
        unsafe { self.slot(h.get()).value.assume_init_ref() }
    }

    /// Like [`Slab::get`] for a number that may be nonsense.
    #[inline]
    pub fn lookup(&self, raw: u32) -> Option<&T> {
        let slot = self.try_slot(raw)?;
        // SAFETY: try_slot() returns initialised slots only.
        Some(unsafe { slot.value.assume_init_ref() })
    }

    /// Objects handed out and not freed (reserved ones count).
    pub fn live(&self) -> u32 {
        self.free.0.lock().live
    }

    /// Was nothing ever handed out? Takes no lock.
    #[inline]
    pub fn is_untouched(&self) -> bool {
        self.inited.load(Ordering::Relaxed) == 0
    }

    /// Bytes of memory taken from the source.
    pub fn bytes(&self) -> usize {
        self.chunks
            .iter()
            .enumerate()
            .filter(|(_, c)| !c.load(Ordering::Relaxed).is_null())
            .map(|(k, _)| chunk_bytes::<T>(k))
            .sum()
    }

    /// Bytes of memory that objects handed out so far occupy (chunks are taken ahead).
    pub fn touched_bytes(&self) -> usize {
        self.inited.load(Ordering::Relaxed) as usize * size_of::<Slot<T>>()
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
            base = self.source.chunk(chunk_bytes::<T>(chunk)).ok_or(NoMemory)?.as_ptr().cast();
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

    /// A slot of whatever list; the caller sets its `next`.
    fn take(&self, free: &mut Free) -> Result<u32, NoMemory> {
        if !self.source.admit() {
            return Err(NoMemory);
        }
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
        let index = self.take(&mut self.free.0.lock())?;
        self.slot(index).next.store(LIVE, Ordering::Relaxed);
        core::num::NonZeroU32::new(index).map(Handle::from_raw).ok_or(NoMemory)
    }

    /// `n` objects ahead of time.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing is taken then.
    pub fn reserve(&self, n: u32) -> Result<Reserved<'_, T, C>, NoMemory> {
        let mut r = Reserved { slab: self, head: 0, tail: 0, left: 0 };
        let mut free = self.free.0.lock();
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
    ///
    /// # Panics
    /// It is not handed out: freed twice, or only reserved.
    #[track_caller]
    pub fn free(&self, h: Handle<T>) {
        let slot = self.slot(h.get());
        let mut free = self.free.0.lock();
        assert!(slot.next.load(Ordering::Relaxed) == LIVE, "{h:?} is not handed out");
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
        if self.head == 0 {
            self.tail = index;
        }
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
        let slot = self.slab.slot(index.get());
        self.head = slot.next.load(Ordering::Relaxed);
        slot.next.store(LIVE, Ordering::Relaxed);
        self.left -= 1;
        Some(Handle::from_raw(index))
    }
}

impl<T: Default, C: ChunkSource> Drop for Reserved<'_, T, C> {
    fn drop(&mut self) {
        if self.head == 0 {
            return;
        }
        let mut free = self.slab.free.0.lock();
        self.slab.slot(self.tail).next.store(free.head, Ordering::Relaxed);
        free.head = self.head;
        free.live -= self.left;
    }
}

impl<T, C: ChunkSource> Drop for Slab<T, C> {
    fn drop(&mut self) {
        // `&mut self`: whoever made this the last access ordered the others before it.
        for index in 1..=self.inited.load(Ordering::Relaxed) {
            let (chunk, at) = locate(index);
            let base = self.chunks[chunk].load(Ordering::Relaxed);
            // SAFETY: initialised (index <= inited), dropped once, nobody else has self.
            unsafe {
                (*base.add(at)).value.assume_init_drop();
                base.add(at).drop_in_place();
            }
        }
        for (k, c) in self.chunks.iter().enumerate() {
            if let Some(ptr) = NonNull::new(c.load(Ordering::Relaxed).cast::<u8>()) {
                // SAFETY: from `chunk` of as many bytes in grow(); the objects were dropped
                // above.
                unsafe { self.source.release(ptr, chunk_bytes::<T>(k)) };
            }
        }
    }
}

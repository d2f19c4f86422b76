//! The slab.
//!
//! Chunk `k` holds `1 << k` times the objects of the first, so 32 chunk pointers reach every index. Each is kept as
//! the address that index 0 would have in it: finding an object is a comparison, a bit scan, a load and a
//! multiplication. Objects are initialised when first handed out, in index order; the free list is linked through a
//! side word in front of each object, which also tells a live object from a free one.

use core::mem::MaybeUninit;
use core::num::NonZeroU32;
use core::ptr::NonNull;
use machvm_sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use machvm_sync::{Rank, Spin};

use crate::handle::Handle;
use crate::source::{CHUNK_ALIGN, ChunkSource};

/// log2 of the objects in chunk 0. The model checker gets to see chunks being added.
const FIRST: u32 = if cfg!(loom) { 0 } else { 6 };
/// What is added to an index to tell its chunk by the highest bit.
const BIAS: u32 = (1 << FIRST) - 1;
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
    /// By the highest bit of `index + BIAS` (one for each there is, so that no test is needed): where index 0 would be
    /// if the chunk reached there. Null: not there yet.
    chunks: [AtomicPtr<Slot<T>>; u32::BITS as usize],
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
const _: () = assert!(MOST < LIVE - BIAS && chunk_of(MOST) as u32 == FIRST + CHUNKS as u32 - 1);

/// The chunk of slot `index` (from one to `MOST`).
const fn chunk_of(index: u32) -> usize {
    // `| 1` changes no result and spares the test for zero that a bit scan needs.
    (31 - ((index + BIAS) | 1).leading_zeros()) as usize
}

/// The first slot of a chunk.
const fn first_of(chunk: usize) -> u32 {
    (1 << chunk) - BIAS
}

/// The chunks that `inited` slots need.
fn chunks_of(inited: u32) -> impl Iterator<Item = usize> {
    (FIRST as usize..u32::BITS as usize)
        .take_while(move |chunk| *chunk <= chunk_of(MOST) && first_of(*chunk) <= inited)
}

/// Bytes of a chunk: what is asked of the source and given back to it.
const fn chunk_bytes<T>(chunk: usize) -> usize {
    let bytes = (1usize << chunk) * size_of::<Slot<T>>();
    (bytes + CHUNK_ALIGN - 1) & !(CHUNK_ALIGN - 1)
}

#[cold]
#[track_caller]
fn never_handed_out(index: NonZeroU32) -> ! {
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
    fn try_slot(&self, index: NonZeroU32) -> Option<&Slot<T>> {
        let index = index.get();
        // Acquire pairs with the Release of grow().
        if index > self.inited.load(Ordering::Acquire) {
            return None;
        }
        let base = self.chunks[chunk_of(index)].load(Ordering::Relaxed);
        // SAFETY: 1 <= index <= inited, so the chunk was stored before `inited` was released, its slot `index` is in
        // the same allocation as where it starts (wrapping_add undoes the wrapping_sub of grow()) and is initialised;
        // chunks live as long as self.
        Some(unsafe { &*base.wrapping_add(index as usize) })
    }

    #[inline]
    #[track_caller]
    fn slot(&self, index: NonZeroU32) -> &Slot<T> {
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
        unsafe { self.slot(h.raw()).value.assume_init_ref() }
    }

    /// Like [`Slab::get`] for a number that may be nonsense.
    #[inline]
    pub fn lookup(&self, raw: u32) -> Option<&T> {
        let slot = self.try_slot(NonZeroU32::new(raw)?)?;
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
        chunks_of(self.inited.load(Ordering::Relaxed)).map(chunk_bytes::<T>).sum()
    }

    /// Bytes of memory that objects handed out so far occupy (chunks are taken ahead).
    pub fn touched_bytes(&self) -> usize {
        self.inited.load(Ordering::Relaxed) as usize * size_of::<Slot<T>>()
    }

    /// One more slot, never used before.
    fn grow(&self, free: &mut Free) -> Result<NonZeroU32, NoMemory> {
        const { assert!(align_of::<Slot<T>>() <= CHUNK_ALIGN) }
        if free.used >= self.limit {
            return Err(NoMemory);
        }
        let index = NonZeroU32::MIN.saturating_add(free.used);
        let chunk = chunk_of(index.get());
        if index.get() == first_of(chunk) {
            let new: *mut Slot<T> =
                self.source.chunk(chunk_bytes::<T>(chunk)).ok_or(NoMemory)?.as_ptr().cast();
            self.chunks[chunk].store(new.wrapping_sub(first_of(chunk) as usize), Ordering::Relaxed);
        }
        let base = self.chunks[chunk].load(Ordering::Relaxed);
        // SAFETY: slot `index` is in its chunk (chunk_of), which has been there since its first slot was made, is
        // aligned (CHUNK_ALIGN), is ours alone (ChunkSource), and the slot is not yet visible to anyone.
        unsafe {
            let slot = Slot { next: AtomicU32::new(0), value: MaybeUninit::new(T::default()) };
            base.wrapping_add(index.get() as usize).write(slot);
        }
        free.used = index.get();
        self.inited.store(index.get(), Ordering::Release);
        Ok(index)
    }

    /// A slot of whatever list; the caller sets its `next`.
    fn take(&self, free: &mut Free) -> Result<NonZeroU32, NoMemory> {
        if !self.source.admit() {
            return Err(NoMemory);
        }
        let index = match NonZeroU32::new(free.head) {
            None => self.grow(free)?,
            Some(head) => {
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
        Ok(Handle::from_raw(index))
    }

    /// `n` objects ahead of time.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing is taken then.
    pub fn reserve(&self, n: u32) -> Result<Reserved<'_, T, C>, NoMemory> {
        let mut r = Reserved { slab: self, head: 0, tail: 0, left: 0 };
        if n == 0 {
            return Ok(r);
        }
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
        let slot = self.slot(h.raw());
        let mut free = self.free.0.lock();
        assert!(slot.next.load(Ordering::Relaxed) == LIVE, "{h:?} is not handed out");
        slot.next.store(free.head, Ordering::Relaxed);
        free.head = h.get();
        free.live -= 1;
    }

    /// Calls `f` with every object ever handed out, live or not.
    pub fn for_each(&self, mut f: impl FnMut(Handle<T>, &T)) {
        for i in 1..=self.inited.load(Ordering::Acquire) {
            if let Some(raw) = NonZeroU32::new(i) {
                let h = Handle::from_raw(raw);
                f(h, self.get(h));
            }
        }
    }
}

impl<T: Default, C: ChunkSource> Reserved<'_, T, C> {
    fn push(&mut self, index: NonZeroU32) {
        self.slab.slot(index).next.store(self.head, Ordering::Relaxed);
        if self.head == 0 {
            self.tail = index.get();
        }
        self.head = index.get();
        self.left += 1;
    }
    /// How many are left.
    pub fn left(&self) -> u32 {
        self.left
    }
    /// Takes one. `None` only when more are taken than were reserved: a bug of the
    /// caller that it must turn into an error.
    pub fn take(&mut self) -> Option<Handle<T>> {
        let index = NonZeroU32::new(self.head)?;
        let slot = self.slab.slot(index);
        self.head = slot.next.load(Ordering::Relaxed);
        slot.next.store(LIVE, Ordering::Relaxed);
        self.left -= 1;
        Some(Handle::from_raw(index))
    }
}

impl<T: Default, C: ChunkSource> Drop for Reserved<'_, T, C> {
    fn drop(&mut self) {
        let Some(tail) = NonZeroU32::new(self.tail).filter(|_| self.head != 0) else { return };
        let mut free = self.slab.free.0.lock();
        self.slab.slot(tail).next.store(free.head, Ordering::Relaxed);
        free.head = self.head;
        free.live -= self.left;
    }
}

impl<T, C: ChunkSource> Drop for Slab<T, C> {
    fn drop(&mut self) {
        // `&mut self`: whoever made this the last access ordered the others before it.
        let inited = self.inited.load(Ordering::Relaxed);
        for index in 1..=inited {
            let base = self.chunks[chunk_of(index)].load(Ordering::Relaxed);
            // SAFETY: initialised (index <= inited), dropped once, nobody else has self.
            unsafe {
                let slot = base.wrapping_add(index as usize);
                (*slot).value.assume_init_drop();
                slot.drop_in_place();
            }
        }
        for chunk in chunks_of(inited) {
            let ptr = self.chunks[chunk].load(Ordering::Relaxed).wrapping_add(first_of(chunk) as usize);
            if let Some(ptr) = NonNull::new(ptr.cast::<u8>()) {
                // SAFETY: from `chunk` of as many bytes in grow(); the objects were dropped
                // above.
                unsafe { self.source.release(ptr, chunk_bytes::<T>(chunk)) };
            }
        }
    }
}

//! Memory for the slabs of `machvm-arena`.

use core::ptr::NonNull;
use machvm_arena::ChunkSource;

use crate::sys;

/// Chunks straight from the kernel: private anonymous memory that costs nothing
/// before it is touched. Never managed by us, so it may be touched in a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxChunks;

// SAFETY: 1: a new private mapping is page aligned, readable and writable, and
// overlaps no other; 2: nothing here touches it.
unsafe impl ChunkSource for LinuxChunks {
    fn chunk(&self, bytes: usize) -> Option<NonNull<u8>> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: not MAP_FIXED.
        let at = unsafe { sys::mmap(0, bytes as u64, prot, flags, -1, 0) }.ok()?;
        NonNull::new(core::ptr::with_exposed_provenance_mut(at as usize))
    }
    unsafe fn release(&self, ptr: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's conditions 1 and 2. Failure (no memory to split a
        // merged mapping) leaves the chunk mapped and unused.
        let _ = unsafe { sys::munmap(ptr.as_ptr().expose_provenance() as u64, bytes as u64) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_lives_on_it() {
        let slab = machvm_arena::Slab::<[u64; 8], _>::new(LinuxChunks, 10_000);
        let handles: Vec<_> = (0..5_000).map(|_| slab.alloc().expect("memory")).collect();
        assert!(handles.iter().all(|h| slab.get(*h).iter().all(|w| *w == 0)));
        assert_eq!(slab.live(), 5_000);
    }
}

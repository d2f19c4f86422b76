//! Reading and writing bytes of the process with an error instead of a signal.
//!
//! The kernel moves them, as it would for another process, and keeps to the protection of
//! each page. Where it stops early, the mappings say why.

use machvm::FaultError;
use machvm::task::Denied;
use machvm_hal::Prot;

use super::{check, page};

type Call = unsafe extern "C" fn(
    libc::pid_t,
    *const libc::iovec,
    libc::c_ulong,
    *const libc::iovec,
    libc::c_ulong,
    libc::c_ulong,
) -> isize;

/// `process_vm_readv` or `process_vm_writev` of this very process: how many bytes went.
fn by_kernel(call: Call, local: *const u8, remote: u64, len: usize) -> usize {
    let local = libc::iovec { iov_base: local.cast_mut().cast(), iov_len: len };
    let there = core::ptr::with_exposed_provenance_mut::<libc::c_void>(remote as usize);
    let remote = libc::iovec { iov_base: there, iov_len: len };
    // SAFETY: `local` is good for the direction of the call (see the callers); whatever is
    // at `remote`, the kernel checks it, and what it writes is memory that the program named.
    let n = unsafe { call(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(n).unwrap_or(0)
}

/// Why the bytes at `addr` did not go.
fn why(addr: u64, need: Prot) -> Denied {
    // Mapped with the right: beyond the end of a file, or memory that the kernel does not
    // lend (its own pages, devices).
    check(addr, addr + 1, need).err().unwrap_or(Denied::Fault(FaultError::PagerIo(page(addr))))
}

/// Moves bytes until all went or none does.
fn go_on(addr: u64, len: usize, need: Prot, mut step: impl FnMut(usize, u64) -> usize) -> Result<(), Denied> {
    let mut done = 0;
    while done < len {
        match step(done, addr + done as u64) {
            0 => return Err(why(addr + done as u64, need)),
            n => done += n,
        }
    }
    Ok(())
}

/// Fills `buf` from `addr`.
///
/// # Errors
/// [`Denied`]; `buf` is filled below the address in it.
pub(crate) fn read(addr: u64, buf: &mut [u8]) -> Result<(), Denied> {
    let len = buf.len();
    go_on(addr, len, Prot::R, |done, at| {
        let to = &mut buf[done..];
        by_kernel(libc::process_vm_readv, to.as_mut_ptr(), at, to.len())
    })
}

/// Puts `data` at `addr`.
///
/// # Errors
/// [`Denied`]; what lies below the address in it is written.
pub(crate) fn write(addr: u64, data: &[u8]) -> Result<(), Denied> {
    go_on(addr, data.len(), Prot::W, |done, at| {
        let from = &data[done..];
        by_kernel(libc::process_vm_writev, from.as_ptr(), at, from.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_until_a_right_is_missing() {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, of which the second page loses a right and the third goes.
        let at = unsafe {
            let p = libc::mmap(core::ptr::null_mut(), 3 << 12, rw, flags, -1, 0);
            assert_ne!(p, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(p.byte_add(4096), 4096, libc::PROT_READ), 0);
            assert_eq!(libc::munmap(p.byte_add(8192), 4096), 0);
            p.expose_provenance() as u64
        };
        let data: Vec<u8> = (0..5000).map(|i| i as u8).collect();
        assert_eq!(write(at + 7, &data[..4089]), Ok(()));
        assert_eq!(write(at + 7, &data), Err(Denied::Protection(page(at + 4096))));
        let mut buf = vec![1; 8192];
        assert_eq!(read(at, &mut buf), Ok(()));
        assert_eq!((&buf[7..4096], &buf[4096..]), (&data[..4089], &[0; 4096][..]));
        assert_eq!(read(at + 1, &mut buf), Err(Denied::Hole(page(at + 8192))));
    }
}

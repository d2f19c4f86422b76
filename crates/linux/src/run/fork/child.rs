//! What the child of a fork does before it is the program.
//!
//! It runs on the forker's stack, in a copy of the VM's memory made at a moment when
//! other threads may have held any lock: no heap, no lock, nothing of the VM's state.

use super::super::layout::ChildHeap;
use super::super::ptrace::last_errno;
use super::super::signals;
use super::super::space::{Errno, Piece, PieceKind};
use super::buffer::Buffer;
use super::frame::Frame;
use super::likeness::Likeness;

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// A private writable copy that could be too large if it were all touched is allowed,
/// as it was to the parent.
const FRESH: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
/// What the names of the VM's memory files begin with in /proc/PID/maps.
const OUR_FILES: &[u8] = b"/memfd:machvm";

/// All the child needs to know; made before the fork.
pub(super) struct Plan<'a> {
    pub(super) pieces: &'a [Piece],
    pub(super) buffer: &'a Buffer,
    pub(super) likeness: &'a Likeness,
    pub(super) heap: &'a ChildHeap,
    pub(super) frame: &'a Frame,
    /// `CLONE_CHILD_SETTID`: the tid goes there.
    pub(super) set_tid: Option<u64>,
    /// `CLONE_CHILD_CLEARTID`.
    pub(super) clear_tid: Option<u64>,
}

// SAFETY: nothing in a plan belongs to a thread; the one raw pointer (the heap's
// auxiliary vector) is null.
unsafe impl Sync for Plan<'_> {}

/// Becomes the program.
///
/// => in the child, on its only thread, all signals blocked
pub(super) fn run(plan: &Plan<'_>) -> ! {
    // SAFETY: no argument.
    let parent = unsafe { libc::getppid() };
    let done = become_like(plan, parent);
    plan.buffer.tell(done);
    if done.is_err() {
        // SAFETY: ends a child that the parent buries.
        unsafe { libc::_exit(125) }
    }
    // SAFETY: 1: this function does not return. 2: the caller's registers, in memory
    // that is the caller's. 3: the forker unregistered its area when it started.
    unsafe { plan.frame.resume() }
}

fn become_like(plan: &Plan<'_>, parent: i32) -> Result<(), Errno> {
    for piece in plan.pieces {
        replace(piece)?;
    }
    unmap_our_files();
    plan.buffer.receive(parent, |addr, page| {
        // SAFETY: `addr` is a page of one of the pieces, now fresh writable memory that
        // no reference covers.
        unsafe { std::ptr::copy_nonoverlapping(page.as_ptr(), addr as *mut u8, page.len()) };
    });
    if !plan.heap.apply() {
        // The kernel's heap would be the VM's, and a grown one would not be there.
        return Err(last_errno());
    }
    signals::restore_in_child();
    plan.likeness.apply()?;
    set_tids(plan);
    for piece in plan.pieces {
        protect(piece)?;
    }
    Ok(())
}

fn len(piece: &Piece) -> usize {
    (piece.end - piece.start) as usize
}

/// Puts fresh private memory where the parent has ours, or nothing.
fn replace(piece: &Piece) -> Result<(), Errno> {
    let at = piece.start as *mut libc::c_void;
    // SAFETY: the piece is the program's, so nothing of the VM is there, and no
    // reference covers it.
    let failed = unsafe {
        match piece.kind {
            PieceKind::Foreign => false,
            // A gap is kept by Linux itself in the child.
            PieceKind::Guard | PieceKind::Ours { dont_fork: true, .. } => libc::munmap(at, len(piece)) < 0,
            PieceKind::Ours { grows_down, .. } => {
                let down = if grows_down { libc::MAP_GROWSDOWN } else { 0 };
                libc::mmap(at, len(piece), RW, FRESH | down, -1, 0) == libc::MAP_FAILED
            }
        }
    };
    if failed { Err(last_errno()) } else { Ok(()) }
}

fn protect(piece: &Piece) -> Result<(), Errno> {
    let at = piece.start as *mut libc::c_void;
    // SAFETY: addresses of the program only.
    unsafe {
        match piece.kind {
            PieceKind::Ours { dont_fork: false, wipe_on_fork, .. } => {
                if wipe_on_fork {
                    libc::madvise(at, len(piece), libc::MADV_WIPEONFORK);
                }
                if piece.prot != RW && libc::mprotect(at, len(piece), piece.prot) < 0 {
                    return Err(last_errno());
                }
            }
            PieceKind::Ours { .. } | PieceKind::Foreign | PieceKind::Guard => {}
        }
    }
    Ok(())
}

fn set_tids(plan: &Plan<'_>) {
    // SAFETY: the kernel only records the address, and checks the target of the copy:
    // as for clone, one that is bad is passed over.
    unsafe {
        libc::syscall(libc::SYS_set_tid_address, plan.clear_tid.unwrap_or(0));
        if let Some(at) = plan.set_tid {
            let mut tid = libc::gettid();
            let from = libc::iovec { iov_base: (&raw mut tid).cast(), iov_len: 4 };
            let to = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: 4 };
            libc::process_vm_writev(tid, &raw const from, 1, &raw const to, 1, 0);
        }
    }
}

/// Unmaps whatever is still shared memory of the VM's files, so that nothing the
/// child does can reach the parent. Without /proc, `replace` has done what matters.
fn unmap_our_files() {
    // SAFETY: a constant path; the descriptor is the child's own and closed below.
    let fd = unsafe { libc::open(c"/proc/thread-self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return;
    }
    let mut buf = [0u8; 8192];
    let mut filled = 0;
    loop {
        // SAFETY: the rest of the buffer.
        let n = unsafe { libc::read(fd, buf[filled..].as_mut_ptr().cast(), buf.len() - filled) };
        if n <= 0 {
            break;
        }
        filled += n as usize;
        // /proc gives whole lines unless they do not fit.
        let whole = buf[..filled].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        for (start, end) in buf[..whole].split(|b| *b == b'\n').filter_map(of_our_files) {
            // SAFETY: a mapping of the VM's memory file that is no piece any more; the
            // child uses none.
            unsafe { libc::munmap(start as *mut libc::c_void, (end - start) as usize) };
        }
        buf.copy_within(whole..filled, 0);
        filled -= whole;
        if filled == buf.len() {
            // A line longer than any path: it is not ours.
            filled = 0;
        }
    }
    // SAFETY: opened above.
    unsafe { libc::close(fd) };
}

/// The range of a line of /proc/PID/maps that maps one of our files shared.
fn of_our_files(line: &[u8]) -> Option<(u64, u64)> {
    let mut fields = line.split(|b| *b == b' ').filter(|f| !f.is_empty());
    let range = fields.next()?;
    let shared = fields.next()?.get(3) == Some(&b's');
    let name = fields.nth(3)?;
    let dash = range.iter().position(|b| *b == b'-')?;
    (shared && name.starts_with(OUR_FILES)).then_some(())?;
    Some((hex(&range[..dash])?, hex(&range[dash + 1..])?))
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |n, d| Some(n << 4 | u64::from((*d as char).to_digit(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_mappings_of_our_files_are_recognised() {
        let line = b"7f0010000000-7f0010200000 rw-s 00000000 00:01 12  /memfd:machvm (deleted)";
        assert_eq!(of_our_files(line), Some((0x7f00_1000_0000, 0x7f00_1020_0000)));
        let private = b"7f0010000000-7f0010200000 rw-p 00000000 00:01 12  /memfd:machvm (deleted)";
        assert_eq!(of_our_files(private), None);
        assert_eq!(of_our_files(b"7f0010000000-7f0010200000 rw-s 00000000 00:01 12  /memfd:other"), None);
        assert_eq!(of_our_files(b"7f0010000000-7f0010200000 rw-p 00000000 00:00 0"), None);
        assert_eq!(of_our_files(b""), None);
    }
}

//! Contents of pages, piece by piece through a small buffer (PM38, PM39).

use machvm_hal::{PAGE_SIZE, Pfn, PhysMem};

const PAGE: usize = PAGE_SIZE as usize;
const PIECE: usize = 256;

/// Panics if the area leaves what is there.
#[track_caller]
fn check(what: &str, off: usize, size: usize, room: usize) {
    assert!(
        off.checked_add(size).is_some_and(|end| end <= room),
        "{size} bytes at {off:#x} leave the {room:#x} bytes of {what}"
    );
}

#[track_caller]
pub(super) fn zero(mem: &impl PhysMem, frame: Pfn, off: usize, size: usize) {
    check("the page to zero", off, size, PAGE);
    if (off, size) == (0, PAGE) && mem.zero(frame, 1).is_ok() {
        return;
    }
    let mut at = off;
    while at < off + size {
        let n = PIECE.min(off + size - at);
        mem.write(frame, at, &[0; PIECE][..n]);
        at += n;
    }
}

/// `size` bytes from byte `from.1` of the run `from.0`, to byte `to.1` of `to.0`. Runs are
/// given by their length and the frame of each page.
#[track_caller]
pub(super) fn copy<F: Fn(usize) -> Pfn, T: Fn(usize) -> Pfn>(
    mem: &impl PhysMem,
    from: (usize, F, usize),
    to: (usize, T, usize),
    size: usize,
) {
    check("the run to copy from", from.2, size, from.0 * PAGE);
    check("the run to copy to", to.2, size, to.0 * PAGE);
    let mut buf = [0; PIECE];
    let mut done = 0;
    while done < size {
        let (a, b) = (from.2 + done, to.2 + done);
        let n = PIECE.min(size - done).min(PAGE - a % PAGE).min(PAGE - b % PAGE);
        mem.read((from.1)(a / PAGE), a % PAGE, &mut buf[..n]);
        mem.write((to.1)(b / PAGE), b % PAGE, &buf[..n]);
        done += n;
    }
}

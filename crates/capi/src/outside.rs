//! Memory of the process that is not the VM's: the program's text, stack and heap.
//!
//! A Mach program sees one address space; here it is the window, which the VM manages, and
//! around it what Linux manages. For calls on the process's own task this module is the
//! other half. Other tasks are windows and nothing else.
//!
//! ```text
//!   0x1000 ....... | window of the task | ........................ 0x7fff_ffff_f000
//!     Linux        |   machvm::task     |   Linux, less other tasks' windows
//! ```
//! What is mapped is asked of `/proc/self/maps` ([`maps`]); bytes are moved by system calls
//! that fail where an instruction would trap ([`bytes`]); protection, wiring and the like
//! become Linux's own calls ([`attributes`]). The window, and the windows of other tasks,
//! are holes from here.
//!
//! Linux has no maximum protection, no inheritance by sharing private memory and no counted
//! wiring; a call that asks for one of these gets `KERN_NOT_SUPPORTED`.

pub(crate) mod advice;
pub(crate) mod attributes;
pub(crate) mod bytes;
pub(crate) mod maps;
pub(crate) mod pages;
pub(crate) mod snapshot;

use machvm::task::Denied;
use machvm_hal::{Prot, RawAddr, RawSize, Va, VaRange};

use crate::ports::TaskPort;
use crate::types::kern_return_t;
use crate::world::world;
use maps::Maps;

/// One past the highest address that Linux maps for a program that asks for nothing special.
const USER_END: u64 = 0x7fff_ffff_f000;

/// A part of a range, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// In the window: address and size.
    Inside(u64, u64),
    /// Around it: start and end.
    Outside(u64, u64),
}

/// Does a range of this task have bytes that are not in its window? Ranges of nothing and
/// ranges that wrap do not: they are the core's to judge.
pub(crate) fn touches(port: &TaskPort, addr: u64, size: u64) -> bool {
    let (low, high) = world().window();
    port.own && VaRange::check(RawAddr(addr), RawSize(size)).is_ok() && (addr < low || addr + size > high)
}

/// The parts of a range of this process's task, ascending.
///
/// => the range does not wrap.
pub(crate) fn parts(addr: u64, size: u64) -> impl DoubleEndedIterator<Item = Part> {
    let (low, high) = world().window();
    let end = addr + size;
    let cut = |from: u64, to: u64| (addr.max(from), end.min(to));
    let below = Some(cut(0, low)).filter(|(a, b)| a < b).map(|(a, b)| Part::Outside(a, b));
    let within = Some(cut(low, high)).filter(|(a, b)| a < b).map(|(a, b)| Part::Inside(a, b - a));
    let above = Some(cut(high, u64::MAX)).filter(|(a, b)| a < b).map(|(a, b)| Part::Outside(a, b));
    [below, within, above].into_iter().flatten()
}

/// Makes a call for each part of a range of `port`: `inside` for address and size in the
/// window (or for the numbers as they are, if [`touches`] says no), `outside` for start and
/// end around it. Stops at the first error.
///
/// # Errors
/// Of the calls.
pub(crate) fn each(
    port: &TaskPort,
    addr: u64,
    size: u64,
    mut inside: impl FnMut(u64, u64) -> Result<(), kern_return_t>,
    mut outside: impl FnMut(u64, u64) -> Result<(), kern_return_t>,
) -> Result<(), kern_return_t> {
    if !touches(port, addr, size) {
        return inside(addr, size);
    }
    parts(addr, size).try_for_each(|part| match part {
        Part::Inside(addr, size) => inside(addr, size),
        Part::Outside(start, end) => outside(start, end),
    })
}

/// The page of an address.
fn page(addr: u64) -> Va {
    Va::containing(RawAddr(addr))
}

/// Is all of `[start, end)` mapped with these rights?
///
/// # Errors
/// [`Denied`], with the first page where it is not.
pub(crate) fn check(start: u64, end: u64, need: Prot) -> Result<(), Denied> {
    let mut maps = Maps::open().map_err(|_| Denied::NoMemory(page(start)))?;
    let mut at = start;
    while at < end {
        match maps.next(at).map_err(|_| Denied::NoMemory(page(at)))? {
            Some(m) if m.start <= at && m.prot.contains(need) => at = m.end,
            Some(m) if m.start <= at => return Err(Denied::Protection(page(at))),
            _ => return Err(Denied::Hole(page(at))),
        }
    }
    Ok(())
}

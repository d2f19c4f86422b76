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

use machvm::task::{Denied, RawFlags, VmFlags};
use machvm_hal::{PAGE_MASK, Prot, RawAddr, RawSize, Va, VaRange};

use crate::calls::here;
use crate::kr::{self, Code};
use crate::ports::TaskPort;
use crate::types::kern_return_t;
use crate::world::world;
use maps::{Mapping, Maps};
use snapshot::Snapshot;

/// One past the highest address that Linux maps for a program that asks for nothing special.
pub(crate) const USER_END: u64 = 0x7fff_ffff_f000;

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

/// Is something mapped outside in this range of `port`?
pub(crate) fn is_mapped(port: &TaskPort, addr: u64, size: u64) -> bool {
    touches(port, addr, size)
        && parts(addr, size).any(|part| match part {
            Part::Inside(..) => false,
            Part::Outside(start, end) => Maps::within(start, end).is_ok_and(|all| !all.is_empty()),
        })
}

/// Where the search for a place begins. Behind the window Linux has its memory, and the VM no
/// place: a hint there, which Mach would follow, is taken as none.
pub(crate) fn hint(addr: RawAddr, flags: RawFlags) -> RawAddr {
    let anywhere = flags.0 & VmFlags::ANYWHERE.bits() != 0;
    let behind = (world().window().1..USER_END).contains(&addr.0);
    if anywhere && behind { RawAddr(0) } else { addr }
}

/// What to say where there is no place for a mapping: outside the window there is never
/// one, but where something is mapped there that is the reason.
pub(crate) fn taken(
    port: &TaskPort,
    addr: u64,
    size: u64,
    flags: RawFlags,
    code: kern_return_t,
) -> kern_return_t {
    let fixed = flags.0 & (VmFlags::ANYWHERE | VmFlags::OVERWRITE).bits() == 0;
    if code == kr::KERN_INVALID_ADDRESS && fixed && is_mapped(port, addr, size) {
        return kr::KERN_NO_SPACE;
    }
    code
}

/// A copy of memory of this process's task, inside: a source for a mapping, with the
/// protection that the memory has. It stands for the memory itself where no `copy` is wanted
/// and nothing writes there, as in the program's text; then nothing may write to it either.
///
/// => the thread is not inside the VM.
///
/// # Errors
/// `KERN_NOT_SUPPORTED`: the memory itself is wanted, and could be written: Linux's pages are
/// not ours to share. As [`Snapshot::take`].
pub(crate) fn source(addr: u64, size: u64, copy: bool) -> Result<Snapshot, kern_return_t> {
    let (world, how) = here();
    if !copy {
        for part in parts(addr, size) {
            let Part::Outside(start, end) = part else { return Err(kr::KERN_NOT_SUPPORTED) };
            check(start, end, Prot::NONE).map_err(|e| e.code(how))?;
            let all = Maps::within(start, end).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)?;
            if !all.iter().all(Mapping::is_constant) {
                return Err(kr::KERN_NOT_SUPPORTED);
            }
        }
    }
    let taken = Snapshot::take(addr, size).map_err(|e| e.code(how))?;
    let base = addr & !PAGE_MASK;
    let own = world.own().mach(how);
    for part in parts(base, taken.size()) {
        let Part::Outside(start, end) = part else { continue };
        for m in Maps::within(start, end).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)? {
            let (at, size) = (RawAddr(taken.start() + (m.start - base)), RawSize(m.bytes()));
            let mut inside = world.inside().ok_or(kr::KERN_FAILURE)?;
            // The protection, and then it as the most that there can be.
            for most in if copy { &[false][..] } else { &[false, true] } {
                let done = own.vm_protect(at, size, *most, m.prot.into(), inside.may());
                done.map_err(|e| e.code(how))?;
            }
        }
    }
    Ok(taken)
}

/// Does a range that ends at `end` reach beyond what a program can have?
pub(crate) fn is_beyond(end: u64) -> bool {
    end > USER_END
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

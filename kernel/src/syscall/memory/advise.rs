//! madvise(2).

use machvm::map::{Advice, Advise, Inherit, Place};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr};

use super::{DONT_FORK, FILE, Part, WIPE_ON_FORK, copy_of, each, each_solid, map, range};
use crate::errno::{EACCES, EFAULT, EINVAL, ENOMEM, EPERM, Result};
use crate::fs::Mappable;
use crate::mapped;

const NORMAL: u32 = 0;
const RANDOM: u32 = 1;
const SEQUENTIAL: u32 = 2;
const WILLNEED: u32 = 3;
const DONTNEED: u32 = 4;
const FREE: u32 = 8;
const REMOVE: u32 = 9;
const DONTFORK: u32 = 10;
const DOFORK: u32 = 11;
const MERGEABLE: u32 = 12;
const UNMERGEABLE: u32 = 13;
const HUGEPAGE: u32 = 14;
const NOHUGEPAGE: u32 = 15;
const DONTDUMP: u32 = 16;
const DODUMP: u32 = 17;
const WIPEONFORK: u32 = 18;
const KEEPONFORK: u32 = 19;
const COLD: u32 = 20;
const PAGEOUT: u32 = 21;
const POPULATE_READ: u32 = 22;
const POPULATE_WRITE: u32 = 23;
const DONTNEED_LOCKED: u32 = 24;

pub(in crate::syscall) fn madvise(at: u64, len: u64, advice: u64) -> Result {
    let advice = advice as u32;
    if !matches!(advice, NORMAL..=DONTNEED | FREE..=DONTNEED_LOCKED) {
        // Poisoning pages (100, 101) and collapsing into larger ones are not there.
        return Err(if matches!(advice, 100 | 101) { EPERM } else { EINVAL });
    }
    let Some(r) = range(at, len, EINVAL)? else { return Ok(0) };
    if matches!(advice, POPULATE_READ | POPULATE_WRITE) {
        let access = if advice == POPULATE_WRITE { Prot::W } else { Prot::R };
        each_solid(r, |p| populate(p, access))?;
        return Ok(0);
    }
    // What is mapped is done; the holes are reported afterwards.
    if each(r, |p| part(p, advice))? { Err(ENOMEM) } else { Ok(0) }
}

/// Brings the pages in, ready for this access.
pub(super) fn populate(p: &Part, access: Prot) -> Result<()> {
    if !p.info.attributes.prot.contains(access) {
        return Err(EINVAL);
    }
    let fault = |va: machvm_hal::Va| machvm::fault::Fault { addr: RawAddr(va.get()), access };
    p.range.iter().try_for_each(|va| {
        map().fault(&fault(va), &mut MaySleep::claim()).map_err(|e| match e {
            machvm::FaultError::NoMemory(_) | machvm::FaultError::NoMapping(_) => ENOMEM,
            machvm::FaultError::Protection(_) => EINVAL,
            _ => EFAULT,
        })
    })
}

fn part(p: &Part, advice: u32) -> Result<()> {
    let advise = match advice {
        DONTNEED | FREE | COLD | PAGEOUT | REMOVE if p.is_locked() => return Err(EINVAL),
        DONTFORK | DOFORK | WIPEONFORK | KEEPONFORK => return at_fork(p, advice),
        NORMAL => Advise::Access(Advice::Normal),
        RANDOM => Advise::Access(Advice::Random),
        SEQUENTIAL => Advise::Access(Advice::Sequential),
        DONTDUMP => Advise::Core { include: false },
        DODUMP => Advise::Core { include: true },
        DONTNEED_LOCKED if p.is_locked() => return zero_wired(p),
        DONTNEED | DONTNEED_LOCKED if p.info.flags.contains(FILE) => return reload(p),
        DONTNEED | DONTNEED_LOCKED => Advise::DontNeed,
        FREE if !p.is_private_anonymous() => return Err(EINVAL),
        FREE => Advise::Free,
        REMOVE if p.is_shared() && p.info.attributes.prot.contains(Prot::W) => return remove(p),
        REMOVE if p.is_private_anonymous() => return Err(EINVAL),
        REMOVE => return Err(EACCES),
        COLD | PAGEOUT => {
            map().deactivate(p.range, &mut MaySleep::claim());
            return Ok(());
        }
        WILLNEED => {
            // Only what is there already: the rest comes by itself.
            map().vm_fault_prefault(p.range.start(), 0, p.range.pages().min(512));
            return Ok(());
        }
        // Larger pages come by themselves; equal ones are not looked for.
        HUGEPAGE | NOHUGEPAGE => return Ok(()),
        MERGEABLE | UNMERGEABLE => return Err(EINVAL),
        _ => return Err(EINVAL),
    };
    map().madvise(p.range, advise, &mut MaySleep::claim()).map(|_| ()).map_err(|_| ENOMEM)
}

/// A private mapping of a file: the file's contents as they are now. What has no file any more stays as it is.
fn reload(p: &Part) -> Result<()> {
    let Some(inode) = mapped::file_of(p.info.attributes.tag) else { return Ok(()) };
    let Mappable::Object(object) = inode.object()? else { return Ok(()) };
    let first = p.info.pindex(p.range.start());
    let place = Place::Over(p.range.start());
    let made = copy_of(map(), (object, first), p.range.pages(), place, p.info.attributes);
    made.map(|_| ())
}

/// Wired pages stay; their contents go.
fn zero_wired(p: &Part) -> Result<()> {
    if !p.is_private_anonymous() {
        return Err(EINVAL);
    }
    let zeroes = [0; PAGE_SIZE as usize];
    p.range
        .iter()
        .try_for_each(|va| map().write_in_page(va.get(), &zeroes, &mut MaySleep::claim()).map_err(|_| ENOMEM))
}

/// Shared memory loses its contents, for everybody.
fn remove(p: &Part) -> Result<()> {
    let Some(o) = p.info.object else { return Err(EINVAL) };
    let first = p.info.pindex(p.range.start());
    let zeroes = [0; PAGE_SIZE as usize];
    let (vm, may) = (crate::embed::the_vm(), &mut MaySleep::claim());
    // A file keeps the pages it began with in its image: zeroes are written over what is there.
    let mut at = first;
    let end = first.add(p.range.pages());
    while let Some(next) = vm.vm_object_next(o, at, may).filter(|n| *n < end) {
        let va = p.range.start().add(next.0 - first.0);
        map().write_in_page(va.get(), &zeroes, may).map_err(|_| ENOMEM)?;
        at = next.add(1);
    }
    Ok(())
}

fn at_fork(p: &Part, advice: u32) -> Result<()> {
    if advice == WIPEONFORK && !p.is_private_anonymous() {
        return Err(EINVAL);
    }
    let now = p.info.flags & (DONT_FORK | WIPE_ON_FORK);
    let bits = match advice {
        DONTFORK => now | DONT_FORK,
        DOFORK => now - DONT_FORK,
        WIPEONFORK => now | WIPE_ON_FORK,
        _ => now - WIPE_ON_FORK,
    };
    let inherit = if bits.contains(DONT_FORK) {
        Inherit::None
    } else if bits.contains(WIPE_ON_FORK) {
        Inherit::Zero
    } else if p.is_shared() {
        Inherit::Share
    } else {
        Inherit::Copy
    };
    let mut may = MaySleep::claim();
    let mark = Advise::Mark { access: None, set: bits, clear: (DONT_FORK | WIPE_ON_FORK) - bits };
    map().madvise(p.range, mark, &mut may).map_err(|_| ENOMEM)?;
    map().inherit(p.range, inherit, &mut may).map_err(|_| ENOMEM)
}

//! What the arguments of a memory call say, apart from any map: the checks that
//! Linux makes before it looks at a mapping, in Linux's order.

use machvm_hal::{PAGE_MASK, PAGE_SIZE, Prot, RawAddr, Va, VaRange};

use super::errno::{EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM};
use crate::run::space::Errno;

/// The end of user space (`TASK_SIZE`).
pub(super) const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// The lowest address a mapping may have (`vm.mmap_min_addr` of most systems).
pub(super) const LOWEST: u64 = 0x1_0000;

pub(super) const MAP_TYPE: u32 = 0x0f;
pub(super) const MAP_SHARED: u32 = 0x01;
pub(super) const MAP_PRIVATE: u32 = 0x02;
pub(super) const MAP_SHARED_VALIDATE: u32 = 0x03;
pub(super) const MAP_DROPPABLE: u32 = 0x08;
pub(super) const MAP_FIXED: u32 = 0x10;
pub(super) const MAP_ANONYMOUS: u32 = 0x20;
pub(super) const MAP_32BIT: u32 = 0x40;
pub(super) const MAP_GROWSDOWN: u32 = 0x100;
pub(super) const MAP_DENYWRITE: u32 = 0x800;
pub(super) const MAP_EXECUTABLE: u32 = 0x1000;
pub(super) const MAP_LOCKED: u32 = 0x2000;
pub(super) const MAP_NORESERVE: u32 = 0x4000;
pub(super) const MAP_POPULATE: u32 = 0x8000;
pub(super) const MAP_NONBLOCK: u32 = 0x1_0000;
pub(super) const MAP_STACK: u32 = 0x2_0000;
pub(super) const MAP_HUGETLB: u32 = 0x4_0000;
pub(super) const MAP_SYNC: u32 = 0x8_0000;
pub(super) const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
pub(super) const MAP_UNINITIALIZED: u32 = 0x400_0000;

pub(super) const PROT_GROWSDOWN: u64 = 0x0100_0000;
pub(super) const PROT_GROWSUP: u64 = 0x0200_0000;
const PROT_SEM: u64 = 8;

/// Flags that MAP_SHARED_VALIDATE knows for every file.
const LEGACY_MAP_MASK: u32 = MAP_SHARED
    | MAP_PRIVATE
    | MAP_FIXED
    | MAP_ANONYMOUS
    | MAP_DENYWRITE
    | MAP_EXECUTABLE
    | MAP_UNINITIALIZED
    | MAP_GROWSDOWN
    | MAP_LOCKED
    | MAP_NORESERVE
    | MAP_POPULATE
    | MAP_NONBLOCK
    | MAP_STACK
    | MAP_HUGETLB
    | MAP_32BIT
    | (0x3f << 26);

/// Rounds up to pages; `None` when that wraps.
pub(super) const fn page_up(len: u64) -> Option<u64> {
    match len.checked_add(PAGE_MASK) {
        Some(up) => Some(up & !PAGE_MASK),
        None => None,
    }
}

/// `[addr, addr + len)`, both page aligned; `None` when empty or when it wraps.
pub(super) fn range(addr: u64, len: u64) -> Option<VaRange> {
    VaRange::of_pages(Va::aligned(RawAddr(addr))?, len / PAGE_SIZE)
}

/// Rights in the core's form: the bits are the same.
pub(super) fn rights(prot: u64) -> Prot {
    Prot::from_bits_truncate((prot & 7) as u8)
}

/// Rights in Linux's form.
pub(super) fn prot_bits(prot: Prot) -> i32 {
    i32::from(prot.bits())
}

/// Where an mmap wants to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Where {
    /// In place of whatever is there.
    Fixed,
    /// There or nowhere.
    NoReplace,
    /// There if it is free.
    Hint,
    /// Anywhere.
    Any,
}

/// The part of mmap's arguments that says where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Geometry {
    /// Page aligned.
    pub(super) addr: u64,
    /// Page aligned, not zero.
    pub(super) len: u64,
    pub(super) place: Where,
}

impl Geometry {
    /// Checks address, length and offset. `unit`: the page size of the mapping.
    pub(super) fn check(addr: u64, len: u64, flags: u32, offset: u64, unit: u64) -> Result<Geometry, Errno> {
        if len == 0 {
            return Err(EINVAL);
        }
        let len = len.checked_add(unit - 1).map(|l| l & !(unit - 1)).filter(|l| *l != 0).ok_or(ENOMEM)?;
        // Linux counts in pages.
        if (offset / PAGE_SIZE).checked_add(len / PAGE_SIZE).is_none() {
            return Err(EOVERFLOW);
        }
        if len > TASK_SIZE {
            return Err(ENOMEM);
        }
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
            if addr > TASK_SIZE - len {
                return Err(ENOMEM);
            }
            if addr & (unit - 1) != 0 {
                return Err(EINVAL);
            }
            if addr < LOWEST {
                return Err(EPERM);
            }
            let no = flags & MAP_FIXED_NOREPLACE != 0;
            return Ok(Geometry { addr, len, place: if no { Where::NoReplace } else { Where::Fixed } });
        }
        let hint = addr & !(unit - 1);
        let hint = if hint != 0 && hint < LOWEST { LOWEST.max(unit) } else { hint };
        let place = if hint == 0 || hint > TASK_SIZE - len { Where::Any } else { Where::Hint };
        Ok(Geometry { addr: hint, len, place })
    }

    /// Once it is placed.
    pub(super) fn pages(&self) -> u64 {
        self.len / PAGE_SIZE
    }

    /// `None` unless the place is exact.
    pub(super) fn exact(&self) -> Option<VaRange> {
        match self.place {
            Where::Fixed | Where::NoReplace => range(self.addr, self.len),
            Where::Hint | Where::Any => None,
        }
    }
}

/// What an anonymous mapping is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Anonymous {
    Private,
    Shared,
    Droppable,
}

impl Anonymous {
    pub(super) fn check(flags: u32) -> Result<Anonymous, Errno> {
        match flags & MAP_TYPE {
            MAP_SHARED if flags & MAP_GROWSDOWN != 0 => Err(EINVAL),
            MAP_SHARED => Ok(Anonymous::Shared),
            MAP_PRIVATE => Ok(Anonymous::Private),
            MAP_DROPPABLE => Ok(Anonymous::Droppable),
            _ => Err(EINVAL),
        }
    }
}

/// Checks the type of a file mapping. `true`: shared.
pub(super) fn file_type(flags: u32) -> Result<bool, Errno> {
    match flags & MAP_TYPE {
        MAP_SHARED => Ok(true),
        // Whether a file can do MAP_SYNC only its file system knows: Linux is asked.
        MAP_SHARED_VALIDATE if flags & !(LEGACY_MAP_MASK | MAP_FIXED_NOREPLACE | MAP_SYNC) != 0 => {
            Err(EOPNOTSUPP)
        }
        MAP_SHARED_VALIDATE => Ok(true),
        MAP_PRIVATE => Ok(false),
        _ => Err(EINVAL),
    }
}

/// The page size that MAP_HUGETLB asks for.
pub(super) fn huge_unit(flags: u32) -> u64 {
    match (flags >> 26) & 0x3f {
        0 => 1 << 21,
        shift @ 12..=34 => 1 << shift,
        _ => 1 << 21,
    }
}

/// munmap's range.
pub(super) fn munmap(addr: u64, len: u64) -> Result<VaRange, Errno> {
    if addr & PAGE_MASK != 0 || addr > TASK_SIZE || len > TASK_SIZE - addr {
        return Err(EINVAL);
    }
    range(addr, page_up(len).ok_or(EINVAL)?).ok_or(EINVAL)
}

/// mprotect's arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Protect {
    pub(super) range: VaRange,
    pub(super) prot: Prot,
    pub(super) grows_down: bool,
    pub(super) grows_up: bool,
}

impl Protect {
    /// `None`: nothing to do.
    pub(super) fn check(addr: u64, len: u64, prot: u64) -> Result<Option<Protect>, Errno> {
        let (down, up) = (prot & PROT_GROWSDOWN != 0, prot & PROT_GROWSUP != 0);
        if down && up || addr & PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        if len == 0 {
            return Ok(None);
        }
        let len = page_up(len).ok_or(ENOMEM)?;
        if addr.checked_add(len).is_none_or(|end| end <= addr) {
            return Err(ENOMEM);
        }
        if prot & !(7 | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP) != 0 {
            return Err(EINVAL);
        }
        let range = range(addr, len).ok_or(ENOMEM)?;
        Ok(Some(Protect { range, prot: rights(prot), grows_down: down, grows_up: up }))
    }
}

/// madvise's range. `None`: nothing to do.
pub(super) fn madvise(addr: u64, len: u64) -> Result<Option<VaRange>, Errno> {
    if addr & PAGE_MASK != 0 {
        return Err(EINVAL);
    }
    let len = page_up(len).ok_or(EINVAL)?;
    addr.checked_add(len).ok_or(EINVAL)?;
    Ok(range(addr, len))
}

pub(super) const MS_ASYNC: u64 = 1;
pub(super) const MS_INVALIDATE: u64 = 2;
pub(super) const MS_SYNC: u64 = 4;

/// msync's range. `None`: nothing to do.
pub(super) fn msync(addr: u64, len: u64, flags: u64) -> Result<Option<VaRange>, Errno> {
    let both = MS_ASYNC | MS_SYNC;
    if flags & !(both | MS_INVALIDATE) != 0 || addr & PAGE_MASK != 0 || flags & both == both {
        return Err(EINVAL);
    }
    // Linux rounds before it looks for the wrap, and so does not see this one.
    let len = len.wrapping_add(PAGE_MASK) & !PAGE_MASK;
    addr.checked_add(len).ok_or(ENOMEM)?;
    Ok(range(addr, len))
}

/// The range of mlock and munlock, which need not be aligned. `None`: nothing to do.
pub(super) fn mlock(addr: u64, len: u64) -> Result<Option<VaRange>, Errno> {
    let len = len.wrapping_add(addr & PAGE_MASK).wrapping_add(PAGE_MASK) & !PAGE_MASK;
    let addr = addr & !PAGE_MASK;
    addr.checked_add(len).ok_or(EINVAL)?;
    Ok(range(addr, len))
}

pub(super) const MREMAP_MAYMOVE: u64 = 1;
pub(super) const MREMAP_FIXED: u64 = 2;
pub(super) const MREMAP_DONTUNMAP: u64 = 4;

/// mremap's arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Remap {
    pub(super) addr: Va,
    /// Bytes, page aligned; 0 asks for a second mapping of shared memory.
    pub(super) old: u64,
    /// Bytes, page aligned, not zero.
    pub(super) new: u64,
    pub(super) may_move: bool,
    pub(super) dont_unmap: bool,
    /// Where to, with MREMAP_FIXED.
    pub(super) to: Option<Va>,
}

impl Remap {
    pub(super) fn check(addr: u64, old: u64, new: u64, flags: u64, to: u64) -> Result<Remap, Errno> {
        if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) != 0 {
            return Err(EINVAL);
        }
        let addr_va = Va::aligned(RawAddr(addr)).ok_or(EINVAL)?;
        let old = old.wrapping_add(PAGE_MASK) & !PAGE_MASK;
        let new = new.wrapping_add(PAGE_MASK) & !PAGE_MASK;
        if new == 0 || new > TASK_SIZE {
            return Err(EINVAL);
        }
        let (may_move, dont_unmap) = (flags & MREMAP_MAYMOVE != 0, flags & MREMAP_DONTUNMAP != 0);
        let fixed = flags & MREMAP_FIXED != 0;
        let remap = |to| Remap { addr: addr_va, old, new, may_move, dont_unmap, to };
        if !fixed && !dont_unmap {
            return Ok(remap(None));
        }
        if !may_move || dont_unmap && old != new {
            return Err(EINVAL);
        }
        if !fixed {
            return Ok(remap(None));
        }
        let target = Va::aligned(RawAddr(to)).ok_or(EINVAL)?;
        let overlap = addr.wrapping_add(old) > to && to + new > addr;
        if to > TASK_SIZE - new || overlap {
            return Err(EINVAL);
        }
        if to < LOWEST {
            return Err(EPERM);
        }
        Ok(remap(Some(target)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno<T: std::fmt::Debug>(r: Result<T, Errno>) -> i32 {
        r.expect_err("refused").0
    }
    const P: u64 = PAGE_SIZE;
    const AT: u64 = 0x10_0000;

    #[test]
    fn mmap_checks_length_then_offset_then_place() {
        let check = |addr, len, flags, offset| Geometry::check(addr, len, flags, offset, P);
        assert_eq!(errno(check(1, 0, MAP_FIXED, 0)), libc::EINVAL);
        assert_eq!(errno(check(0, u64::MAX, 0, 0)), libc::ENOMEM);
        assert_eq!(errno(check(0, TASK_SIZE + 1, 0, 0)), libc::ENOMEM);
        assert_eq!(errno(check(1, TASK_SIZE, MAP_FIXED, 0)), libc::ENOMEM);
        assert_eq!(errno(check(AT + 1, P, MAP_FIXED, 0)), libc::EINVAL);
        assert_eq!(errno(check(0, P, MAP_FIXED, 0)), libc::EPERM);
        assert_eq!(errno(check(TASK_SIZE, P, MAP_FIXED_NOREPLACE, 0)), libc::ENOMEM);
        assert_eq!(check(AT, 1, MAP_FIXED | MAP_FIXED_NOREPLACE, 0).unwrap().place, Where::NoReplace);
        assert_eq!(
            check(AT + 7, P + 1, 0, 0),
            Ok(Geometry { addr: AT, len: 2 * P, place: Where::Hint }),
            "a hint is rounded down"
        );
        assert_eq!(check(1, P, 0, 0).unwrap().place, Where::Any);
        assert_eq!(check(P, P, 0, 0).unwrap().addr, LOWEST);
        assert_eq!(check(u64::MAX, P, 0, 0).unwrap().place, Where::Any);
    }

    #[test]
    fn types_of_mappings_are_linuxs() {
        assert_eq!(Anonymous::check(MAP_PRIVATE | MAP_STACK), Ok(Anonymous::Private));
        assert_eq!(errno(Anonymous::check(MAP_SHARED | MAP_GROWSDOWN)), libc::EINVAL);
        assert_eq!(errno(Anonymous::check(MAP_SHARED_VALIDATE)), libc::EINVAL);
        assert_eq!(errno(Anonymous::check(0)), libc::EINVAL);
        assert_eq!(file_type(MAP_PRIVATE | MAP_SYNC), Ok(false));
        assert_eq!(file_type(MAP_SHARED | 1 << 25), Ok(true), "MAP_SHARED ignores what it does not know");
        assert_eq!(errno(file_type(MAP_SHARED_VALIDATE | 1 << 25)), libc::EOPNOTSUPP);
        assert_eq!(errno(file_type(0)), libc::EINVAL);
        assert_eq!(errno(file_type(MAP_DROPPABLE)), libc::EINVAL);
    }

    #[test]
    fn ranges_of_munmap_mprotect_madvise() {
        assert_eq!(errno(munmap(AT, 0)), libc::EINVAL);
        assert_eq!(errno(munmap(AT + 1, P)), libc::EINVAL);
        assert_eq!(errno(munmap(AT, u64::MAX - AT)), libc::EINVAL);
        assert_eq!(munmap(AT, 1).unwrap().pages(), 1);
        assert_eq!(Protect::check(AT, 0, 0x40), Ok(None), "an empty range before a bad protection");
        assert_eq!(errno(Protect::check(AT + 1, 0, 0)), libc::EINVAL);
        assert_eq!(errno(Protect::check(AT, P, 0x40)), libc::EINVAL);
        assert_eq!(errno(Protect::check(AT, u64::MAX - P, 1)), libc::ENOMEM);
        assert_eq!(errno(Protect::check(AT, P, PROT_GROWSDOWN | PROT_GROWSUP)), libc::EINVAL);
        assert_eq!(Protect::check(AT, P, PROT_SEM | 1).unwrap().unwrap().prot, Prot::R);
        assert_eq!(madvise(AT, 0), Ok(None));
        assert_eq!(errno(madvise(AT, u64::MAX)), libc::EINVAL);
        assert_eq!(errno(madvise(AT + 1, P)), libc::EINVAL);
    }

    #[test]
    fn ranges_of_msync_and_mlock() {
        assert_eq!(errno(msync(AT, P, MS_SYNC | MS_ASYNC)), libc::EINVAL);
        assert_eq!(errno(msync(AT, P, 8)), libc::EINVAL);
        assert_eq!(msync(AT, u64::MAX, 0), Ok(None));
        assert_eq!(errno(msync(AT, u64::MAX - 2 * P, 0)), libc::ENOMEM);
        assert_eq!(mlock(AT + 1, P).unwrap().unwrap().pages(), 2);
        assert_eq!(mlock(AT, 0), Ok(None));
        assert_eq!(errno(mlock(AT, u64::MAX - 2 * P)), libc::EINVAL);
    }

    #[test]
    fn mremap_checks_before_it_looks() {
        let check = |old, new, flags, to| Remap::check(AT, old, new, flags, to);
        assert_eq!(errno(check(P, P, 8, 0)), libc::EINVAL);
        assert_eq!(errno(Remap::check(AT + 1, P, P, 0, 0)), libc::EINVAL);
        assert_eq!(errno(check(P, 0, 0, 0)), libc::EINVAL);
        assert_eq!(errno(check(P, P, MREMAP_FIXED, AT * 2)), libc::EINVAL);
        assert_eq!(errno(check(P, P, MREMAP_FIXED | MREMAP_MAYMOVE, AT * 2 + 1)), libc::EINVAL);
        assert_eq!(errno(check(2 * P, P, MREMAP_FIXED | MREMAP_MAYMOVE, AT + P)), libc::EINVAL);
        assert_eq!(errno(check(P, 2 * P, MREMAP_DONTUNMAP | MREMAP_MAYMOVE, 0)), libc::EINVAL);
        assert_eq!(check(0, P, 0, 0).unwrap().old, 0);
        assert!(check(P, P, MREMAP_FIXED | MREMAP_MAYMOVE, AT + P).is_ok());
    }
}

//! What Linux's own calls for memory mean on managed memory: mlock, madvise, mincore, msync,
//! mprotect and munmap, for who stands between a program and its C library.
//!
//! Ranges are the task's addresses. Errors are `errno` values, as Linux gives them for the
//! same reason; where Linux stops at a hole with part of the work done, nothing is done.

use machvm::FaultError;
use machvm::fault::Fault;
use machvm::map::{
    Advice, Advise, AdviseError, CopyWhy, Holes, Inherit, ProtectError, SetProt, SyncError, SyncHow,
    WireError, Wiring,
};
use machvm_hal::{MaySleep, PAGE_MASK, PAGE_SIZE, Prot, RawAddr, RawSize, VaRange};

use super::quiet::Quiet;
use super::task::Task;

/// Linux 5.14, 5.4 and 5.18: not in every C library's headers.
const MADV_COLD: i32 = 20;
const MADV_PAGEOUT: i32 = 21;
const MADV_POPULATE_READ: i32 = 22;
const MADV_POPULATE_WRITE: i32 = 23;
const MADV_DONTNEED_LOCKED: i32 = 24;

type Done = Result<(), i32>;

/// The pages of a range; `None` for an empty one.
fn pages(addr: usize, len: usize) -> Result<Option<VaRange>, i32> {
    if len == 0 {
        return Ok(None);
    }
    VaRange::check(RawAddr(addr as u64), RawSize(len as u64)).map(Some).map_err(|_| libc::ENOMEM)
}

/// The same, from the start of a page only.
fn aligned(addr: usize, len: usize) -> Result<Option<VaRange>, i32> {
    if addr as u64 & PAGE_MASK != 0 { Err(libc::EINVAL) } else { pages(addr, len) }
}

impl Task {
    fn go_in(&self) -> Result<(Quiet, MaySleep), i32> {
        let quiet = self.enter().map_err(|_| libc::ENOMEM)?;
        Ok((quiet, MaySleep::claim()))
    }

    fn solid(&self, range: VaRange, may: &mut MaySleep) -> Done {
        match self.map().check_access(range, Prot::NONE, may) {
            Err((_, CopyWhy::Hole)) => Err(libc::ENOMEM),
            _ => Ok(()),
        }
    }

    /// How many bytes from `addr` on, of `len`, may be accessed so. Says nothing of the next
    /// moment.
    #[must_use]
    pub fn accessible(&self, addr: usize, len: usize, need: Prot) -> usize {
        let (Ok(Some(range)), Ok((_quiet, mut may))) = (pages(addr, len), self.go_in()) else { return 0 };
        match self.map().check_access(range, need, &mut may) {
            Ok(()) => len,
            Err((_, CopyWhy::Foreign)) => len, // Linux's mapping: Linux will say
            Err((va, _)) => (va.get() as usize).saturating_sub(addr).min(len),
        }
    }

    /// `mlock(2)`.
    ///
    /// # Errors
    /// ENOMEM: a hole, memory without rights, or none to be had.
    pub fn mlock(&self, addr: usize, len: usize) -> Done {
        let addr_down = addr & !(PAGE_MASK as usize);
        let Some(range) = pages(addr_down, len.checked_add(addr - addr_down).ok_or(libc::ENOMEM)?)? else {
            return Ok(());
        };
        let (_quiet, mut may) = self.go_in()?;
        self.map().wire(range, Wiring::User, Holes::Refuse, &mut may).map_err(|e| match e {
            WireError::Submap(_) => libc::EINVAL,
            _ => libc::ENOMEM,
        })
    }

    /// `munlock(2)`.
    ///
    /// # Errors
    /// ENOMEM: a hole.
    pub fn munlock(&self, addr: usize, len: usize) -> Done {
        let addr_down = addr & !(PAGE_MASK as usize);
        let Some(range) = pages(addr_down, len.checked_add(addr - addr_down).ok_or(libc::ENOMEM)?)? else {
            return Ok(());
        };
        let (_quiet, mut may) = self.go_in()?;
        self.solid(range, &mut may)?;
        self.map().unwire(range, Wiring::User, Holes::Skip, &mut may).map_err(|_| libc::ENOMEM)
    }

    /// `madvise(2)`. WILLNEED makes pages resident, as far as there is memory for them without
    /// paging. Advice about huge pages and merging is taken and does nothing.
    ///
    /// # Errors
    /// EINVAL: not aligned, advice that is not for this memory, or wired memory is to be
    /// dropped. ENOMEM: a hole (what is mapped has been advised), or no memory.
    pub fn madvise(&self, addr: usize, len: usize, advice: i32) -> Done {
        let Some(range) = aligned(addr, len)? else { return Ok(()) };
        let (_quiet, mut may) = self.go_in()?;
        let advise = match advice {
            libc::MADV_NORMAL => Advise::Access(Advice::Normal),
            libc::MADV_RANDOM => Advise::Access(Advice::Random),
            libc::MADV_SEQUENTIAL => Advise::Access(Advice::Sequential),
            libc::MADV_DONTNEED => Advise::DontNeed,
            libc::MADV_FREE => Advise::Free,
            libc::MADV_DONTDUMP => Advise::Core { include: false },
            libc::MADV_DODUMP => Advise::Core { include: true },
            MADV_POPULATE_READ => return self.populate(range, Prot::R, &mut may),
            MADV_POPULATE_WRITE => return self.populate(range, Prot::W, &mut may),
            _ => return self.hint(range, advice, &mut may),
        };
        match self.map().madvise(range, advise, &mut may) {
            Ok(None) => Ok(()),
            Err(AdviseError::Wired(_)) => Err(libc::EINVAL),
            Ok(Some(_)) | Err(AdviseError::NoMemory(_)) => Err(libc::ENOMEM),
        }
    }

    /// What changes no contents.
    fn hint(&self, range: VaRange, advice: i32, may: &mut MaySleep) -> Done {
        let inherit = match advice {
            libc::MADV_DONTFORK => Some(Inherit::None),
            libc::MADV_DOFORK | libc::MADV_KEEPONFORK => Some(Inherit::Copy),
            libc::MADV_WIPEONFORK => Some(Inherit::Zero),
            libc::MADV_MERGEABLE..=libc::MADV_NOHUGEPAGE | MADV_COLD => None,
            libc::MADV_WILLNEED => return self.solid(range, may).map(|()| self.bring_in(range, may)),
            MADV_PAGEOUT => {
                self.map().deactivate(range, may);
                None
            }
            MADV_DONTNEED_LOCKED | libc::MADV_REMOVE => return Err(libc::EINVAL),
            _ => return Err(libc::EINVAL),
        };
        self.solid(range, may)?;
        match inherit {
            Some(inherit) => self.map().inherit(range, inherit, may).map_err(|_| libc::ENOMEM),
            None => Ok(()),
        }
    }

    /// Until the first page that cannot be had, or not without another's going.
    fn bring_in(&self, range: VaRange, may: &mut MaySleep) {
        for va in range.iter() {
            let fault = Fault { addr: RawAddr(va.get()), access: Prot::R };
            if self.map().vm().memory_is_low() || self.map().fault(&fault, may).is_err() {
                return;
            }
        }
    }

    fn populate(&self, range: VaRange, access: Prot, may: &mut MaySleep) -> Done {
        range.iter().try_for_each(|va| {
            let fault = Fault { addr: RawAddr(va.get()), access };
            self.map().fault(&fault, may).map_err(|e| match e {
                FaultError::NoMapping(_) | FaultError::NoMemory(_) => libc::ENOMEM,
                FaultError::Protection(_) | FaultError::Foreign(_) => libc::EINVAL,
                _ => libc::EFAULT,
            })
        })
    }

    /// `mincore(2)`: 1 for each page from `addr` on that is resident.
    ///
    /// # Errors
    /// EINVAL: not aligned. ENOMEM: a hole; nothing is written.
    pub fn mincore(&self, addr: usize, resident: &mut [u8]) -> Done {
        let Some(range) = aligned(addr, resident.len().saturating_mul(PAGE_SIZE as usize))? else {
            return Ok(());
        };
        let (_quiet, mut may) = self.go_in()?;
        self.solid(range, &mut may)?;
        for (byte, va) in resident.iter_mut().zip(range.iter()) {
            *byte = u8::from(self.map().is_resident(va, &mut may));
        }
        Ok(())
    }

    /// `msync(2)`. Of a file's write errors that page-out had before it says nothing: see
    /// [`Task::sync_file`].
    ///
    /// # Errors
    /// EINVAL: not aligned, or flags. ENOMEM: a hole. EBUSY: wired memory is to be
    /// invalidated. EIO: the pager failed.
    pub fn msync(&self, addr: usize, len: usize, flags: i32) -> Done {
        let both = libc::MS_ASYNC | libc::MS_SYNC;
        if flags & !(both | libc::MS_INVALIDATE) != 0 || flags & both == both {
            return Err(libc::EINVAL);
        }
        let Some(range) = aligned(addr, len)? else { return Ok(()) };
        let (_quiet, mut may) = self.go_in()?;
        let mut how = SyncHow::empty();
        how.set(SyncHow::INVALIDATE, flags & libc::MS_INVALIDATE != 0);
        how.set(SyncHow::START, flags & libc::MS_SYNC == 0);
        self.map().sync_as(range, how, &mut may).map_err(|e| match e {
            SyncError::Hole(_) => libc::ENOMEM,
            SyncError::Wired(_) => libc::EBUSY,
            SyncError::Pager(..) => libc::EIO,
        })
    }

    /// `mprotect(2)`, with `PROT_*`.
    ///
    /// # Errors
    /// EINVAL: not aligned, or other bits. ENOMEM: a hole, or no memory. EACCES: beyond the
    /// maximum protection. Nothing changed.
    pub fn mprotect(&self, addr: usize, len: usize, prot: i32) -> Done {
        let prot = u8::try_from(prot).ok().and_then(Prot::from_bits).ok_or(libc::EINVAL)?;
        let Some(range) = aligned(addr, len)? else { return Ok(()) };
        let (_quiet, mut may) = self.go_in()?;
        let set = SetProt { prot: Some(prot), max: None, holes: Holes::Refuse };
        self.map().protect(range, &set, &mut may).map_err(|e| match e {
            ProtectError::ExceedsMax(_) | ProtectError::OutsideMax(_) | ProtectError::WriteExecute(_) => {
                libc::EACCES
            }
            _ => libc::ENOMEM,
        })
    }

    /// `munmap(2)`.
    ///
    /// # Errors
    /// EINVAL: not aligned, or of nothing. ENOMEM: no memory; nothing changed.
    pub fn munmap(&self, addr: usize, len: usize) -> Done {
        let Some(range) = aligned(addr, len)? else { return Err(libc::EINVAL) };
        let (_quiet, mut may) = self.go_in()?;
        self.map().delete(range, &mut may).map_err(|_| libc::ENOMEM)
    }
}

//! SysV shared memory: mappings of Linux's at addresses of our choice.

use machvm::map::{Attributes, Inherit, Place};
use machvm_hal::{PAGE_MASK, PAGE_SIZE, Prot, Va, VaRange};

use super::args;
use super::errno::{self, EEXIST, EINVAL, ENOMEM};
use super::{Calls, FILE, SHARED};
use crate::run::space::Errno;
use crate::sys;

const SHM_RDONLY: i32 = 0o10000;
const SHM_RND: i32 = 0o20000;
const SHM_REMAP: i32 = 0o40000;
const SHM_EXEC: i32 = 0o100000;

/// The size of a segment in bytes.
fn segment_size(id: i32) -> Result<u64, Errno> {
    // SAFETY: an all-zero shmid_ds is a valid value.
    let mut about: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is a shmid_ds.
    match unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut about) } {
        0 => args::page_up(about.shm_segsz as u64).ok_or(ENOMEM),
        _ => Err(Errno(sys::errno())),
    }
}

impl Calls<'_> {
    pub(super) fn sys_shmat(&mut self, id: i32, addr: u64, flags: i32) -> Result<u64, Errno> {
        if id < 0 {
            return Err(EINVAL);
        }
        let at = match (addr, flags & SHM_RND != 0) {
            (0, _) if flags & SHM_REMAP != 0 => return Err(EINVAL),
            (0, _) => None,
            (addr, false) if addr & PAGE_MASK != 0 => return Err(EINVAL),
            (addr, _) => match Va::from_page(addr / PAGE_SIZE) {
                Va::ZERO if flags & SHM_REMAP != 0 => return Err(EINVAL),
                va => Some(va),
            },
        };
        let size = segment_size(id)?;
        let pages = size / PAGE_SIZE;
        let mut prot = if flags & SHM_RDONLY != 0 { Prot::R } else { Prot::RW };
        if flags & SHM_EXEC != 0 {
            prot |= Prot::X;
        }
        let place = match at {
            Some(at) => Place::At(at),
            None => Place::Any(self.anywhere(0, PAGE_SIZE)),
        };
        if let (Some(at), true) = (at, flags & SHM_REMAP != 0) {
            self.remove(VaRange::of_pages(at, pages).ok_or(EINVAL)?)?;
        }
        let tag = self.new_tag();
        let a = Attributes { inherit: Inherit::Share, flags: SHARED | FILE, tag, ..Attributes::new(prot) };
        let range = self.resolve(place, pages).map_err(|e| if e == EEXIST { EINVAL } else { e })?;
        let start = range.start();
        // Linux refuses where something of its own is.
        attach(id, start.get(), flags & !SHM_REMAP)?;
        self.enter_foreign(range, 0, &a)?;
        self.s.marks.clear(range);
        self.s.segments.insert(start.get(), (size, tag));
        Ok(start.get())
    }

    pub(super) fn sys_shmdt(&mut self, addr: u64) -> Result<(), Errno> {
        let at = Va::aligned(machvm_hal::RawAddr(addr)).ok_or(EINVAL)?;
        let (size, tag) = self.s.segments.remove(&addr).ok_or(EINVAL)?;
        let range = VaRange::of_pages(at, size / PAGE_SIZE).ok_or(EINVAL)?;
        // What was mapped over parts of it stays.
        let mut parts = Vec::new();
        self.each(range, |_, part| {
            if part.is_foreign() && part.info.attributes.tag == tag {
                parts.push(part.range);
            }
            Ok(())
        })?;
        if parts.is_empty() {
            return Err(EINVAL);
        }
        for part in parts {
            self.map().delete(part, &mut self.may).map_err(errno::delete)?;
            self.s.marks.clear(part);
        }
        Ok(())
    }
}

/// Attaches where our map has just reserved the place.
fn attach(id: i32, at: u64, flags: i32) -> Result<(), Errno> {
    let to = core::ptr::without_provenance(at as usize);
    // SAFETY: without SHM_REMAP nothing is replaced.
    let got = unsafe { libc::shmat(id, to, flags) };
    if got.addr() == usize::MAX { Err(Errno(sys::errno())) } else { Ok(()) }
}

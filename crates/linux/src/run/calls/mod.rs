//! The memory calls, answered from the map (first, minimal form).
use std::sync::Mutex;
use machvm::map::{Attributes, Backing, EntryFlags, Order, Place, Search, SetProt, Holes, Kind, FindError, InsertError};
use machvm_hal::*;
use machvm_pagers::FilePager;
use super::space::*;
use super::vmspace::VmSpace;
use std::os::fd::{FromRawFd, AsRawFd, OwnedFd, BorrowedFd};

#[derive(Default)]
pub(crate) struct State { brk: Mutex<(u64, u64)> }

const WINDOW: (u64, u64) = (0x1000_0000_0000, 0x5000_0000_0000);

fn prot_of(p: i32) -> Prot { Prot::from_bits_truncate(p as u8 & 7) }
fn range(addr: u64, len: u64) -> Result<VaRange, Errno> {
    VaRange::check_aligned(RawAddr(addr), RawSize(len)).map_err(|_| Errno(libc::EINVAL))
}
fn insert_errno(e: InsertError) -> Errno { match e { InsertError::Occupied(_) => Errno(libc::EEXIST), InsertError::ExceedsMax(_) => Errno(libc::EACCES), _ => Errno(libc::ENOMEM) } }

pub(crate) fn memory_call(space: &VmSpace, call: &Call) -> Reply {
    let a = call.args;
    let r = match call.nr {
        libc::SYS_mmap => {
            let fd = if a[3] as i32 & libc::MAP_ANONYMOUS != 0 { None } else {
                match super::files::program_fd(call.tid, a[4] as i32) { Ok(fd) => Some(fd), Err(_) => return Reply::Error(Errno(libc::EBADF)) }
            };
            map(space, a[0], a[1], a[2] as i32, a[3] as i32, fd.as_ref().map(|f| f.as_raw_fd()), a[5]).map(|v| v as i64)
        }
        libc::SYS_munmap => unmap(space, a[0], a[1]).map(|()| 0),
        libc::SYS_mprotect | libc::SYS_pkey_mprotect => protect(space, a[0], a[1], a[2] as i32).map(|()| 0),
        libc::SYS_brk => Ok(brk(space, a[0]) as i64),
        libc::SYS_madvise => madvise(space, a[0], a[1], a[2] as i32).map(|()| 0),
        libc::SYS_mremap => mremap(space, a).map(|v| v as i64),
        libc::SYS_msync | libc::SYS_mlock | libc::SYS_munlock => Ok(0),
        _ => Err(Errno(libc::ENOSYS)),
    };
    match r { Ok(v) => Reply::Value(v), Err(e) => Reply::Error(e) }
}

pub(crate) fn map(space: &VmSpace, addr: u64, len: u64, prot: i32, flags: i32, fd: Option<i32>, offset: u64) -> Result<u64, Errno> {
    let may = &mut MaySleep::claim();
    if len == 0 { return Err(Errno(libc::EINVAL)); }
    let pages = len.div_ceil(4096);
    let p = prot_of(prot);
    let fixed = flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0;
    let place = if flags & libc::MAP_FIXED_NOREPLACE != 0 { Place::At(Va::aligned(RawAddr(addr)).ok_or(Errno(libc::EINVAL))?) }
        else if fixed { Place::Over(Va::aligned(RawAddr(addr)).ok_or(Errno(libc::EINVAL))?) }
        else {
            let (lo, hi) = if flags & libc::MAP_32BIT != 0 { (0x4000_0000, 0x8000_0000) } else { WINDOW };
            Place::Any(Search { min: Va::containing(RawAddr(lo)), max: Va::containing(RawAddr(hi)), align: 1, order: Order::HighestFirst })
        };
    let find = |place, backing, a: &Attributes, may: &mut MaySleep| -> Result<Va, Errno> {
        if !fixed && addr != 0 {
            let hint = Va::containing(RawAddr(addr));
            if let Ok(va) = space.map.find(Place::At(hint), pages, backing, a, may) { return Ok(va); }
        }
        space.map.find(place, pages, backing, a, may).map_err(|e| match e { FindError::Insert(e) => insert_errno(e), FindError::NoSpace => Errno(libc::ENOMEM), _ => Errno(libc::EINVAL) })
    };
    let mut a = Attributes::new(p);
    let Some(fd) = fd else {
        if flags & libc::MAP_SHARED != 0 { a.flags |= EntryFlags::USER1; }
        return Ok(find(place, Backing::Anonymous, &a, may)?.get());
    };
    let private = flags & libc::MAP_TYPE == libc::MAP_PRIVATE;
    if private && p.contains(Prot::W) {
        // SAFETY: the descriptor is open in the VM's table for the call.
        let own: OwnedFd = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().map_err(|_| Errno(libc::EBADF))?;
        let id = space.platform().add_file_pager(FilePager::read_only(own.into())).map_err(|_| Errno(libc::ENOMEM))?;
        let made = space.vm.object_from_pager(pages, id, offset, false, may);
        space.platform().pager_release(id);
        let (o, at) = made.map_err(|_| Errno(libc::ENOMEM))?;
        return match find(place, Backing::Private(o, at), &a, may) {
            Ok(va) => Ok(va.get()),
            Err(e) => { space.vm.object_deallocate(o, may); Err(e) }
        };
    }
    a.flags |= EntryFlags::NO_MERGE;
    let va = find(place, Backing::Foreign(Pindex(offset >> 12)), &a, may)?;
    // SAFETY: the map says that the range is the new entry's.
    let got = unsafe { libc::mmap(va.get() as *mut _, len as usize, prot, (flags & !libc::MAP_FIXED_NOREPLACE) | libc::MAP_FIXED, fd, offset as i64) };
    if got == libc::MAP_FAILED {
        let e = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
        let _ = space.map.delete(range(va.get(), len)?, may);
        return Err(Errno(e));
    }
    Ok(va.get())
}

pub(crate) fn unmap(space: &VmSpace, addr: u64, len: u64) -> Result<(), Errno> {
    space.map.delete(range(addr, len)?, &mut MaySleep::claim()).map_err(|_| Errno(libc::ENOMEM))
}

pub(crate) fn protect(space: &VmSpace, addr: u64, len: u64, prot: i32) -> Result<(), Errno> {
    if len == 0 { return Ok(()); }
    space.map.protect(range(addr, len)?, &SetProt { prot: Some(prot_of(prot)), max: None, holes: Holes::Refuse }, &mut MaySleep::claim()).map_err(|_| Errno(libc::ENOMEM))
}

fn madvise(space: &VmSpace, addr: u64, len: u64, advice: i32) -> Result<(), Errno> {
    if len == 0 { return Ok(()); }
    if advice == libc::MADV_DONTNEED || advice == libc::MADV_FREE {
        space.map.madvise(range(addr, len)?, machvm::map::Advise::DontNeed, &mut MaySleep::claim()).map_err(|_| Errno(libc::ENOMEM))?;
    }
    Ok(())
}

fn mremap(space: &VmSpace, a: [u64; 6]) -> Result<u64, Errno> {
    let may = &mut MaySleep::claim();
    let (old, old_len, new_len) = (a[0], (a[1] + 4095) & !4095, (a[2] + 4095) & !4095);
    if new_len <= old_len { if new_len < old_len { unmap(space, old + new_len, old_len - new_len)?; } return Ok(old); }
    let end = Va::containing(RawAddr(old + old_len));
    if space.map.extend(end, (new_len - old_len) / 4096, may).is_ok() { return Ok(old); }
    if a[3] & 1 == 0 { return Err(Errno(libc::ENOMEM)); }
    Err(Errno(libc::ENOMEM))
}

fn brk(space: &VmSpace, want: u64) -> u64 {
    let mut b = space.calls.brk.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let up = |x: u64| (x + 4095) & !4095;
    if want < b.0 { return b.1; }
    let (old, new) = (up(b.1), up(want));
    let ok = if new > old { map(space, old, new - old, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE, None, 0).is_ok() }
        else if new < old { unmap(space, new, old - new).is_ok() } else { true };
    if ok { b.1 = want; }
    b.1
}

pub(crate) fn set_brk_start(space: &VmSpace, addr: u64) {
    *space.calls.brk.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (addr, addr);
}

pub(crate) fn make_stack(space: &VmSpace, limit: u64, executable: bool) -> Result<u64, Errno> {
    let len = limit.clamp(1 << 20, 1 << 30) & !4095;
    let va = map(space, 0, len, if executable { 7 } else { 3 }, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None, 0)?;
    Ok(va + len)
}

pub(crate) fn clear(space: &VmSpace) { space.map.clear(&mut MaySleep::claim()); }

pub(crate) fn pieces(space: &VmSpace, f: &mut dyn FnMut(&Piece)) {
    space.map.for_each_entry(|e| f(&Piece { start: e.range.start().get(), end: e.range.end().get(), prot: i32::from(e.attributes.prot.bits()),
        kind: match e.kind { Kind::Object => PieceKind::Ours { dont_fork: false, wipe_on_fork: false, grows_down: false }, Kind::Foreign => PieceKind::Foreign, _ => PieceKind::Guard } }), &mut MaySleep::claim());
}

//! mmap(2), munmap(2), brk(2) and remap_file_pages(2).

use alloc::string::String;
use alloc::sync::Arc;

use machvm::map::{
    Attributes, Backing, EntryFlags, Inherit, Kind, MapCopy, Order, Place, Search, StackShape, Take,
};
use machvm::object::Object;
use machvm_arena::Handle;
use machvm_hal::{MaySleep, PAGE_SIZE, Pindex, Prot, Va, VaRange};

use super::{FILE, advise, find_error, limit, lock, map, part, prot, range, round, va};
use crate::embed::the_vm;
use crate::errno::{EACCES, EBADF, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM, Result};
use crate::fs::{File, Mappable};
use crate::{mapped, sched};

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_32BIT: u64 = 0x40;
const MAP_GROWSDOWN: u64 = 0x100;
const MAP_LOCKED: u64 = 0x2000;
const MAP_NORESERVE: u64 = 0x4000;
const MAP_POPULATE: u64 = 0x8000;
const MAP_NONBLOCK: u64 = 0x1_0000;
const MAP_HUGETLB: u64 = 0x4_0000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
/// What MAP_SHARED_VALIDATE lets pass: all that there was before it.
const VALID: u64 = 0x7c07_f9f3;

/// Room that a stack is given to grow into.
const STACK_ROOM: u64 = 8 << 20;
/// Between a stack and what is below it.
const STACK_GUARD: u64 = 256 * PAGE_SIZE;

/// What is to be mapped.
struct New {
    pages: u64,
    at: u64,
    flags: u64,
    attributes: Attributes,
}

pub(super) fn anywhere() -> Search {
    Search { order: Order::HighestFirst, ..map().search() }
}

impl New {
    /// What it takes where it is asked for.
    fn range(&self) -> Result<VaRange> {
        VaRange::of_pages(va(self.at), self.pages).filter(|r| r.end() <= map().max()).ok_or(ENOMEM)
    }
    fn is_exact(&self) -> bool {
        self.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0
    }
    /// Calls `f` with places to try until it is not refused because something is there.
    fn place(&self, mut f: impl FnMut(Place) -> Result<Va>) -> Result<Va> {
        let hint = va(self.at);
        if self.flags & MAP_FIXED_NOREPLACE != 0 {
            clear_gaps(self.range()?)?;
            return f(Place::At(hint));
        }
        if self.flags & MAP_FIXED != 0 {
            clear_gaps(self.range()?)?;
            let made = f(Place::Over(hint))?;
            // A stack comes with a gap of its own.
            if self.flags & MAP_GROWSDOWN == 0
                && let Some(r) = VaRange::of_pages(made, self.pages)
            {
                gap_below(r);
            }
            return Ok(made);
        }
        if self.at >= map().min().get()
            && let Ok(r) = self.range()
            && only_gaps(r)
            && clear_gaps(r).is_ok()
            && let Ok(made) = f(Place::At(hint))
        {
            return Ok(made);
        }
        let mut search = anywhere();
        if self.flags & MAP_32BIT != 0 {
            search.max = va(1 << 31);
        }
        f(Place::Any(search)).map_err(|e| if e == EEXIST { ENOMEM } else { e })
    }
}

pub(in crate::syscall) fn mmap(a: [u64; 6]) -> Result {
    let [at, len, p, flags, fd, offset] = a;
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(EINVAL);
    }
    let _big = (flags & MAP_ANONYMOUS == 0).then(sched::big::hold);
    let file = match flags & MAP_ANONYMOUS {
        0 => Some(sched::process().files.lock().get(fd as i32)?),
        _ => None,
    };
    if len == 0 {
        return Err(EINVAL);
    }
    let len = round(len).filter(|l| *l <= crate::arch::USER_END).ok_or(ENOMEM)?;
    if file.is_some() && offset.checked_add(len).is_none_or(|e| e > i64::MAX as u64) {
        return Err(EOVERFLOW);
    }
    let exact = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    if exact && !at.is_multiple_of(PAGE_SIZE) {
        return Err(EINVAL);
    }
    if exact && at.checked_add(len).is_none_or(|e| e > map().max().get()) {
        return Err(ENOMEM);
    }
    if exact && at < map().min().get() {
        return Err(EPERM);
    }
    if let (MAP_SHARED_VALIDATE, Some(_)) = (flags & MAP_TYPE, &file)
        && flags & !VALID != 0
    {
        return Err(EOPNOTSUPP);
    }
    let shared = match (flags & MAP_TYPE, &file) {
        (MAP_PRIVATE, _) => false,
        (MAP_SHARED, _) | (MAP_SHARED_VALIDATE, Some(_)) => true,
        _ => return Err(EINVAL),
    };
    if flags & MAP_HUGETLB != 0 {
        return Err(ENOMEM); // no pages are set aside for that
    }
    let mut attributes = Attributes::new(prot(p));
    if flags & MAP_NORESERVE != 0 {
        attributes.flags |= EntryFlags::NO_CHARGE;
    }
    let new = New { pages: len / PAGE_SIZE, at: at & !(PAGE_SIZE - 1), flags, attributes };
    if flags & MAP_LOCKED != 0 {
        limit::may_lock()?;
    }
    if flags & MAP_LOCKED != 0 || lock::future() {
        limit::locks_new(new.pages)?;
    }
    if !shared && attributes.prot.contains(Prot::W) && flags & MAP_GROWSDOWN == 0 {
        limit::data(new.pages, new.range().ok().filter(|_| flags & MAP_FIXED != 0))?;
    }
    let layout = &sched::process().layout;
    // A stack at a place is two steps.
    let grows = flags & MAP_GROWSDOWN != 0;
    let _alone = grows.then(|| layout.close());
    let _shared = (!grows).then(|| layout.pass());
    let made = match file {
        Some(f) => of_file(&f, new, shared, offset)?,
        None => anonymous(new, shared)?,
    };
    drop((_alone, _shared));
    finish(made, len / PAGE_SIZE, flags);
    Ok(made.get() as i64)
}

/// Linux's own heuristic: more private memory than there is altogether cannot be meant.
fn is_too_much(bytes: u64) -> bool {
    bytes / PAGE_SIZE > the_vm().frame_limit()
}

/// Locks and populates, as asked: without errors, as in Linux.
fn finish(at: Va, pages: u64, flags: u64) {
    let Some(r) = VaRange::of_pages(at, pages) else { return };
    if flags & MAP_LOCKED != 0 || lock::future() {
        let _ = lock::wire(r);
    } else if flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE
        && let Some(p) = part(r)
    {
        let access = if p.info.attributes.prot.contains(Prot::W) { Prot::W } else { Prot::R };
        let _ = advise::populate(&p, access);
    }
}

fn anonymous(new: New, shared: bool) -> Result<Va> {
    if new.flags & MAP_GROWSDOWN != 0 {
        return if shared { Err(EINVAL) } else { stack(&new) };
    }
    let counts = (shared || new.attributes.prot.contains(Prot::W)) && new.flags & MAP_NORESERVE == 0;
    if counts && is_too_much(new.pages * PAGE_SIZE) {
        return Err(ENOMEM);
    }
    let mut may = MaySleep::claim();
    if !shared {
        let mut put = |place| map().find(place, new.pages, Backing::Anonymous, &new.attributes, &mut may);
        return new.place(|place| put(place).map_err(find_error));
    }
    static NEXT: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(1);
    let number = NEXT.fetch_add(1, core::sync::atomic::Ordering::Relaxed) & 0xffff_ffff;
    let (object, first) = the_vm().object_allocate(new.pages).map_err(|_| ENOMEM)?;
    share(new, (object, first), mapped::SHARED | number)
}

/// Maps an object for all to see; the reference is the mapping's.
fn share(mut new: New, (object, first): (Handle<Object>, Pindex), tag: u64) -> Result<Va> {
    new.attributes.inherit = Inherit::Share;
    new.attributes.tag = tag;
    let mut may = MaySleep::claim();
    let backing = Backing::Shared(object, first);
    let made = new.place(|place| {
        map().find(place, new.pages, backing, &new.attributes, &mut MaySleep::claim()).map_err(find_error)
    });
    if made.is_err() {
        the_vm().object_deallocate(object, &mut may);
    }
    made
}

fn of_file(f: &Arc<File>, mut new: New, shared: bool, offset: u64) -> Result<Va> {
    if f.is_path() {
        return Err(EBADF);
    }
    let writes = new.attributes.prot.contains(Prot::W);
    if !f.is_readable() || shared && writes && !f.is_writable() {
        return Err(EACCES);
    }
    let object = match f.object()? {
        Mappable::Zeroes => return anonymous(new, shared),
        Mappable::Object(o) => o,
    };
    if new.flags & MAP_GROWSDOWN != 0 {
        the_vm().object_deallocate(object, &mut MaySleep::claim());
        return Err(EINVAL);
    }
    // F_SEAL_WRITE and F_SEAL_FUTURE_WRITE.
    let sealed = f.inode.seals.load(core::sync::atomic::Ordering::Acquire) & (8 | 0x10) != 0;
    if shared && sealed && writes {
        the_vm().object_deallocate(object, &mut MaySleep::claim());
        return Err(EPERM);
    }
    if shared && (sealed || !f.is_writable()) {
        new.attributes.max = Prot::ALL - Prot::W;
    }
    let tag = mapped::tag(&f.inode, || path(f));
    let first = Pindex(offset / PAGE_SIZE);
    if shared {
        return share(new, (object, first), tag);
    }
    new.attributes.tag = tag;
    new.attributes.flags |= FILE;
    let pages = new.pages;
    let a = new.attributes;
    new.place(|place| {
        the_vm().object_reference(object);
        copy_of(map(), (object, first), pages, place, a)
    })
    .inspect(|_| the_vm().object_deallocate(object, &mut MaySleep::claim()))
    .inspect_err(|_| the_vm().object_deallocate(object, &mut MaySleep::claim()))
}

/// Maps a copy-on-write copy of part of a file's object. The reference is taken in any case.
pub(crate) fn copy_of(
    map: &machvm::map::Map<'static, crate::embed::Kernel>,
    (object, first): (Handle<Object>, Pindex),
    pages: u64,
    place: Place,
    a: Attributes,
) -> Result<Va> {
    let (vm, mut may) = (the_vm(), MaySleep::claim());
    let Ok(whole) = MapCopy::of_object(vm, (object, first), pages, a) else {
        vm.object_deallocate(object, &mut may);
        return Err(ENOMEM);
    };
    let mut copy = whole.window(0, pages, Take::Copy, &mut may).map_err(|_| ENOMEM)?;
    map.copyout(place, &mut copy, |_| a, &mut may).map_err(find_error)
}

fn path(f: &File) -> String {
    let Some((dir, name)) = &f.at else { return String::from("/ (deleted)") };
    // What memfd_create made is in no directory.
    if name.starts_with(b"/") {
        return String::from_utf8_lossy(name).into_owned();
    }
    let place = sched::process().files.lock().cwd.clone();
    let mut path = place.path_of(dir).unwrap_or_default();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    String::from_utf8_lossy(&path).into_owned()
}

/// A stack: it may grow into what is free below it.
fn stack(new: &New) -> Result<Va> {
    let room = (STACK_ROOM / PAGE_SIZE).saturating_sub(new.pages);
    if new.flags & MAP_FIXED != 0
        && let Some(r) = VaRange::of_pages(va(new.at), new.pages)
    {
        remove(r)?;
    }
    let exact = new.is_exact();
    new.place(|place| {
        let (place, room) = match place {
            // Below an exact place there is as much room as is free.
            Place::At(top) | Place::Over(top) => {
                let room = if exact { room.min(free_below(top) / PAGE_SIZE) } else { room };
                (Place::At(top.sub(room)), room)
            }
            any @ Place::Any(_) => (any, room),
        };
        let shape = StackShape { pages: new.pages + room, initial: new.pages, guard: 0 };
        match map().stack(place, shape, &new.attributes, &mut MaySleep::claim()) {
            Ok(bottom) => Ok(bottom.add(room)),
            Err(machvm::map::StackError::Find(e)) => Err(find_error(e)),
            Err(machvm::map::StackError::BadGuard) => Err(EINVAL),
        }
    })
}

/// Free bytes below `top`, without the guard.
fn free_below(top: Va) -> u64 {
    let from = va(top.get().saturating_sub(STACK_ROOM + STACK_GUARD).max(map().min().get()));
    let mut at = from;
    while let Some(info) = map().entry_from(at, &mut MaySleep::claim()) {
        if info.range.start() >= top {
            break;
        }
        at = info.range.end();
    }
    top.get().saturating_sub(at.get()).saturating_sub(STACK_GUARD)
}

/// Is nothing in `r` but gaps below stacks?
fn only_gaps(r: VaRange) -> bool {
    let mut at = r.start();
    while let Some(info) = map().entry_from(at, &mut MaySleep::claim()) {
        if info.range.start() >= r.end() {
            break;
        }
        if info.kind != Kind::StackGap {
            return false;
        }
        at = info.range.end();
    }
    true
}

/// Gaps below stacks make room: to Linux they are free. A stack above keeps its distance of what comes there.
pub(super) fn clear_gaps(r: VaRange) -> Result<()> {
    let mut at = r.start();
    while let Some(info) = map().entry_from(at, &mut MaySleep::claim()) {
        if info.range.start() >= r.end() {
            break;
        }
        at = info.range.end();
        if info.kind == Kind::StackGap {
            let end = at.get().min(r.end().get().saturating_add(STACK_GUARD));
            let part = VaRange::between(info.range.start(), va(end)).ok_or(ENOMEM)?;
            map().delete(part, &mut MaySleep::claim()).map_err(|_| ENOMEM)?;
        }
    }
    Ok(())
}

/// The gap below a stack goes with the stack's lowest page.
fn gap_below(r: VaRange) {
    if r.start() == map().min() {
        return;
    }
    let mut may = MaySleep::claim();
    if let Some(info) = map().entry_from(r.start().sub(1), &mut may)
        && info.kind == Kind::StackGap
        && info.range.end() == r.start()
    {
        let _ = map().delete(info.range, &mut may);
    }
}

/// Removes whatever is there.
pub(super) fn remove(r: VaRange) -> Result<()> {
    map().delete(r, &mut MaySleep::claim()).map_err(|_| ENOMEM)?;
    gap_below(r);
    Ok(())
}

pub(in crate::syscall) fn munmap(at: u64, len: u64) -> Result {
    remove(range(at, len, EINVAL)?.ok_or(EINVAL)?)?;
    super::shm::sweep();
    Ok(0)
}

/// remap_file_pages(2): other pages of the object that is shared there.
pub(in crate::syscall) fn remap_file_pages(at: u64, len: u64, p: u64, page: u64) -> Result {
    let r = range(at & !(PAGE_SIZE - 1), len & !(PAGE_SIZE - 1), EINVAL)?.ok_or(EINVAL)?;
    let old = part(r).ok_or(EINVAL)?;
    let object = old.info.object.filter(|_| p == 0 && old.is_shared() && old.range == r).ok_or(EINVAL)?;
    // The first index of a file is zero; of shared memory, that of the entry's first page counts as zero.
    let zero = if old.info.attributes.tag & mapped::SHARED != 0 { old.info.offset.0 } else { 0 };
    let last = page.checked_add(r.pages()).filter(|l| *l < 1 << 40).ok_or(EINVAL)?;
    if zero != 0 && last > old.info.range.pages() {
        return Err(EINVAL);
    }
    the_vm().object_reference(object);
    let _shared = sched::process().layout.pass();
    let new =
        New { pages: r.pages(), at: r.start().get(), flags: MAP_FIXED, attributes: old.info.attributes };
    share(new, (object, Pindex(zero + page)), old.info.attributes.tag)?;
    Ok(0)
}

pub(in crate::syscall) fn brk(to: u64) -> Result {
    let p = sched::process();
    let mut heap = p.heap.lock();
    let (start, end) = *heap;
    if to < start || to > crate::arch::USER_END {
        return Ok(end as i64);
    }
    let shared = p.layout.pass();
    let up = |a: u64| (a + PAGE_SIZE - 1) & !(PAGE_SIZE - 1);
    let (old, new) = (up(end), up(to));
    let mut may = MaySleep::claim();
    let done = if new > old {
        !is_too_much(new - old)
            && limit::data((new - old) / PAGE_SIZE, None).is_ok()
            && (!lock::future() || limit::locks_new((new - old) / PAGE_SIZE).is_ok())
            && VaRange::between(va(old), va(new)).is_some_and(|r| {
                map().insert(r, Backing::Anonymous, &Attributes::new(Prot::R | Prot::W), &mut may).is_ok()
            })
    } else {
        new == old || VaRange::between(va(new), va(old)).is_some_and(|r| map().delete(r, &mut may).is_ok())
    };
    drop(shared);
    if done {
        heap.1 = to;
        drop(heap);
        if new > old && lock::future() {
            let _ = VaRange::between(va(old), va(new)).map(lock::wire);
        }
        return Ok(to as i64);
    }
    Ok(end as i64)
}

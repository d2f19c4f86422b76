//! mmap.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};

use machvm::map::{Attributes, Backing, EntryFlags, FindError, Inherit, InsertError, Place, StackShape};
use machvm_hal::{PAGE_SIZE, Pindex, Prot, VaRange};
use machvm_pagers::FilePager;

use super::args::{
    self, Anonymous, Geometry, MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_HUGETLB, MAP_LOCKED, MAP_NONBLOCK,
    MAP_NORESERVE, MAP_POPULATE, Where,
};
use super::errno::{self, EAGAIN, EBADF, EEXIST, EINVAL, ENOMEM, EPERM};
use super::linux::{self, FileKind};
use super::marks::Mark;
use super::{CONVERTIBLE, Calls, FILE, SHARED, capable, limit, va};
use crate::run::files::program_fd;
use crate::run::space::Errno;

pub(super) const CAP_IPC_LOCK: u32 = 14;
/// Room that a MAP_GROWSDOWN mapping is given to grow into.
const STACK_ROOM: u64 = 8 << 20;
/// Linux keeps this much between a stack and what is below it.
const STACK_GUARD: u64 = 256 * PAGE_SIZE;

/// A mapping about to be made.
struct New {
    place: Geometry,
    flags: u32,
    unit: u64,
    prot: Prot,
    offset: u64,
}

impl Calls<'_> {
    pub(super) fn sys_mmap(&mut self, a: &[u64; 6]) -> Result<u64, Errno> {
        let (flags, offset) = (a[3] as u32, a[5]);
        if offset % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        let fd: Option<OwnedFd> = match flags & MAP_ANONYMOUS {
            0 => {
                let fetched = program_fd(self.tid, a[4] as i32);
                Some(fetched.map_err(|e| Errno(e.raw_os_error().unwrap_or(EBADF.0)))?)
            }
            _ => None,
        };
        let fd = fd.as_ref().map(std::os::fd::AsFd::as_fd);
        self.mmap(a[0], a[1], a[2], flags, fd, offset)
    }

    /// `fd`: of the VM's table.
    pub(super) fn mmap(
        &mut self,
        addr: u64,
        len: u64,
        prot: u64,
        flags: u32,
        fd: Option<BorrowedFd<'_>>,
        offset: u64,
    ) -> Result<u64, Errno> {
        let kind = fd.map(linux::file_kind);
        let huge = flags & MAP_HUGETLB != 0 || kind == Some(FileKind::Huge);
        let unit = if huge { args::huge_unit(flags) } else { PAGE_SIZE };
        let offset_now = if fd.is_some() { offset } else { 0 };
        let place = Geometry::check(addr, len, flags, offset_now, unit)?;
        if place.place == Where::NoReplace && place.exact().is_some_and(|r| self.part(r).is_some()) {
            return Err(EEXIST);
        }
        self.check_lock(&place, flags)?;
        let new = New { place, flags, unit, prot: args::rights(prot), offset: offset_now };
        let range = match (fd, kind) {
            (None, _) if huge || flags & args::MAP_TYPE == args::MAP_SHARED => {
                // Children of a fork share it, and those run on Linux's memory.
                let kind = Anonymous::check(flags)?;
                self.check_size(place.len, true, flags)?;
                self.map_foreign(&new, None, kind == Anonymous::Shared)?
            }
            (None, _) => self.map_anonymous(&new, Anonymous::check(flags)?)?,
            (Some(fd), kind) => self.map_file(&new, fd, kind)?,
        };
        self.finish_new(range, &new);
        Ok(range.start().get())
    }

    /// May this much more be locked, if it is to be?
    fn check_lock(&mut self, g: &Geometry, flags: u32) -> Result<(), Errno> {
        let asked = flags & MAP_LOCKED != 0;
        if !asked && self.s.future & Mark::LOCKED == 0 || capable(self.tid, CAP_IPC_LOCK) {
            return Ok(());
        }
        let most = limit(libc::RLIMIT_MEMLOCK);
        if asked && most == 0 {
            return Err(EPERM);
        }
        let locked = self.s.marks.bytes(Mark::LOCKED).saturating_add(g.len);
        if locked > most { Err(EAGAIN) } else { Ok(()) }
    }

    /// Refuses what the limits of the process, or common sense, forbid.
    fn check_size(&mut self, len: u64, counts: bool, flags: u32) -> Result<(), Errno> {
        let size = self.map().size(&mut self.may);
        if size.saturating_add(len) > limit(libc::RLIMIT_AS) {
            return Err(ENOMEM);
        }
        // Linux's own heuristic: more than there is altogether cannot be meant.
        if counts && flags & MAP_NORESERVE == 0 && len > total_memory() && !overcommits() {
            return Err(ENOMEM);
        }
        Ok(())
    }

    fn map_anonymous(&mut self, new: &New, kind: Anonymous) -> Result<VaRange, Errno> {
        let counts = new.prot.contains(Prot::W) && kind != Anonymous::Droppable;
        self.check_size(new.place.len, counts, new.flags)?;
        if new.flags & MAP_GROWSDOWN != 0 {
            return self.map_stack(new);
        }
        let range = self.insert(new, Backing::Anonymous, &Attributes::new(new.prot))?;
        if kind == Anonymous::Droppable {
            self.s.marks.change(range, Mark::DROPPABLE | Mark::WIPE_ON_FORK, 0);
        }
        Ok(range)
    }

    /// A stack: it may grow into what is free below it.
    fn map_stack(&mut self, new: &New) -> Result<VaRange, Errno> {
        let pages = new.place.pages();
        let room = STACK_ROOM.min(limit(libc::RLIMIT_STACK)).saturating_sub(new.place.len) / PAGE_SIZE;
        let a = Attributes::new(new.prot);
        if let Some(range) = new.place.exact() {
            match new.place.place {
                Where::Fixed => self.remove(range)?,
                _ => self.clear_gaps(range)?,
            }
        }
        let places = self.places(&new.place, new.flags, PAGE_SIZE);
        let mut last = ENOMEM;
        for place in places {
            // Below an exact place there is as much room as is free.
            let (place, room) = match place {
                Place::At(top) | Place::Over(top) => {
                    let free = self.free_below(top.get()).saturating_sub(STACK_GUARD) / PAGE_SIZE;
                    let room = room.min(free);
                    (Place::At(top.sub(room)), room)
                }
                any => (any, room),
            };
            let shape = StackShape { pages: pages + room, initial: pages, guard: 0 };
            match self.map().stack(place, shape, &a, &mut self.may) {
                Ok(bottom) => return VaRange::of_pages(bottom.add(room), pages).ok_or(ENOMEM),
                Err(machvm::map::StackError::Find(e)) => last = errno::find(e),
                Err(machvm::map::StackError::BadGuard) => last = EINVAL,
            }
        }
        Err(if last == EEXIST && new.place.place != Where::NoReplace { ENOMEM } else { last })
    }

    /// Free bytes just below `addr`.
    fn free_below(&mut self, addr: u64) -> u64 {
        let from = va(addr.saturating_sub(STACK_ROOM + STACK_GUARD).max(args::LOWEST));
        let (mut at, end) = (from, va(addr));
        while let Some(info) = self.map().entry_from(at, &mut self.may) {
            if info.range.start() >= end {
                break;
            }
            at = info.range.end();
        }
        addr.saturating_sub(at.get())
    }

    fn map_file(&mut self, new: &New, fd: BorrowedFd<'_>, kind: Option<FileKind>) -> Result<VaRange, Errno> {
        let shared = args::file_type(new.flags)?;
        if kind == Some(FileKind::Zero) && !shared {
            linux::would_map(new.place.len, args::prot_bits(new.prot), new.flags, Some(fd), new.offset)?;
            return self.map_anonymous(new, Anonymous::Private);
        }
        self.check_size(new.place.len, !shared && new.prot.contains(Prot::W), new.flags)?;
        let ours = kind == Some(FileKind::Regular) && !shared && new.prot.contains(Prot::W);
        if !ours || new.flags & (MAP_HUGETLB | MAP_GROWSDOWN) != 0 {
            return self.map_foreign(new, Some(fd), shared);
        }
        // Rights, mount options and what the file system can do: Linux's to say.
        linux::would_map(new.place.len, args::prot_bits(new.prot), new.flags, Some(fd), new.offset)?;
        let file = fd.try_clone_to_owned().map_err(|e| Errno(e.raw_os_error().unwrap_or(ENOMEM.0)))?;
        self.with_file(file, new.place.pages(), new.offset, |c, backing, a| {
            c.insert(new, backing, &Attributes { prot: new.prot, ..*a })
        })
    }

    /// Calls `f` with a new private object over `file`, which is gone again when `f`
    /// fails.
    pub(super) fn with_file<R>(
        &mut self,
        file: OwnedFd,
        pages: u64,
        offset: u64,
        f: impl FnOnce(&mut Self, Backing, &Attributes) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let (vm, platform) = (self.space.vm, self.space.platform());
        let pager = platform.add_file_pager(FilePager::read_only(File::from(file))).map_err(|_| ENOMEM)?;
        let made = vm.object_from_pager(pages, pager, offset, false, &mut self.may);
        platform.pager_release(pager);
        let (object, at) = made.map_err(|_| ENOMEM)?;
        let a = Attributes { flags: FILE, ..Attributes::new(Prot::NONE) };
        let done = f(self, Backing::Private(object, at), &a);
        if done.is_err() {
            vm.object_deallocate(object, &mut self.may);
        }
        done
    }

    /// A mapping of Linux's, at a place of our choice. Linux maps first: what it has at
    /// the place and we do not know (the VM itself) makes it refuse.
    fn map_foreign(&mut self, new: &New, fd: Option<BorrowedFd<'_>>, shared: bool) -> Result<VaRange, Errno> {
        let prot = args::prot_bits(new.prot);
        if let (Where::Fixed, Some(range)) = (new.place.place, new.place.exact()) {
            // What is there must survive a refusal.
            linux::would_map(new.place.len, prot, new.flags, fd, new.offset)?;
            self.remove(range)?;
        }
        if let Some(range) = new.place.exact() {
            self.clear_gaps(range)?;
        }
        let regular = fd.is_some_and(|fd| linux::file_kind(fd) == FileKind::Regular);
        let sharing = if shared { SHARED } else { EntryFlags::empty() };
        let kind = if regular && !shared { FILE | CONVERTIBLE } else { FILE };
        let a = Attributes {
            inherit: if shared { Inherit::Share } else { Inherit::Copy },
            flags: sharing | kind,
            tag: self.new_tag(),
            ..Attributes::new(new.prot)
        };
        let locked = if self.s.future & Mark::LOCKED != 0 { MAP_LOCKED } else { 0 };
        let mut last = ENOMEM;
        for place in self.places(&new.place, new.flags, new.unit) {
            let range = match self.resolve(place, new.place.pages()) {
                Ok(range) => range,
                Err(e) => {
                    last = e;
                    continue;
                }
            };
            match linux::map_at(range, prot, new.flags | locked, fd, new.offset) {
                Ok(()) => return self.enter_foreign(range, new.offset, &a),
                Err(EEXIST) => last = EEXIST,
                Err(e) => return Err(e),
            }
        }
        Err(if last == EEXIST && new.place.place != Where::NoReplace { ENOMEM } else { last })
    }

    /// The range that a place means now.
    pub(super) fn resolve(&mut self, place: Place, pages: u64) -> Result<VaRange, Errno> {
        match place {
            Place::At(at) | Place::Over(at) => {
                let range = VaRange::of_pages(at, pages).ok_or(ENOMEM)?;
                if self.is_free(range) { Ok(range) } else { Err(EEXIST) }
            }
            Place::Any(search) => {
                let at = self.map().findspace(&search, pages, &mut self.may).map_err(errno::find)?;
                VaRange::of_pages(at, pages).ok_or(ENOMEM)
            }
        }
    }

    /// Is there no entry in `range`?
    pub(super) fn is_free(&mut self, range: VaRange) -> bool {
        let next = self.map().entry_from(range.start(), &mut self.may);
        next.is_none_or(|info| info.range.start() >= range.end())
    }

    /// The entry of a mapping that Linux has just made; without it the mapping goes.
    pub(super) fn enter_foreign(
        &mut self,
        range: VaRange,
        offset: u64,
        a: &Attributes,
    ) -> Result<VaRange, Errno> {
        let backing = Backing::Foreign(Pindex(offset / PAGE_SIZE));
        match self.map().insert(range, backing, a, &mut self.may) {
            Ok(()) => Ok(range),
            Err(e) => {
                linux::unmap(range);
                Err(errno::insert(e))
            }
        }
    }

    /// Takes entries out, and with them what the machine maps for them.
    pub(super) fn drop_entries(&mut self, range: VaRange) {
        let gone = self.map().delete(range, &mut self.may);
        debug_assert!(gone.is_ok(), "a whole entry goes without memory");
    }

    /// What is Linux's in `range` makes room for something else.
    pub(super) fn give_way(&mut self, range: VaRange) -> Result<(), Errno> {
        for part in self.foreign(range) {
            self.map().delete(part, &mut self.may).map_err(errno::delete)?;
        }
        Ok(())
    }

    /// Inserts at the first place that will do.
    fn insert(&mut self, new: &New, backing: Backing, a: &Attributes) -> Result<VaRange, Errno> {
        if let (Where::Fixed, Some(range)) = (new.place.place, new.place.exact()) {
            self.give_way(range)?;
        }
        if let (Where::NoReplace, Some(range)) = (new.place.place, new.place.exact()) {
            self.clear_gaps(range)?;
        }
        let pages = new.place.pages();
        let mut last = ENOMEM;
        for place in self.places(&new.place, new.flags, new.unit) {
            match self.map().find(place, pages, backing, a, &mut self.may) {
                Ok(start) => {
                    let range = VaRange::of_pages(start, pages).ok_or(ENOMEM)?;
                    if new.place.place == Where::Fixed {
                        self.after_removal(range);
                    }
                    return Ok(range);
                }
                Err(FindError::Insert(InsertError::Occupied(_))) => last = EEXIST,
                Err(e) => last = errno::find(e),
            }
        }
        Err(if last == EEXIST && new.place.place != Where::NoReplace { ENOMEM } else { last })
    }

    /// Marks, locks and populates a new mapping, as asked.
    fn finish_new(&mut self, range: VaRange, new: &New) {
        let droppable = self.s.marks.at(range.start()).0 & Mark::DROPPABLE;
        let keep = if droppable != 0 { Mark::DROPPABLE | Mark::WIPE_ON_FORK } else { 0 };
        self.s.marks.clear(range);
        let asked = if new.flags & MAP_LOCKED != 0 { Mark::LOCKED } else { 0 };
        let future = self.s.future;
        self.s.marks.change(range, keep | asked | future, 0);
        let lock = (asked | future) & (Mark::LOCKED | Mark::ON_FAULT);
        if lock == Mark::LOCKED && droppable == 0 {
            // A page that cannot be had now comes with its own fault.
            let _ = self.wire(range);
        } else if new.flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE && new.prot != Prot::NONE {
            self.populate(range);
        }
    }

    /// Faults everything in that can be; failures are left to the program's accesses.
    fn populate(&mut self, range: VaRange) {
        let walked = self.each(range, |c, part| {
            if !part.is_foreign() {
                let access = c.populate_access(part);
                let _ = part.range.iter().try_for_each(|va| c.space.fault(va, access));
            }
            Ok(())
        });
        debug_assert!(walked.is_ok(), "populating reports nothing");
    }

    /// Private memory that may be written gets its own pages at once.
    fn populate_access(&self, part: &super::Part) -> Prot {
        let prot = part.info.attributes.prot;
        if prot.contains(Prot::W) && !part.is_shared() { Prot::W } else { Prot::R }
    }
}

/// Memory and swap of the machine, in bytes.
fn total_memory() -> u64 {
    // SAFETY: an all-zero sysinfo is a valid value.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is a sysinfo.
    match unsafe { libc::sysinfo(&raw mut info) } {
        0 => (info.totalram + info.totalswap).saturating_mul(u64::from(info.mem_unit)),
        _ => u64::MAX,
    }
}

/// `vm.overcommit_memory` is 1: nothing is refused for its size.
fn overcommits() -> bool {
    static MODE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/vm/overcommit_memory");
    *MODE.get_or_init(|| read().is_ok_and(|mode| mode.trim() == "1"))
}

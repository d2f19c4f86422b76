//! mremap.

use machvm::map::{Attributes, Holes, InsertError, Leave, MoveError, Wiring};
use machvm_hal::{PAGE_SIZE, Va, VaRange};

use super::args::{MREMAP_DONTUNMAP, Remap};
use super::errno::{self, EAGAIN, EEXIST, EFAULT, EINVAL, ENOMEM};
use super::marks::Mark;
use super::mmap::CAP_IPC_LOCK;
use super::{Calls, Part, capable, limit, linux};
use crate::run::space::Errno;

impl Calls<'_> {
    pub(super) fn sys_mremap(&mut self, a: &[u64; 6]) -> Result<u64, Errno> {
        let r = Remap::check(a[0], a[1], a[2], a[3], a[4])?;
        let first = self.part(VaRange::page(r.addr)).ok_or(EFAULT)?;
        if r.old == 0 {
            return self.second_mapping(&r, &first);
        }
        let old = VaRange::of_pages(r.addr, r.old / PAGE_SIZE).ok_or(EINVAL)?;
        if r.new < r.old {
            return self.shrink(&r, old);
        }
        self.check_one(old, &first)?;
        if r.new > r.old {
            self.check_growth(&first, r.new - r.old)?;
        }
        if r.to.is_none() && !r.dont_unmap {
            if r.new == r.old {
                return Ok(r.addr.get());
            }
            match self.grow(&first, old, r.new - r.old) {
                Ok(()) => return Ok(r.addr.get()),
                Err(e) if !r.may_move => return Err(e),
                Err(_) => {}
            }
        }
        if r.dont_unmap { self.move_keeping(&r, old, &first) } else { self.relocate(&r, old) }
    }

    /// The whole range must be what Linux has as one mapping.
    fn check_one(&mut self, old: VaRange, first: &Part) -> Result<(), Errno> {
        let (want, mark) = (first.info, first.mark);
        self.each_solid(old, |_, part| {
            let same = part.info.kind == want.kind && part.info.attributes == want.attributes;
            let same = same && part.mark == mark;
            if same { Ok(()) } else { Err(EFAULT) }
        })
        .map_err(|_| EFAULT)
    }

    fn check_growth(&mut self, first: &Part, more: u64) -> Result<(), Errno> {
        if first.mark.has(Mark::LOCKED) && !capable(self.tid, CAP_IPC_LOCK) {
            let locked = self.s.marks.bytes(Mark::LOCKED).saturating_add(more);
            if locked > limit(libc::RLIMIT_MEMLOCK) {
                return Err(EAGAIN);
            }
        }
        let size = self.map().size(&mut self.may);
        if size.saturating_add(more) > limit(libc::RLIMIT_AS) {
            return Err(ENOMEM);
        }
        Ok(())
    }

    /// Cuts the tail off, and moves the rest when it was told where to.
    fn shrink(&mut self, r: &Remap, old: VaRange) -> Result<u64, Errno> {
        let keep = VaRange::of_pages(r.addr, r.new / PAGE_SIZE).ok_or(EINVAL)?;
        let tail = VaRange::between(keep.end(), old.end()).ok_or(EINVAL)?;
        if r.to.is_none() {
            self.remove(tail)?;
            return Ok(r.addr.get());
        }
        let first = self.part(VaRange::page(r.addr)).ok_or(EFAULT)?;
        self.check_one(old, &first)?;
        self.remove(tail)?;
        self.relocate(&Remap { old: r.new, ..*r }, keep)
    }

    /// Adds to the end in place.
    fn grow(&mut self, first: &Part, old: VaRange, more: u64) -> Result<(), Errno> {
        let new = VaRange::of_pages(old.start(), old.pages() + more / PAGE_SIZE).ok_or(ENOMEM)?;
        let added = VaRange::between(old.end(), new.end()).ok_or(ENOMEM)?;
        if added.end() > self.map().max() {
            return Err(ENOMEM);
        }
        if !self.is_free(added) {
            return Err(ENOMEM);
        }
        if first.is_foreign() {
            // The last page of it: Linux may have the entry in several pieces.
            let last = VaRange::page(old.end().sub(1));
            linux::extend(last, (1 + added.pages()) * PAGE_SIZE)?;
        }
        if self.map().extend(old.end(), added.pages(), &mut self.may).is_err() {
            if first.is_foreign() {
                linux::unmap(added);
            }
            return Err(ENOMEM);
        }
        let mark = self.s.marks.at(old.start());
        self.s.marks.clear(added);
        self.s.marks.change(added, mark.0, 0);
        self.wire_marked(added);
        Ok(())
    }

    /// Where a range of this size goes.
    fn target(&mut self, r: &Remap, pages: u64) -> Result<Va, Errno> {
        let Some(to) = r.to else {
            let search = self.anywhere(0, PAGE_SIZE);
            return self.map().findspace(&search, pages, &mut self.may).map_err(errno::find);
        };
        let range = VaRange::of_pages(to, pages).ok_or(EINVAL)?;
        self.remove(range)?;
        self.clear_gaps(range)?;
        Ok(to)
    }

    /// Moves `old` and grows it there.
    fn relocate(&mut self, r: &Remap, old: VaRange) -> Result<u64, Errno> {
        let pages = r.new / PAGE_SIZE;
        let to = self.target(r, pages)?;
        self.shift(old, to)?;
        let moved = VaRange::of_pages(to, old.pages()).ok_or(EINVAL)?;
        if r.new > r.old {
            let first = self.part(VaRange::page(to)).ok_or(EFAULT)?;
            if let Err(e) = self.grow(&first, moved, r.new - r.old) {
                // Where it came from nothing has been put since.
                let back = self.shift(moved, old.start());
                debug_assert!(back.is_ok(), "what was moved moves back: {back:?}");
                return Err(e);
            }
        }
        self.after_removal(old);
        Ok(to.get())
    }

    /// Moves entries, Linux's mappings and marks to where nothing is.
    fn shift(&mut self, from: VaRange, to: Va) -> Result<(), Errno> {
        let foreign = self.foreign(from);
        let place = |part: &VaRange| {
            let at = to.add(part.start().page() - from.start().page());
            VaRange::of_pages(at, part.pages()).ok_or(EINVAL)
        };
        for (i, part) in foreign.iter().enumerate() {
            if let Err(e) = place(part).and_then(linux::claim) {
                foreign[..i].iter().filter_map(|p| place(p).ok()).for_each(linux::unmap);
                return Err(if e == EEXIST { ENOMEM } else { e });
            }
        }
        self.map().move_range(from, to, Leave::Hole, &mut self.may).map_err(|e| match e {
            MoveError::Insert(InsertError::Occupied(_)) => ENOMEM,
            e => errno::moved(e),
        })?;
        for part in foreign {
            linux::remap(part, place(&part)?)?;
        }
        self.s.marks.copy(from, to);
        self.s.marks.clear(from);
        Ok(())
    }

    /// Size zero: the same shared memory once more.
    fn second_mapping(&mut self, r: &Remap, first: &Part) -> Result<u64, Errno> {
        if !first.is_shared() {
            return Err(EINVAL);
        }
        // Without a place to go to it would have to grow where it is.
        if !r.may_move {
            return Err(ENOMEM);
        }
        let pages = r.new / PAGE_SIZE;
        let to = self.target(r, pages)?;
        // Which may have been what was to be mapped again.
        self.part(VaRange::page(r.addr)).ok_or(EFAULT)?;
        self.share(first, r.addr, to, pages, 0)?;
        Ok(to.get())
    }

    /// Maps what is Linux's at `from` at `to` as well.
    fn share(&mut self, part: &Part, from: Va, to: Va, pages: u64, flags: u64) -> Result<(), Errno> {
        let range = VaRange::of_pages(to, pages).ok_or(ENOMEM)?;
        let offset = part.info.pindex(from).0 * PAGE_SIZE;
        let a = Attributes { tag: self.new_tag(), ..part.info.attributes };
        linux::claim(range).map_err(|e| if e == EEXIST { ENOMEM } else { e })?;
        let old = if flags & MREMAP_DONTUNMAP != 0 { range.bytes() } else { 0 };
        if let Err(e) = linux::remap_keeping(from.get(), old, range, flags) {
            linux::unmap(range);
            return Err(e);
        }
        self.enter_foreign(range, offset, &a)?;
        let mark = self.s.marks.at(from);
        self.s.marks.clear(range);
        self.s.marks.change(range, mark.0, 0);
        Ok(())
    }

    /// MREMAP_DONTUNMAP: the pages move, an empty mapping stays.
    fn move_keeping(&mut self, r: &Remap, old: VaRange, first: &Part) -> Result<u64, Errno> {
        if !first.is_foreign() && !first.is_anonymous() {
            // As Linux before 5.13.
            return Err(EINVAL);
        }
        let to = self.target(r, old.pages())?;
        if first.is_foreign() {
            self.share(first, r.addr, to, old.pages(), MREMAP_DONTUNMAP)?;
        } else {
            let moved = self.map().move_range(old, to, Leave::Zeroes, &mut self.may);
            moved.map_err(errno::moved)?;
            self.s.marks.copy(old, to);
        }
        self.s.marks.change(old, 0, Mark::LOCKED | Mark::ON_FAULT);
        let unwired = self.map().unwire(old, Wiring::User, Holes::Skip, &mut self.may);
        debug_assert!(unwired.is_ok(), "unwiring what is there does not fail");
        Ok(to.get())
    }
}

//! The heap (brk) and the main stack.

use machvm::map::{Attributes, Backing, Limits, Place, StackShape};
use machvm_hal::{PAGE_SIZE, Prot};

use super::args::{self, page_up};
use super::errno::{self, ENOMEM};
use super::marks::Mark;
use super::{Calls, limit, va};
use crate::run::space::Errno;

/// A stack without a limit may grow to this.
const LARGEST_STACK: u64 = 16 << 30;
const SMALLEST_STACK: u64 = 128 << 10;
/// Linux keeps this much between a stack and what is below it.
const STACK_GUARD: u64 = 256 * PAGE_SIZE;

impl Calls<'_> {
    /// The new end of the heap, or the old one when it cannot be moved.
    pub(super) fn sys_brk(&mut self, want: u64) -> u64 {
        let (start, now) = self.s.brk;
        if want < start || want - start > limit(libc::RLIMIT_DATA) {
            return now;
        }
        let (Some(old_end), Some(new_end)) = (page_up(now), page_up(want)) else { return now };
        let moved = if new_end > old_end {
            self.grow_heap(old_end, new_end - old_end)
        } else {
            args::range(new_end, old_end - new_end).map_or(Ok(()), |gone| self.remove(gone))
        };
        if moved.is_ok() {
            self.s.brk.1 = want;
        }
        self.s.brk.1
    }

    fn grow_heap(&mut self, end: u64, len: u64) -> Result<(), Errno> {
        let range = args::range(end, len).ok_or(ENOMEM)?;
        if range.end() > self.map().max() {
            return Err(ENOMEM);
        }
        let size = self.map().size(&mut self.may);
        if size.saturating_add(len) > limit(libc::RLIMIT_AS) {
            return Err(ENOMEM);
        }
        let place = Place::At(range.start());
        let a = Attributes::new(Prot::RW);
        let made = self.map().find(place, range.pages(), Backing::Anonymous, &a, &mut self.may);
        made.map_err(errno::find)?;
        self.s.marks.clear(range);
        let future = self.s.future;
        self.s.marks.change(range, future, 0);
        if future & (Mark::LOCKED | Mark::ON_FAULT) == Mark::LOCKED {
            // A page that cannot be had now comes with its own fault.
            let _ = self.wire(range);
        }
        Ok(())
    }

    pub(super) fn make_stack(&mut self, limit: u64, executable: bool) -> Result<u64, Errno> {
        let stack = limit.clamp(SMALLEST_STACK, LARGEST_STACK) & !(PAGE_SIZE - 1);
        let limits = self.map().limits(&mut self.may);
        self.map().set_limits(Limits { stack, ..limits }, &mut self.may);
        let prot = if executable { Prot::ALL } else { Prot::RW };
        let pages = (stack + STACK_GUARD) / PAGE_SIZE;
        let shape = StackShape { pages, initial: 0, guard: STACK_GUARD / PAGE_SIZE };
        let place = Place::Any(self.anywhere(0, PAGE_SIZE));
        let made = self.map().stack(place, shape, &Attributes::new(prot), &mut self.may);
        let bottom = made.map_err(|_| ENOMEM)?;
        Ok(va(bottom.get()).add(pages).get())
    }
}

//! munmap, and removing everything.

use machvm::map::Kind;
use machvm_hal::VaRange;

use super::{Calls, args, errno};
use crate::run::space::Errno;

impl Calls<'_> {
    pub(super) fn sys_munmap(&mut self, addr: u64, len: u64) -> Result<(), Errno> {
        let range = args::munmap(addr, len)?;
        self.remove(range)
    }

    /// Removes whatever is in `range`.
    pub(super) fn remove(&mut self, range: VaRange) -> Result<(), Errno> {
        self.map().delete(range, &mut self.may).map_err(errno::delete)?;
        self.s.marks.clear(range);
        self.after_removal(range);
        Ok(())
    }

    /// The gap below a stack goes with the stack's lowest page.
    pub(super) fn after_removal(&mut self, range: VaRange) {
        if range.start() == self.map().min() {
            return;
        }
        let below = range.start().sub(1);
        let Some(info) = self.map().entry_from(below, &mut self.may) else { return };
        if info.kind == Kind::StackGap && info.range.end() == range.start() {
            self.drop_entries(info.range);
        }
    }

    /// Gaps below stacks make room: to Linux they are free.
    pub(super) fn clear_gaps(&mut self, range: VaRange) -> Result<(), Errno> {
        let mut at = range.start();
        while let Some(info) = self.map().entry_from(at, &mut self.may) {
            if info.range.start() >= range.end() {
                break;
            }
            if let (Kind::StackGap, Some(part)) = (info.kind, info.range.intersect(range)) {
                self.map().delete(part, &mut self.may).map_err(errno::delete)?;
            }
            at = info.range.end();
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.map().clear(&mut self.may);
        let (slide, last_tag) = (self.s.slide, self.s.last_tag);
        *self.s = super::Serial { slide, last_tag, ..super::Serial::default() };
    }
}

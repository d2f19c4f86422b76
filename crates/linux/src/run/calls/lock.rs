//! The mlock family.
//!
//! VM_LOCKED is a mark, as in Linux: it stays where nothing may be accessed yet.
//! What may be accessed is wired in the map, unless it is locked on fault: such
//! memory is only marked and may still be paged out.

use machvm::map::{Holes, Wiring};
use machvm_hal::{Prot, VaRange};

use super::errno::{self, EAGAIN, EINVAL, ENOMEM, EPERM};
use super::marks::Mark;
use super::mmap::CAP_IPC_LOCK;
use super::{Calls, args, capable, limit, linux};
use crate::run::space::Errno;

const MLOCK_ONFAULT: u32 = 1;
const MCL_CURRENT: u32 = 1;
const MCL_FUTURE: u32 = 2;
const MCL_ONFAULT: u32 = 4;

impl Calls<'_> {
    fn check_right(&self) -> Result<(), Errno> {
        let may = limit(libc::RLIMIT_MEMLOCK) != 0 || capable(self.tid, CAP_IPC_LOCK);
        if may { Ok(()) } else { Err(EPERM) }
    }

    pub(super) fn sys_mlock(&mut self, addr: u64, len: u64, flags: u32) -> Result<(), Errno> {
        if flags & !MLOCK_ONFAULT != 0 {
            return Err(EINVAL);
        }
        self.check_right()?;
        let range = args::mlock(addr, len);
        if let Ok(Some(range)) = range
            && !capable(self.tid, CAP_IPC_LOCK)
        {
            let already = self.s.marks.bytes_in(range, Mark::LOCKED);
            let locked = self.s.marks.bytes(Mark::LOCKED) - already;
            if locked.saturating_add(range.bytes()) > limit(libc::RLIMIT_MEMLOCK) {
                return Err(ENOMEM);
            }
        }
        let Some(range) = range? else { return Ok(()) };
        let on_fault = flags & MLOCK_ONFAULT != 0;
        self.each_solid(range, |c, part| c.lock_part(part, on_fault))?;
        if on_fault {
            return Ok(());
        }
        // Linux marks everything first and brings the pages in afterwards.
        self.each_solid(range, |c, part| {
            if part.is_foreign() {
                return linux::lock(part.range, false).map_err(|e| if e == EAGAIN { e } else { ENOMEM });
            }
            match part.info.attributes.prot {
                Prot::NONE => Err(ENOMEM),
                // The map does not wire what cannot be read; Linux brings it in.
                Prot::W => {
                    part.range.iter().try_for_each(|va| c.space.fault(va, Prot::W).map_err(|_| ENOMEM))
                }
                _ => c.wire(part.range),
            }
        })
    }

    fn lock_part(&mut self, part: &super::Part, on_fault: bool) -> Result<(), Errno> {
        if part.mark.has(Mark::DROPPABLE) {
            return Ok(());
        }
        let set = if on_fault { Mark::LOCKED | Mark::ON_FAULT } else { Mark::LOCKED };
        let clear = if on_fault { 0 } else { Mark::ON_FAULT };
        self.s.marks.change(part.range, set, clear);
        match part.is_foreign() && on_fault {
            true => linux::lock(part.range, true),
            false => Ok(()),
        }
    }

    /// Brings in and keeps what can be accessed in `range`.
    pub(super) fn wire(&mut self, range: VaRange) -> Result<(), Errno> {
        self.map().wire(range, Wiring::User, Holes::Skip, &mut self.may).map_err(errno::wire)
    }

    /// What is marked as locked in `range` and became accessible is wired; what cannot
    /// be had comes with its own fault.
    pub(super) fn wire_marked(&mut self, range: VaRange) {
        for (part, mark) in self.s.marks.parts(range) {
            if mark.has(Mark::LOCKED) && !mark.has(Mark::ON_FAULT) {
                let _ = self.wire(part);
            }
        }
    }

    pub(super) fn sys_munlock(&mut self, addr: u64, len: u64) -> Result<(), Errno> {
        let Some(range) = args::mlock(addr, len)? else { return Ok(()) };
        self.each_solid(range, |c, part| c.unlock_part(part))
    }

    fn unlock_part(&mut self, part: &super::Part) -> Result<(), Errno> {
        self.s.marks.change(part.range, 0, Mark::LOCKED | Mark::ON_FAULT);
        if part.is_foreign() {
            return linux::unlock(part.range);
        }
        self.map().unwire(part.range, Wiring::User, Holes::Skip, &mut self.may).map_err(errno::wire)
    }

    pub(super) fn sys_mlockall(&mut self, flags: u32) -> Result<(), Errno> {
        if flags == 0 || flags == MCL_ONFAULT || flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0 {
            return Err(EINVAL);
        }
        self.check_right()?;
        let current = flags & MCL_CURRENT != 0;
        let size = self.map().size(&mut self.may);
        if current && size > limit(libc::RLIMIT_MEMLOCK) && !capable(self.tid, CAP_IPC_LOCK) {
            return Err(ENOMEM);
        }
        let on_fault = flags & MCL_ONFAULT != 0;
        let marks = Mark::LOCKED | if on_fault { Mark::ON_FAULT } else { 0 };
        self.s.future = if flags & MCL_FUTURE != 0 { marks } else { 0 };
        let Some(all) = VaRange::between(self.map().min(), self.map().max()).filter(|_| current) else {
            return Ok(());
        };
        // Linux reports nothing of what cannot be brought in now.
        let walked = self.each(all, |c, part| {
            let _ = c.lock_part(part, on_fault);
            if !on_fault {
                let _ = if part.is_foreign() { linux::lock(part.range, false) } else { c.wire(part.range) };
            }
            Ok(())
        });
        walked.map(|_| ())
    }

    pub(super) fn sys_munlockall(&mut self) -> Result<(), Errno> {
        self.s.future = 0;
        let Some(all) = VaRange::between(self.map().min(), self.map().max()) else { return Ok(()) };
        self.each(all, |c, part| c.unlock_part(part)).map(|_| ())
    }
}

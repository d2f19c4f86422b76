//! madvise and process_madvise.

use std::os::fd::AsRawFd;

use machvm::map::{Advice, Advise, Inherit};
use machvm_hal::{Prot, VaRange};

use super::errno::{self, EACCES, EFAULT, EINVAL, ENOMEM, EPERM};
use super::marks::Mark;
use super::{Calls, Part, SHARED, args, capable, linux};
use crate::run::files::{copy_in, program_fd};
use crate::run::space::{Call, Errno};

const MADV_NORMAL: i32 = 0;
const MADV_RANDOM: i32 = 1;
const MADV_SEQUENTIAL: i32 = 2;
const MADV_WILLNEED: i32 = 3;
const MADV_DONTNEED: i32 = 4;
const MADV_FREE: i32 = 8;
const MADV_REMOVE: i32 = 9;
const MADV_DONTFORK: i32 = 10;
const MADV_DOFORK: i32 = 11;
const MADV_MERGEABLE: i32 = 12;
const MADV_UNMERGEABLE: i32 = 13;
const MADV_HUGEPAGE: i32 = 14;
const MADV_NOHUGEPAGE: i32 = 15;
const MADV_DONTDUMP: i32 = 16;
const MADV_DODUMP: i32 = 17;
const MADV_WIPEONFORK: i32 = 18;
const MADV_KEEPONFORK: i32 = 19;
const MADV_COLD: i32 = 20;
const MADV_PAGEOUT: i32 = 21;
const MADV_POPULATE_READ: i32 = 22;
const MADV_POPULATE_WRITE: i32 = 23;
const MADV_DONTNEED_LOCKED: i32 = 24;
const MADV_HWPOISON: i32 = 100;
const MADV_SOFT_OFFLINE: i32 = 101;

const CAP_SYS_ADMIN: u32 = 21;
const IOV_MAX: u64 = 1024;

/// Whose memory a process_madvise is about.
pub(super) enum Target {
    Program,
    Other,
}

/// Looks at the descriptor of a process_madvise.
pub(super) fn target(call: &Call) -> Result<Target, Errno> {
    let fd = program_fd(call.tid, call.args[0] as i32).map_err(|_| errno::EBADF)?;
    let info = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd()));
    let pid = info
        .ok()
        .and_then(|text| text.lines().find_map(|l| l.strip_prefix("Pid:")?.trim().parse::<u32>().ok()));
    Ok(match pid {
        Some(pid) if std::process::id() == pid => Target::Program,
        // Linux knows what is wrong with other descriptors, too.
        _ => Target::Other,
    })
}

impl Calls<'_> {
    pub(super) fn sys_madvise(&mut self, addr: u64, len: u64, advice: i32) -> Result<(), Errno> {
        match advice {
            MADV_NORMAL..=MADV_DONTNEED | MADV_FREE..=MADV_DONTNEED_LOCKED => {}
            MADV_HWPOISON | MADV_SOFT_OFFLINE if capable(self.tid, CAP_SYS_ADMIN) => return Err(EINVAL),
            MADV_HWPOISON | MADV_SOFT_OFFLINE => return Err(EPERM),
            // Collapsing into huge pages and guard markers are not ours.
            _ => return Err(EINVAL),
        }
        let Some(range) = args::madvise(addr, len)? else { return Ok(()) };
        if matches!(advice, MADV_POPULATE_READ | MADV_POPULATE_WRITE) {
            let access = if advice == MADV_POPULATE_WRITE { Prot::W } else { Prot::R };
            return self.each_solid(range, |c, part| c.populate_for(part, access, advice));
        }
        // What is mapped is done; the holes are reported afterwards.
        if self.each(range, |c, part| c.advise_part(part, advice))? { Err(ENOMEM) } else { Ok(()) }
    }

    fn populate_for(&mut self, part: &Part, access: Prot, advice: i32) -> Result<(), Errno> {
        if part.is_foreign() {
            return linux::advise(part.range, advice);
        }
        let prot = part.info.attributes.prot;
        if !prot.contains(access) {
            return Err(EINVAL);
        }
        part.range.iter().try_for_each(|va| {
            self.space.fault(va, access).map_err(|e| match e {
                machvm::FaultError::NoMemory(_) => ENOMEM,
                machvm::FaultError::NoMapping(_) => ENOMEM,
                machvm::FaultError::Protection(_) | machvm::FaultError::Foreign(_) => EINVAL,
                _ => EFAULT,
            })
        })
    }

    fn advise_part(&mut self, part: &Part, advice: i32) -> Result<(), Errno> {
        let locked = part.mark.has(Mark::LOCKED);
        match advice {
            MADV_DONTNEED | MADV_FREE | MADV_COLD | MADV_PAGEOUT | MADV_REMOVE if locked => {
                return Err(EINVAL);
            }
            MADV_DONTFORK | MADV_DOFORK | MADV_WIPEONFORK | MADV_KEEPONFORK => {
                return self.advise_fork(part, advice);
            }
            _ if part.is_foreign() => return linux::advise(part.range, advice),
            _ => {}
        }
        match advice {
            MADV_NORMAL => self.advise_map(part.range, Advise::Access(Advice::Normal)),
            MADV_RANDOM => self.advise_map(part.range, Advise::Access(Advice::Random)),
            MADV_SEQUENTIAL => self.advise_map(part.range, Advise::Access(Advice::Sequential)),
            MADV_DONTDUMP => self.advise_map(part.range, Advise::Core { include: false }),
            MADV_DODUMP => self.advise_map(part.range, Advise::Core { include: true }),
            MADV_DONTNEED => self.advise_map(part.range, Advise::DontNeed),
            MADV_DONTNEED_LOCKED if !locked => self.advise_map(part.range, Advise::DontNeed),
            // Wired pages stay where they are: the contents go.
            MADV_DONTNEED_LOCKED => Err(EINVAL),
            MADV_FREE if !part.is_anonymous() => Err(EINVAL),
            MADV_FREE => self.advise_map(part.range, Advise::Free),
            // Private anonymous memory has no file; a private mapping may not punch one.
            MADV_REMOVE if part.is_anonymous() => Err(EINVAL),
            MADV_REMOVE => Err(EACCES),
            MADV_MERGEABLE | MADV_UNMERGEABLE | MADV_HUGEPAGE | MADV_NOHUGEPAGE => linux::hint(advice),
            MADV_WILLNEED | MADV_COLD | MADV_PAGEOUT => Ok(()),
            _ => Err(EINVAL),
        }
    }

    fn advise_map(&mut self, range: VaRange, advise: Advise) -> Result<(), Errno> {
        self.map().madvise(range, advise, &mut self.may).map(|_| ()).map_err(errno::advise)
    }

    fn advise_fork(&mut self, part: &Part, advice: i32) -> Result<(), Errno> {
        if part.is_foreign() {
            linux::advise(part.range, advice)?;
        } else if advice == MADV_WIPEONFORK && !part.is_anonymous() {
            return Err(EINVAL);
        }
        let droppable = part.mark.has(Mark::DROPPABLE);
        let (set, clear) = match advice {
            MADV_DONTFORK => (Mark::DONT_FORK, 0),
            MADV_DOFORK => (0, Mark::DONT_FORK),
            MADV_WIPEONFORK => (Mark::WIPE_ON_FORK, 0),
            _ if droppable => return Err(EINVAL),
            _ => (0, Mark::WIPE_ON_FORK),
        };
        self.s.marks.change(part.range, set, clear);
        let shared = part.info.attributes.flags.contains(SHARED);
        for (range, mark) in self.s.marks.parts(part.range) {
            let inherit = if mark.has(Mark::DONT_FORK) {
                Inherit::None
            } else if mark.has(Mark::WIPE_ON_FORK) {
                Inherit::Zero
            } else if shared {
                Inherit::Share
            } else {
                Inherit::Copy
            };
            self.map().inherit(range, inherit, &mut self.may).map_err(|_| ENOMEM)?;
        }
        Ok(())
    }

    /// Of the program's own memory.
    pub(super) fn sys_process_madvise(&mut self, a: &[u64; 6]) -> Result<u64, Errno> {
        let (vec, count, advice, flags) = (a[1], a[2], a[3] as i32, a[4]);
        if flags != 0 || count > IOV_MAX {
            return Err(EINVAL);
        }
        let mut raw = vec![0; count as usize * 16];
        if copy_in(vec, &mut raw) != raw.len() {
            return Err(EFAULT);
        }
        let word = |at: usize| raw[at..at + 8].iter().rev().fold(0, |w, b| w << 8 | u64::from(*b));
        let mut total = 0_u64;
        for at in (0..raw.len()).step_by(16) {
            let (addr, len) = (word(at), word(at + 8));
            match self.sys_madvise(addr, len, advice) {
                Ok(()) => total = total.saturating_add(len),
                Err(e) if total == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(total)
    }
}

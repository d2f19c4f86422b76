//! The memory calls of the program, answered from the map with Linux's semantics and
//! error numbers.
//!
//! ```text
//!   memory_call -- args (checks that need no map)
//!        |
//!      Calls --+-- the core's map: anonymous memory, writable private file mappings
//!              +-- linux: mappings of Linux's own, of which the map has the entry
//!              +-- marks: what Linux remembers of a range and the core does not
//! ```
//! One call at a time: an entry and Linux's mapping behind it change together. No
//! lock of the map is held while program memory or Linux's mappings are touched, and
//! faults never take the lock of the calls, so a call may wait for a page.
//!
//! Linux's own: everything shared (children of a fork run on Linux's memory), devices,
//! read-only and executable file mappings.
//!
//! Entry flags: USER1 shared, USER2 backed by a file, USER3 a private mapping of a
//! regular file that is Linux's (it becomes ours when it becomes writable).

mod advise;
mod args;
mod errno;
mod heap;
mod linux;
mod lock;
mod marks;
mod mmap;
mod place;
mod protect;
mod remap;
mod resident;
mod shm;
mod unmap;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use machvm::map::{EntryFlags, EntryInfo, Kind, Map};
use machvm_hal::{MaySleep, Va, VaRange};

use self::errno::{ENOMEM, ENOSYS};
use self::marks::{Mark, Marks};
use super::filter::SYS_MSEAL;
use super::space::{Call, Errno, Piece, PieceKind, Reply};
use super::vmspace::VmSpace;
use crate::platform::Linux;

/// Mapped shared: a child of fork gets the same memory.
const SHARED: EntryFlags = EntryFlags::USER1;
/// Contents come from a file.
const FILE: EntryFlags = EntryFlags::USER2;
/// Foreign, and to be converted when it becomes writable.
const CONVERTIBLE: EntryFlags = EntryFlags::USER3;

/// What the calls remember besides the map.
#[derive(Default)]
pub(crate) struct State(Mutex<Serial>);

#[derive(Default)]
struct Serial {
    marks: Marks,
    /// The heap: `[start, now)`.
    brk: (u64, u64),
    /// mlockall(MCL_FUTURE): the marks of new mappings.
    future: u8,
    /// Bytes by which the area of mappings is lowered, chosen at random once.
    slide: Option<u64>,
    /// Names of foreign mappings: two are never one entry.
    last_tag: u64,
    /// SysV segments attached: address, size and the tag of their entries.
    segments: BTreeMap<u64, (u64, u64)>,
}

/// A call in progress.
struct Calls<'a> {
    space: &'a VmSpace,
    s: MutexGuard<'a, Serial>,
    may: MaySleep,
    tid: i32,
}

/// A part of an entry with the same marks everywhere: what to Linux is in one mapping.
#[derive(Clone, Copy)]
struct Part {
    range: VaRange,
    info: EntryInfo,
    mark: Mark,
}

impl Part {
    fn is_shared(&self) -> bool {
        self.info.attributes.flags.contains(SHARED)
    }
    fn is_foreign(&self) -> bool {
        self.info.kind == Kind::Foreign
    }
    /// Private anonymous memory.
    fn is_anonymous(&self) -> bool {
        self.info.kind == Kind::Object && !self.info.attributes.flags.intersects(SHARED | FILE)
    }
}

impl<'a> Calls<'a> {
    fn begin(space: &'a VmSpace, tid: i32) -> Self {
        let s = space.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        Calls { space, s, may: MaySleep::claim(), tid }
    }

    fn map(&self) -> &'a Map<'static, Linux> {
        &self.space.map
    }

    /// The first mapped part of `range`. The gap below a stack is not mapped.
    fn part(&mut self, range: VaRange) -> Option<Part> {
        let mut at = range.start();
        loop {
            let info = self.map().entry_from(at, &mut self.may)?;
            if info.range.start() >= range.end() {
                return None;
            }
            if matches!(info.kind, Kind::StackGap | Kind::Guard) {
                at = info.range.end();
                continue;
            }
            let (range, mark) = self.s.marks.first(info.range.intersect(range)?);
            return Some(Part { range, info, mark });
        }
    }

    /// Calls `f` for every mapped part of `range`; gives whether there was a hole.
    fn each(
        &mut self,
        range: VaRange,
        mut f: impl FnMut(&mut Self, &Part) -> Result<(), Errno>,
    ) -> Result<bool, Errno> {
        let (mut at, mut hole) = (range.start(), false);
        while let Some(rest) = VaRange::between(at, range.end()) {
            let Some(part) = self.part(rest) else { return Ok(true) };
            hole |= part.range.start() > at;
            f(self, &part)?;
            at = part.range.end();
        }
        Ok(hole)
    }

    /// As [`Calls::each`]; the first hole ends it with ENOMEM.
    fn each_solid(
        &mut self,
        range: VaRange,
        mut f: impl FnMut(&mut Self, &Part) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut at = range.start();
        while let Some(rest) = VaRange::between(at, range.end()) {
            let part = self.part(rest).filter(|p| p.range.start() == at).ok_or(ENOMEM)?;
            f(self, &part)?;
            at = part.range.end();
        }
        Ok(())
    }

    /// The parts of `range` that are Linux's.
    fn foreign(&mut self, range: VaRange) -> Vec<VaRange> {
        let mut found = Vec::new();
        let walked = self.each(range, |_, part| {
            if part.is_foreign() {
                found.push(part.range);
            }
            Ok(())
        });
        debug_assert!(walked.is_ok(), "looking does not fail");
        found
    }

    fn new_tag(&mut self) -> u64 {
        self.s.last_tag += 1;
        self.s.last_tag
    }

    fn answer(&mut self, call: &Call) -> Result<u64, Errno> {
        let a = &call.args;
        let done = |r: Result<(), Errno>| r.map(|()| 0);
        match call.nr {
            libc::SYS_mmap => self.sys_mmap(a),
            libc::SYS_munmap => done(self.sys_munmap(a[0], a[1])),
            libc::SYS_mprotect => done(self.sys_mprotect(a[0], a[1], a[2], None)),
            libc::SYS_pkey_mprotect => {
                let key = a[3] as i32;
                done(self.sys_mprotect(a[0], a[1], a[2], (key != -1).then_some(a[3])))
            }
            libc::SYS_mremap => self.sys_mremap(a),
            libc::SYS_brk => Ok(self.sys_brk(a[0])),
            libc::SYS_madvise => done(self.sys_madvise(a[0], a[1], a[2] as i32)),
            libc::SYS_msync => done(self.sys_msync(a[0], a[1], a[2])),
            libc::SYS_mincore => done(self.sys_mincore(a[0], a[1], a[2])),
            libc::SYS_mlock => done(self.sys_mlock(a[0], a[1], 0)),
            libc::SYS_mlock2 => done(self.sys_mlock(a[0], a[1], a[2] as u32)),
            libc::SYS_munlock => done(self.sys_munlock(a[0], a[1])),
            libc::SYS_mlockall => done(self.sys_mlockall(a[0] as u32)),
            libc::SYS_munlockall => done(self.sys_munlockall()),
            libc::SYS_shmat => self.sys_shmat(a[0] as i32, a[1], a[2] as i32),
            libc::SYS_shmdt => done(self.sys_shmdt(a[0])),
            libc::SYS_remap_file_pages => Err(errno::EINVAL),
            // Not there, as on a kernel without them: libraries fall back.
            libc::SYS_userfaultfd | SYS_MSEAL => Err(ENOSYS),
            _ => Err(ENOSYS),
        }
    }
}

/// Answers one memory call of the program.
///
/// => on a VM thread that serves no faults; nothing is locked
pub(crate) fn memory_call(space: &VmSpace, call: &Call) -> Reply {
    let result = match call.nr {
        // Memory policies are about nodes, not contents; Linux knows the nodes.
        libc::SYS_mbind => return Reply::Continue,
        libc::SYS_process_madvise => match advise::target(call) {
            Ok(advise::Target::Program) => Calls::begin(space, call.tid).sys_process_madvise(&call.args),
            Ok(advise::Target::Other) => return Reply::Continue,
            Err(errno) => Err(errno),
        },
        _ => Calls::begin(space, call.tid).answer(call),
    };
    match result {
        Ok(value) => Reply::Value(value as i64),
        Err(errno) => Reply::Error(errno),
    }
}

/// `mmap` for the loader; `fd` is a descriptor of the VM's table.
///
/// # Errors
/// Those of mmap(2).
pub(crate) fn map(
    space: &VmSpace,
    addr: u64,
    len: u64,
    prot: i32,
    flags: i32,
    fd: Option<i32>,
    offset: u64,
) -> Result<u64, Errno> {
    // SAFETY: the loader holds the descriptor open during the call.
    let fd = fd.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    // SAFETY: the call has no preconditions.
    let tid = unsafe { libc::gettid() };
    Calls::begin(space, tid).mmap(addr, len, prot as u64, flags as u32, fd, offset)
}

/// Makes the main stack and gives its top. `limit`: RLIMIT_STACK in bytes.
///
/// # Errors
/// ENOMEM.
pub(crate) fn make_stack(space: &VmSpace, limit: u64, executable: bool) -> Result<u64, Errno> {
    Calls::begin(space, 0).make_stack(limit, executable)
}

/// The heap begins at `addr`, rounded up to a page.
pub(crate) fn set_brk_start(space: &VmSpace, addr: u64) {
    let start = args::page_up(addr).unwrap_or(addr);
    Calls::begin(space, 0).s.brk = (start, start);
}

/// The heap: its start and its end now.
pub(crate) fn heap(space: &VmSpace) -> (u64, u64) {
    Calls::begin(space, 0).s.brk
}

/// `mprotect` for the loader.
///
/// # Errors
/// Those of mprotect(2).
pub(crate) fn protect(space: &VmSpace, addr: u64, len: u64, prot: i32) -> Result<(), Errno> {
    Calls::begin(space, 0).sys_mprotect(addr, len, prot as u64, None)
}

/// `munmap` for the loader; an empty range is fine.
///
/// # Errors
/// Those of munmap(2).
pub(crate) fn unmap(space: &VmSpace, addr: u64, len: u64) -> Result<(), Errno> {
    if len == 0 { Ok(()) } else { Calls::begin(space, 0).sys_munmap(addr, len) }
}

/// Removes everything (exec): mappings, the heap, what was locked for the future.
pub(crate) fn clear(space: &VmSpace) {
    Calls::begin(space, 0).clear();
}

/// Calls `f` for every piece of the address space, ascending.
pub(crate) fn pieces(space: &VmSpace, f: &mut dyn FnMut(&Piece)) {
    let mut c = Calls::begin(space, 0);
    let mut entries = Vec::new();
    c.map().for_each_entry(|info| entries.push(info), &mut c.may);
    for info in entries {
        let prot = args::prot_bits(info.attributes.prot);
        for (range, mark) in c.s.marks.parts(info.range) {
            let (start, end) = (range.start().get(), range.end().get());
            f(&Piece { start, end, prot, kind: piece_kind(&info, mark) });
        }
    }
}

fn piece_kind(info: &EntryInfo, mark: Mark) -> PieceKind {
    match info.kind {
        Kind::Object => PieceKind::Ours {
            dont_fork: mark.has(Mark::DONT_FORK),
            wipe_on_fork: mark.has(Mark::WIPE_ON_FORK),
            grows_down: info.flags.contains(EntryFlags::GROWS_DOWN),
        },
        Kind::Foreign => PieceKind::Foreign,
        // Programs have no submaps.
        Kind::Guard | Kind::StackGap | Kind::Submap => PieceKind::Guard,
    }
}

/// A limit of the process, in bytes.
fn limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the buffer is an rlimit.
    match unsafe { libc::getrlimit(resource, &raw mut limit) } {
        0 => limit.rlim_cur,
        _ => u64::MAX,
    }
}

/// Whether the thread that made the call has a capability.
fn capable(tid: i32, capability: u32) -> bool {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = Header { version: VERSION_3, pid: tid };
    // Effective, permitted, inheritable; twice.
    let mut data = [0_u32; 6];
    // SAFETY: the header and the data have the layout of version 3.
    let r = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    r == 0 && data[3 * (capability / 32) as usize] & (1 << (capability % 32)) != 0
}

/// The page that contains an address.
fn va(addr: u64) -> Va {
    Va::containing(machvm_hal::RawAddr(addr))
}

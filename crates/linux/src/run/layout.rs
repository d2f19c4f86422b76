//! Telling the kernel where the program's parts are, so that `/proc/PID/cmdline`,
//! `environ`, `auxv` and `ps` show the program and not `machvm`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::elf::Elf;
use super::files::last_errno;
use super::space::Errno;
use super::stack::StackImage;

const PR_SET_MM_MAP: u64 = 14;
/// The executable's name stays.
const NO_EXE: u32 = u32::MAX;

/// Where the program's parts are.
#[derive(Clone, Debug)]
pub struct MmLayout {
    code: (u64, u64),
    data: (u64, u64),
    stack: u64,
    /// Argument strings, then environment strings.
    strings: Vec<u8>,
    /// How many bytes of them are arguments.
    args_len: u64,
    auxv: Vec<u64>,
    exe: Arc<File>,
}

/// `struct prctl_mm_map`.
#[repr(C)]
#[derive(Debug)]
struct RawMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: *const u64,
    auxv_size: u32,
    exe_fd: u32,
}

impl RawMap {
    /// What the kernel says now.
    fn current() -> Option<RawMap> {
        let stat = own_stat()?;
        let field = |number: usize| stat.get(number - 3).copied();
        // SAFETY: brk(0) only asks.
        let brk = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
        Some(RawMap {
            start_code: field(26)?,
            end_code: field(27)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: field(47)?,
            brk,
            start_stack: field(28)?,
            arg_start: field(48)?,
            arg_end: field(49)?,
            env_start: field(50)?,
            env_end: field(51)?,
            auxv: std::ptr::null(),
            auxv_size: 0,
            exe_fd: NO_EXE,
        })
    }

    fn set(&self) -> Result<(), Errno> {
        let (addr, size) = (&raw const *self as u64, size_of::<RawMap>() as u64);
        // SAFETY: the kernel checks the addresses; what it reads is this structure and the
        // vector it names, which lives as long.
        let done = unsafe { libc::prctl(libc::PR_SET_MM, PR_SET_MM_MAP, addr, size, 0_u64) } == 0;
        if done { Ok(()) } else { Err(last_errno()) }
    }
}

/// Whether the kernel would let this process name another file as its executable
/// (CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN): it looks at that first, and only then at
/// the descriptor.
pub(super) fn may_name_exe() -> bool {
    RawMap::current()
        .is_some_and(|map| RawMap { exe_fd: i32::MAX as u32, ..map }.set() == Err(Errno(libc::EBADF)))
}

impl MmLayout {
    pub(super) fn new(elf: &Elf, bias: u64, stack: &StackImage, exe: File) -> MmLayout {
        let range = |executable: bool| {
            let mut range = (u64::MAX, 0);
            for segment in &elf.segments {
                if (segment.prot & libc::PROT_EXEC != 0) == executable {
                    range.0 = range.0.min(segment.vaddr.wrapping_add(bias));
                    range.1 = range.1.max(segment.file_end().wrapping_add(bias));
                }
            }
            range
        };
        let whole = (elf.span().0.wrapping_add(bias), elf.span().1.wrapping_add(bias));
        let or_whole = |range: (u64, u64)| if range.0 < range.1 { range } else { whole };
        MmLayout {
            code: or_whole(range(true)),
            data: or_whole(range(false)),
            stack: stack.sp,
            strings: stack.bytes[(stack.args.0 - stack.sp) as usize..(stack.env.1 - stack.sp) as usize]
                .to_vec(),
            args_len: stack.args.1 - stack.args.0,
            auxv: stack.auxv.clone(),
            exe: Arc::new(exe),
        }
    }

    /// Tells the kernel; call it on a thread of the VM. The program runs as well
    /// without it (no rights, no `/proc`), so failures are not reported, but for one:
    /// `false` says that `/proc/self/exe` does not name the program.
    pub fn apply(&self) -> bool {
        let (Some(current), Some(strings)) = (RawMap::current(), Strings::copy(&self.strings)) else {
            return false;
        };
        let env_start = strings.start + self.args_len;
        let map = RawMap {
            start_code: self.code.0,
            end_code: self.code.1,
            start_data: self.data.0,
            end_data: self.data.1,
            start_stack: self.stack,
            arg_start: strings.start,
            arg_end: env_start,
            env_start,
            env_end: strings.start + strings.len,
            auxv: self.auxv.as_ptr(),
            auxv_size: (self.auxv.len() * 8) as u32,
            exe_fd: self.exe.as_raw_fd() as u32,
            // The kernel's heap is the VM's.
            ..current
        };
        let exe_named = map.set().is_ok();
        if exe_named || (RawMap { exe_fd: NO_EXE, ..map }).set().is_ok() {
            strings.keep();
        }
        exe_named
    }
}

/// A copy of the strings for `/proc/PID/cmdline` and `environ`: the kernel reads them
/// there from anonymous memory only, which the program's stack is not.
struct Strings {
    start: u64,
    len: u64,
}

/// The copy that the kernel knows.
static KEPT: Mutex<Option<Strings>> = Mutex::new(None);

impl Strings {
    fn copy(bytes: &[u8]) -> Option<Strings> {
        let (rw, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at least as long as what is copied into it.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), bytes.len().max(1), rw, flags, -1, 0);
            if at == libc::MAP_FAILED {
                return None;
            }
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.cast::<u8>(), bytes.len());
            Some(Strings { start: at as u64, len: bytes.len() as u64 })
        }
    }

    /// Lets go of the copy before.
    fn keep(self) {
        let before = KEPT.lock().unwrap_or_else(PoisonError::into_inner).replace(self);
        drop(before);
    }
}

impl Drop for Strings {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's alone, and the kernel was told of another.
        unsafe { libc::munmap(self.start as *mut libc::c_void, self.len.max(1) as usize) };
    }
}

/// The numeric fields of `/proc/PID/stat`, from the third on.
fn own_stat() -> Option<Vec<u64>> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
    // Field 2 is the name, which may contain anything; field 3 is a letter.
    let after_name = stat.rsplit_once(')')?.1;
    Some(after_name.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
}

/// The program's heap, for the kernel: in a forked child it is Linux that answers
/// `brk`, and it must not go on with the VM's heap. (The C library takes any answer
/// above what it asked for as a success.)
#[derive(Debug)]
pub struct ChildHeap(RawMap);

impl ChildHeap {
    /// Prepares the child's heap, in the parent. `heap` is [`Space::heap`].
    ///
    /// [`Space::heap`]: super::space::Space::heap
    #[must_use]
    pub fn new(heap: (u64, u64)) -> Option<ChildHeap> {
        Some(ChildHeap(RawMap { start_brk: heap.0, brk: heap.1, ..RawMap::current()? }))
    }

    /// Tells the kernel, in the child. Takes no lock and no memory. `false`: the kernel
    /// refuses, and the child must not run on.
    #[must_use]
    pub fn apply(&self) -> bool {
        self.0.set().is_ok()
    }
}

//! Telling the kernel where the program's parts are, so that `/proc/PID/cmdline`,
//! `environ`, `auxv` and `ps` show the program and not `machvm`.

use super::elf::Elf;
use super::stack::StackImage;

const PR_SET_MM_START_CODE: u64 = 1;
const PR_SET_MM_END_CODE: u64 = 2;
const PR_SET_MM_START_DATA: u64 = 3;
const PR_SET_MM_END_DATA: u64 = 4;
const PR_SET_MM_START_STACK: u64 = 5;
const PR_SET_MM_ARG_START: u64 = 8;
const PR_SET_MM_ARG_END: u64 = 9;
const PR_SET_MM_ENV_START: u64 = 10;
const PR_SET_MM_ENV_END: u64 = 11;
const PR_SET_MM_AUXV: u64 = 12;
const PR_SET_MM_MAP: u64 = 14;

/// Where the program's parts are.
#[derive(Clone, Debug)]
pub struct MmLayout {
    code: (u64, u64),
    data: (u64, u64),
    stack: u64,
    args: (u64, u64),
    env: (u64, u64),
    auxv: Vec<u64>,
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

fn set_mm(what: u64, addr: u64, len: u64) -> bool {
    // SAFETY: PR_SET_MM checks its addresses; the only memory it reads is the vector
    // and the map that callers pass with their true size.
    unsafe { libc::prctl(libc::PR_SET_MM, what, addr, len, 0_u64) == 0 }
}

impl MmLayout {
    pub(super) fn new(elf: &Elf, bias: u64, stack: &StackImage) -> MmLayout {
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
            args: stack.args,
            env: stack.env,
            auxv: stack.auxv.clone(),
        }
    }

    /// Tells the kernel; call it on a thread of the VM. The program runs as well
    /// without it (no rights, no `/proc`), so failures are not reported.
    pub fn apply(&self) {
        let auxv_size = (self.auxv.len() * 8) as u64;
        // One by one the kernel keeps its own heap bounds, which are the VM's and may
        // move under us; this way needs CAP_SYS_RESOURCE.
        if set_mm(PR_SET_MM_AUXV, self.auxv.as_ptr() as u64, auxv_size) {
            set_mm(PR_SET_MM_START_STACK, self.stack, 0);
            set_pair(PR_SET_MM_START_CODE, PR_SET_MM_END_CODE, self.code);
            set_pair(PR_SET_MM_START_DATA, PR_SET_MM_END_DATA, self.data);
            set_pair(PR_SET_MM_ENV_START, PR_SET_MM_ENV_END, self.env);
            set_pair(PR_SET_MM_ARG_START, PR_SET_MM_ARG_END, self.args);
            return;
        }
        let Some((start_brk, brk)) = own_heap() else {
            return;
        };
        let map = RawMap {
            start_code: self.code.0,
            end_code: self.code.1,
            start_data: self.data.0,
            end_data: self.data.1,
            start_brk,
            brk,
            start_stack: self.stack,
            arg_start: self.args.0,
            arg_end: self.args.1,
            env_start: self.env.0,
            env_end: self.env.1,
            auxv: self.auxv.as_ptr(),
            auxv_size: auxv_size as u32,
            exe_fd: u32::MAX,
        };
        set_mm(PR_SET_MM_MAP, &raw const map as u64, size_of::<RawMap>() as u64);
    }
}

/// The kernel insists on start <= end after each step, so the order depends on which
/// way the pair moves; one of the two tries is the right one.
fn set_pair(start: u64, end: u64, range: (u64, u64)) {
    if set_mm(start, range.0, 0) {
        set_mm(end, range.1, 0);
    } else {
        set_mm(end, range.1, 0);
        set_mm(start, range.0, 0);
    }
}

/// The numeric fields of `/proc/PID/stat`, from the third on.
fn own_stat() -> Option<Vec<u64>> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
    // Field 2 is the name, which may contain anything; field 3 is a letter.
    let after_name = stat.rsplit_once(')')?.1;
    Some(after_name.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
}

/// The bounds of the kernel's heap of this process, which is the VM's.
fn own_heap() -> Option<(u64, u64)> {
    let start = *own_stat()?.get(47 - 3)?;
    // SAFETY: brk(0) only asks.
    let end = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
    Some((start, end))
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
        let stat = own_stat()?;
        let field = |number: usize| stat.get(number - 3).copied();
        Some(ChildHeap(RawMap {
            start_code: field(26)?,
            end_code: field(27)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: heap.0,
            brk: heap.1,
            start_stack: field(28)?,
            arg_start: field(48)?,
            arg_end: field(49)?,
            env_start: field(50)?,
            env_end: field(51)?,
            auxv: std::ptr::null(),
            auxv_size: 0,
            exe_fd: u32::MAX,
        }))
    }

    /// Tells the kernel, in the child. Takes no lock and no memory. `false`: the kernel
    /// refuses, and the child must not run on.
    #[must_use]
    pub fn apply(&self) -> bool {
        set_mm(PR_SET_MM_MAP, &raw const self.0 as u64, size_of::<RawMap>() as u64)
    }
}

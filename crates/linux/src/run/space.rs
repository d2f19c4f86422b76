//! The seam between the process side of `machvm run` (loader, filter, keeper,
//! fork, exec) and the address space that answers the memory calls.

/// A Linux `errno` value, positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

/// One system call of the program, as the filter reported it.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The thread that made it.
    pub tid: i32,
    /// `SYS_*`.
    pub nr: i64,
    /// The six arguments.
    pub args: [u64; 6],
    /// The user stack pointer is not known to the filter; the program counter is.
    pub ip: u64,
}

/// How a memory call is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The call returns this.
    Value(i64),
    /// The call fails.
    Error(Errno),
    /// Linux does the call itself.
    Continue,
}

/// A piece of the program's address space, for fork and for `--maps`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// `PROT_*` now.
    pub prot: i32,
    /// What stands behind it.
    pub kind: PieceKind,
}

/// What stands behind a [`Piece`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PieceKind {
    /// Memory of ours: a fork must copy it.
    Ours {
        /// `MADV_DONTFORK`: absent in the child.
        dont_fork: bool,
        /// `MADV_WIPEONFORK`: zero in the child.
        wipe_on_fork: bool,
        /// `MAP_GROWSDOWN` or the main stack.
        grows_down: bool,
    },
    /// A mapping of Linux's own (shared or read-only file, device, vDSO): a fork
    /// inherits it as it is.
    Foreign,
    /// Reserved, unaccessible (stack gap).
    Guard,
}

/// The address space of the program.
///
/// => no method may be called by a thread of the program; all may sleep. The
/// implementation never touches program memory while it holds a lock.
pub trait Space: Sync {
    /// Answers one of the memory calls (mmap, munmap, mprotect, pkey_mprotect,
    /// mremap, brk, madvise, process_madvise on itself, msync, mincore, mlock
    /// family, remap_file_pages, mseal, mbind, shmat, shmdt, userfaultfd).
    fn memory_call(&self, call: &Call) -> Reply;

    /// `mmap` on behalf of the loader: `fd` is a descriptor of the *VM's* table.
    /// Flags and protection are Linux's.
    ///
    /// # Errors
    /// Linux's errno for the same call.
    fn map(
        &self,
        addr: u64,
        len: u64,
        prot: i32,
        flags: i32,
        fd: Option<i32>,
        offset: u64,
    ) -> Result<u64, Errno>;

    /// Makes the main stack: returns its top. `limit` is RLIMIT_STACK in bytes
    /// (u64::MAX: unlimited).
    ///
    /// # Errors
    /// ENOMEM.
    fn make_stack(&self, limit: u64, executable: bool) -> Result<u64, Errno>;

    /// The heap starts here (page-rounded end of the program's data).
    fn set_brk_start(&self, addr: u64);

    /// Start and end of the heap: what was set by [`Space::set_brk_start`], and what
    /// `brk(0)` answers. A forked child's heap is Linux's own and goes on there.
    fn heap(&self) -> (u64, u64) {
        let ask = Call { tid: 0, nr: libc::SYS_brk, args: [0; 6], ip: 0 };
        let end = match self.memory_call(&ask) {
            Reply::Value(end) => end as u64,
            Reply::Error(_) | Reply::Continue => 0,
        };
        (end, end)
    }

    /// Changes protection, for the loader (RELRO is the program's own business).
    ///
    /// # Errors
    /// Linux's errno for the same call.
    fn protect(&self, addr: u64, len: u64, prot: i32) -> Result<(), Errno>;

    /// `munmap` on behalf of the loader: the holes between the segments of a file.
    ///
    /// # Errors
    /// Linux's errno for the same call.
    fn unmap(&self, addr: u64, len: u64) -> Result<(), Errno>;

    /// Removes every mapping of the program (exec).
    fn clear(&self);

    /// Calls `f` for every piece, ascending.
    fn pieces(&self, f: &mut dyn FnMut(&Piece));

    /// Stops changes of the map and of page placement (page-out, page-in) until
    /// [`Space::thaw`]: the process worker can then read every page by
    /// [`Space::read_page`].
    fn freeze(&self);
    /// Ends [`Space::freeze`].
    fn thaw(&self);

    /// Between [`Space::freeze`] and [`Space::thaw`], on a VM thread of the parent: the
    /// contents of the page at `addr` of an `Ours` piece. `false`: it reads as zero
    /// (never touched) and `buf` is untouched. May take locks and do I/O.
    fn read_page(&self, addr: u64, buf: &mut [u8; 4096]) -> bool;

    /// The first page at or after `addr` and below `end` that may hold something other
    /// than zeroes; `end` when there is none. So that a fork of a program with a large
    /// reservation need not ask page by page.
    ///
    /// => between [`Space::freeze`] and [`Space::thaw`]
    fn next_data(&self, addr: u64, end: u64) -> u64 {
        let _ = end;
        addr
    }

    /// Keeps the page at `addr` resident and writable by the kernel until
    /// [`Space::unwire`] (thread exit: the kernel's store to the tid word cannot
    /// wait for a page-in).
    ///
    /// # Errors
    /// EFAULT when nothing is mapped there.
    fn wire(&self, addr: u64) -> Result<(), Errno>;
    /// Ends one [`Space::wire`] of the page; nothing happens when it is unmapped.
    fn unwire(&self, addr: u64);

    /// The program ends: what it has in the file system goes.
    fn end(&self) {}
    /// The program has ended but for its last system call: what it has on other machines goes.
    fn close_swap(&self) {}
    /// The text of `--stats`.
    fn stats(&self) -> String;
    /// The text of `--maps`.
    fn maps(&self) -> String;
}

//! Why a program could not be started: one sentence each, the errno `execve` would
//! give, and the exit status a shell would use.

use std::fmt;
use std::io;

use super::space::Errno;

/// What in an ELF file makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nonsense {
    /// Size or number of the program headers.
    ProgramHeaders,
    /// A segment has more bytes in the file than in memory.
    FileLargerThanMemory,
    /// A segment's address range overflows or leaves the address space.
    OutsideAddressSpace,
    /// A segment's file offset and address differ within a page.
    Misaligned,
    /// No `PT_LOAD`.
    NothingToLoad,
    /// `PT_INTERP` is empty, too long or not terminated.
    InterpreterPath,
}

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Nonsense::ProgramHeaders => "the size or number of its program headers is impossible",
            Nonsense::FileLargerThanMemory => "a segment has more bytes in the file than in memory",
            Nonsense::OutsideAddressSpace => "a segment lies outside the address space",
            Nonsense::Misaligned => "a segment's file offset and address disagree within a page",
            Nonsense::NothingToLoad => "it has no segment to load",
            Nonsense::InterpreterPath => "the path of its interpreter is malformed",
        })
    }
}

/// Why a file cannot be loaded. The path it is about is not part of it: whoever
/// reports it knows what was asked for.
#[derive(Debug)]
pub enum LoadError {
    /// It cannot be opened.
    Open(io::Error),
    /// It cannot be read.
    Read(io::Error),
    /// A directory, device, ...
    NotRegular,
    /// No execute permission, or a file system mounted `noexec`.
    NotPermitted,
    /// Set-user-ID, set-group-ID or file capabilities that would change our rights.
    Privileged,
    /// Neither ELF nor `#!`.
    NotElf,
    /// A 32-bit program.
    Class32,
    /// `e_machine`.
    WrongMachine(u16),
    /// `e_type`: an object file, a core dump.
    NotExecutableType(u16),
    /// Ends before what its headers promise.
    Truncated,
    /// The headers contradict themselves.
    Malformed(Nonsense),
    /// The first line of a script names no interpreter, or is too long.
    BadScript,
    /// Scripts that are run by scripts, too deep.
    TooManyScripts,
    /// The interpreter (of a script or of a dynamic program) cannot be loaded.
    Interpreter(Vec<u8>, Box<LoadError>),
    /// Arguments and environment are too long.
    TooLong,
    /// Mapping a segment failed.
    Map {
        /// First address.
        addr: u64,
        /// Bytes.
        len: u64,
        /// Why.
        errno: Errno,
    },
    /// Making the stack failed.
    Stack(Errno),
}

impl LoadError {
    /// What `execve` returns for it.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            LoadError::Open(error) | LoadError::Read(error) => error.raw_os_error().unwrap_or(libc::EIO),
            LoadError::NotRegular | LoadError::NotPermitted => libc::EACCES,
            LoadError::Privileged => libc::EPERM,
            LoadError::NotElf
            | LoadError::Class32
            | LoadError::WrongMachine(_)
            | LoadError::NotExecutableType(_)
            | LoadError::Truncated
            | LoadError::Malformed(_)
            | LoadError::BadScript => libc::ENOEXEC,
            LoadError::TooManyScripts => libc::ELOOP,
            LoadError::Interpreter(_, cause) => match **cause {
                LoadError::NotElf
                | LoadError::Class32
                | LoadError::WrongMachine(_)
                | LoadError::NotExecutableType(_) => libc::ELIBBAD,
                ref cause => cause.errno(),
            },
            LoadError::TooLong => libc::E2BIG,
            LoadError::Map { errno, .. } | LoadError::Stack(errno) => errno.0,
        }
    }

    /// The file (or its interpreter) does not exist: a shell exits with 127.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self.errno(), libc::ENOENT | libc::ENOTDIR)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Open(error) if error.raw_os_error() == Some(libc::ENOENT) => f.write_str("it does not exist"),
            LoadError::Open(error) => write!(f, "it cannot be opened ({error})"),
            LoadError::Read(error) => write!(f, "it cannot be read ({error})"),
            LoadError::NotRegular => f.write_str("it is not a regular file"),
            LoadError::NotPermitted => {
                f.write_str("it is not executable (see its permissions and whether its file system is mounted noexec)")
            }
            LoadError::Privileged => f.write_str(
                "it is set-user-ID, set-group-ID or has file capabilities, which machvm cannot grant; run it natively",
            ),
            LoadError::NotElf => f.write_str("it is not an ELF program and has no #! line; name its interpreter"),
            LoadError::Class32 => f.write_str("it is a 32-bit program; machvm runs 64-bit x86-64 programs only"),
            LoadError::WrongMachine(machine) => {
                write!(f, "it is built for another machine (ELF machine {machine}); machvm runs x86-64 programs only")
            }
            LoadError::NotExecutableType(kind) => write!(f, "it is an ELF file of type {kind}, not a program"),
            LoadError::Truncated => f.write_str("the file is truncated: it ends before what its ELF headers promise"),
            LoadError::Malformed(what) => write!(f, "its ELF headers are malformed: {what}"),
            LoadError::BadScript => f.write_str("its #! line names no interpreter or is too long"),
            LoadError::TooManyScripts => f.write_str("its #! interpreters are scripts nested more than 5 deep"),
            LoadError::Interpreter(path, cause) => {
                write!(f, "its interpreter {} cannot be used: {cause}", String::from_utf8_lossy(path))
            }
            LoadError::TooLong => {
                f.write_str("its arguments and environment are too long; shorten them or raise the stack limit (ulimit -s)")
            }
            LoadError::Map { addr, len, errno } => write!(
                f,
                "its {len} bytes at {addr:#x} cannot be mapped ({})",
                io::Error::from_raw_os_error(errno.0)
            ),
            LoadError::Stack(errno) => {
                write!(f, "its stack cannot be made ({})", io::Error::from_raw_os_error(errno.0))
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// Why `machvm run` ended without running the program.
#[derive(Debug)]
pub enum RunError {
    /// No such program.
    NotFound(String),
    /// The program exists and cannot be run.
    Load(String, LoadError),
    /// The machine lacks something, or a limit is in the way: a sentence that says
    /// what, and what to do.
    Host(String),
}

impl RunError {
    /// The exit status a shell (or `env`) would use.
    #[must_use]
    pub fn status(&self) -> i32 {
        match self {
            RunError::NotFound(_) => 127,
            RunError::Load(_, error) if error.is_missing() => 127,
            RunError::Load(..) => 126,
            RunError::Host(_) => 125,
        }
    }

    /// A host error for the step `what` that failed with `error`.
    #[must_use]
    pub fn host(what: &str, error: &io::Error) -> RunError {
        RunError::Host(format!("{what}: {error}"))
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::NotFound(program) => {
                write!(f, "cannot find {program}: give its path or a name that a directory in PATH holds")
            }
            RunError::Load(program, error) => write!(f, "cannot run {program}: {error}"),
            RunError::Host(sentence) => f.write_str(sentence),
        }
    }
}

impl std::error::Error for RunError {}

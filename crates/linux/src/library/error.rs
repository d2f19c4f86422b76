//! What an operation of the library can return.

use machvm::FaultError;
use machvm::map::{
    AdviseError, CopyError, CopyWhy, DeleteError, FindError, ForkError, InheritError, InsertError,
    ProtectError,
};
use machvm_hal::Va;
use machvm_pagers::WriteError;
use machvm_pagers::external::OpenError;

use crate::platform::SetupError;
use crate::pmap::PmapError;

/// Why an operation failed. Addresses are the task's.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is mapped here, or it lies outside the task (`KERN_INVALID_ADDRESS`).
    InvalidAddress(usize),
    /// Mapped, but not for this (`KERN_PROTECTION_FAILURE`).
    Protection(usize),
    /// No free range is large enough, or something is mapped here (`KERN_NO_SPACE`).
    NoSpace,
    /// Zero, not page aligned, or too large (`KERN_INVALID_ARGUMENT`).
    InvalidArgument(&'static str),
    /// No memory for the VM's own structures, or Linux allows no more mappings
    /// (`KERN_RESOURCE_SHORTAGE`; `vm.max_map_count`).
    ResourceShortage,
    /// The page could not be read back (`KERN_MEMORY_ERROR`).
    Memory(usize),
    /// Every frame is in use and nothing could be paged out.
    NoMemory(usize),
    /// This process is a child of the one that made the VM, by `fork(2)`, and the VM did not
    /// follow it ([`super::Fork`]); or the task is not the process's own and stayed behind.
    Forked,
    /// Linux refused something that the VM is built on.
    Setup(SetupError),
    /// The signal handlers, the page daemon's thread, or a pager's socket.
    Io(std::io::Error),
    /// A pager does not give the object.
    Pager(OpenError),
    /// Data of a file could not be written.
    Write(WriteError),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::InvalidAddress(a) => write!(f, "nothing is mapped at {a:#x}"),
            Error::Protection(a) => write!(f, "the protection at {a:#x} forbids it"),
            Error::NoSpace => f.write_str("no space in the task's addresses"),
            Error::InvalidArgument(what) => write!(f, "invalid argument: {what}"),
            Error::ResourceShortage => {
                f.write_str("no memory for the VM's structures, or too many mappings (vm.max_map_count)")
            }
            Error::Memory(a) => write!(f, "the page at {a:#x} cannot be read"),
            Error::NoMemory(a) => {
                write!(f, "no memory for the page at {a:#x}: all is in use and nothing can be paged out")
            }
            Error::Forked => f.write_str("this process was forked from the one that made the VM"),
            Error::Setup(e) => e.fmt(f),
            Error::Io(e) => e.fmt(f),
            Error::Pager(e) => e.fmt(f),
            Error::Write(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Setup(e) => Some(e),
            Error::Io(e) => Some(e),
            Error::Pager(e) => Some(e),
            Error::Write(e) => Some(e),
            _ => None,
        }
    }
}

fn at(va: Va) -> usize {
    va.get() as usize
}

impl From<SetupError> for Error {
    fn from(e: SetupError) -> Self {
        Error::Setup(e)
    }
}
impl From<PmapError> for Error {
    fn from(e: PmapError) -> Self {
        Error::Setup(SetupError::Pmap(e))
    }
}
impl From<FaultError> for Error {
    fn from(e: FaultError) -> Self {
        let va = at(e.va());
        match e {
            FaultError::NoMapping(_) => Error::InvalidAddress(va),
            FaultError::Protection(_) | FaultError::Foreign(_) => Error::Protection(va),
            FaultError::Beyond(_) | FaultError::PagerIo(_) | FaultError::PagerGone(_) => Error::Memory(va),
            FaultError::NoMemory(_) => Error::NoMemory(va),
        }
    }
}
impl From<InsertError> for Error {
    fn from(e: InsertError) -> Self {
        match e {
            InsertError::Outside(v) => Error::InvalidAddress(at(v)),
            InsertError::Occupied(_) | InsertError::Limit(_) => Error::NoSpace,
            InsertError::ExceedsMax(v) | InsertError::WriteExecute(v) => Error::Protection(at(v)),
            InsertError::NoMemory(_) | InsertError::Machine(_) => Error::ResourceShortage,
        }
    }
}
impl From<FindError> for Error {
    fn from(e: FindError) -> Self {
        match e {
            FindError::NoSpace => Error::NoSpace,
            FindError::BadAlignment => Error::InvalidArgument("alignment"),
            FindError::BadSize => Error::InvalidArgument("size"),
            FindError::Insert(e) => e.into(),
        }
    }
}
impl From<DeleteError> for Error {
    fn from(_: DeleteError) -> Self {
        Error::ResourceShortage
    }
}
impl From<InheritError> for Error {
    fn from(e: InheritError) -> Self {
        match e {
            InheritError::Submap(_) => Error::InvalidArgument("submap"),
            InheritError::NoMemory(_) => Error::ResourceShortage,
        }
    }
}
impl From<ForkError> for Error {
    fn from(_: ForkError) -> Self {
        Error::ResourceShortage
    }
}
impl From<AdviseError> for Error {
    fn from(e: AdviseError) -> Self {
        match e {
            AdviseError::Wired(_) => Error::InvalidArgument("wired"),
            AdviseError::NoMemory(_) => Error::ResourceShortage,
        }
    }
}
impl From<ProtectError> for Error {
    fn from(e: ProtectError) -> Self {
        match e {
            ProtectError::Hole(v) => Error::InvalidAddress(at(v)),
            ProtectError::ExceedsMax(v) | ProtectError::OutsideMax(v) | ProtectError::WriteExecute(v) => {
                Error::Protection(at(v))
            }
            ProtectError::Submap(_) => Error::InvalidArgument("submap"),
            ProtectError::NoMemory(_) | ProtectError::Machine(_) => Error::ResourceShortage,
        }
    }
}
impl From<CopyError> for Error {
    fn from(e: CopyError) -> Self {
        match e.why {
            CopyWhy::Hole => Error::InvalidAddress(at(e.at)),
            CopyWhy::Protection | CopyWhy::Foreign | CopyWhy::Wired | CopyWhy::Shared => {
                Error::Protection(at(e.at))
            }
            CopyWhy::NoMemory | CopyWhy::Machine => Error::ResourceShortage,
        }
    }
}

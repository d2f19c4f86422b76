//! Linux's error numbers, and which of them the core's errors are.

use machvm::FaultError;
use machvm::map::{AdviseError, DeleteError, FindError, InsertError, MoveError, ProtectError, WireError};

use crate::run::space::Errno;

macro_rules! errno {
    ($($name:ident)*) => {$(pub(super) const $name: Errno = Errno(libc::$name);)*};
}
errno!(EACCES EAGAIN EBADF EBUSY EEXIST EFAULT EINVAL ENOMEM ENOSYS EOPNOTSUPP EOVERFLOW EPERM);

/// From a Linux call of our own.
pub(super) fn linux<T>(result: Result<T, i32>) -> Result<T, Errno> {
    result.map_err(Errno)
}

pub(super) fn insert(e: InsertError) -> Errno {
    match e {
        InsertError::Occupied(_) => EEXIST,
        InsertError::ExceedsMax(_) | InsertError::WriteExecute(_) => EACCES,
        InsertError::Outside(_)
        | InsertError::Limit(_)
        | InsertError::NoMemory(_)
        | InsertError::Machine(_) => ENOMEM,
    }
}

pub(super) fn find(e: FindError) -> Errno {
    match e {
        FindError::Insert(e) => insert(e),
        FindError::NoSpace | FindError::BadSize => ENOMEM,
        FindError::BadAlignment => EINVAL,
    }
}

pub(super) fn delete(e: DeleteError) -> Errno {
    match e {
        DeleteError::NoMemory(_) => ENOMEM,
    }
}

pub(super) fn protect(e: ProtectError) -> Errno {
    match e {
        ProtectError::Hole(_) | ProtectError::NoMemory(_) | ProtectError::Machine(_) => ENOMEM,
        ProtectError::ExceedsMax(_) | ProtectError::OutsideMax(_) | ProtectError::WriteExecute(_) => EACCES,
        ProtectError::Submap(_) => EINVAL,
    }
}

pub(super) fn moved(e: MoveError) -> Errno {
    match e {
        MoveError::Hole(_) => EFAULT,
        MoveError::Overlap(_) => EINVAL,
        MoveError::Insert(e) => insert(e),
    }
}

pub(super) fn advise(e: AdviseError) -> Errno {
    match e {
        AdviseError::Wired(_) => EINVAL,
        AdviseError::NoMemory(_) => ENOMEM,
    }
}

/// What populating for mlock answers.
pub(super) fn wire(e: WireError) -> Errno {
    match e {
        WireError::Fault(FaultError::NoMemory(_)) => EAGAIN,
        WireError::Hole(_) | WireError::NoAccess(_) | WireError::NoMemory(_) | WireError::Fault(_) => ENOMEM,
        WireError::NotWired(_) | WireError::Submap(_) => EINVAL,
    }
}

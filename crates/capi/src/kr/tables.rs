//! Errors as codes, one table per call.

use machvm::FaultError;
use machvm::map::WireError;
use machvm::task::{
    AllocateError, AttributeError, BehaviorError, DeallocateError, Denied, MakeEntryError, MsyncError,
    PageQueryError, Personality, PhysError, PlaceError, PurgableError, ReadError, ReadListError, RegionError,
    RemapError, VmCopyError, VmInheritError, VmMapError, VmProtectError, VmWireError, WireAllError,
    WriteError,
};

use super::codes::*;
use super::{Code, mach3};
use crate::types::kern_return_t;

impl Code for FaultError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            FaultError::NoMapping(_) => KERN_INVALID_ADDRESS,
            FaultError::Protection(_) | FaultError::Foreign(_) => KERN_PROTECTION_FAILURE,
            FaultError::Beyond(_) | FaultError::PagerIo(_) => KERN_MEMORY_ERROR,
            FaultError::PagerGone(_) => KERN_MEMORY_FAILURE,
            FaultError::NoMemory(_) => KERN_RESOURCE_SHORTAGE,
        }
    }
}

impl Code for Denied {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            Denied::Hole(_) => KERN_INVALID_ADDRESS,
            Denied::Protection(_) | Denied::Foreign(_) => KERN_PROTECTION_FAILURE,
            Denied::Fault(e) => e.code(how),
            Denied::NoMemory(_) | Denied::Machine(_) => KERN_RESOURCE_SHORTAGE,
        }
    }
}

impl Code for PlaceError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            PlaceError::Outside(_) => KERN_INVALID_ADDRESS,
            PlaceError::Occupied(_) | PlaceError::NoSpace | PlaceError::BadMask(_) | PlaceError::Limit(_) => {
                KERN_NO_SPACE
            }
            PlaceError::WriteExecute(_) => KERN_PROTECTION_FAILURE,
            PlaceError::ExceedsMax(_) | PlaceError::NotSuperpage(_) => KERN_INVALID_ARGUMENT,
            // What is missing is memory to wire with, whatever the wiring said.
            PlaceError::NoMemory(_) | PlaceError::Machine(_) | PlaceError::Wire(_) => KERN_RESOURCE_SHORTAGE,
        }
    }
}

impl Code for AllocateError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            AllocateError::BadFlags(_) | AllocateError::BadSize | AllocateError::Wraps(_) => {
                KERN_INVALID_ARGUMENT
            }
            AllocateError::Place(e) => e.code(how),
        }
    }
}

impl Code for DeallocateError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            DeallocateError::BadSize | DeallocateError::Wraps(_) => KERN_INVALID_ARGUMENT,
            DeallocateError::NoMemory(_) => KERN_RESOURCE_SHORTAGE,
        }
    }
}

impl Code for VmMapError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            VmMapError::BadFlags(_)
            | VmMapError::BadProtection(_)
            | VmMapError::BadInheritance(_)
            | VmMapError::BadSize
            | VmMapError::Wraps(_)
            | VmMapError::BadOffset(_)
            | VmMapError::BeyondEntry(_) => KERN_INVALID_ARGUMENT,
            VmMapError::NotMemory => KERN_INVALID_OBJECT,
            VmMapError::EntryRight => KERN_INVALID_RIGHT,
            VmMapError::NotReadable => KERN_PROTECTION_FAILURE,
            VmMapError::NoMemory => KERN_RESOURCE_SHORTAGE,
            VmMapError::Place(e) => e.code(how),
        }
    }
}

impl Code for RemapError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            RemapError::BadFlags(_)
            | RemapError::BadProtection(_)
            | RemapError::BadInheritance(_)
            | RemapError::BadSize
            | RemapError::Wraps(_) => KERN_INVALID_ARGUMENT,
            RemapError::Source(e) => e.code(how),
            RemapError::Place(e) => e.code(how),
        }
    }
}

impl Code for MakeEntryError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            MakeEntryError::BadFlags(_)
            | MakeEntryError::BadSize
            | MakeEntryError::Wraps(_)
            | MakeEntryError::NoParent
            | MakeEntryError::ParentIsCopy
            | MakeEntryError::BeyondParent(_) => KERN_INVALID_ARGUMENT,
            MakeEntryError::ParentRight => KERN_INVALID_RIGHT,
            MakeEntryError::Protection(_) => KERN_PROTECTION_FAILURE,
            MakeEntryError::Source(e) => e.code(how),
            MakeEntryError::NoMemory => KERN_FAILURE,
        }
    }
}

impl Code for VmProtectError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            VmProtectError::BadProtection(_) | VmProtectError::Wraps(_) => KERN_INVALID_ARGUMENT,
            VmProtectError::Submap(_) => KERN_INVALID_ARGUMENT,
            VmProtectError::Hole(_) => KERN_INVALID_ADDRESS,
            VmProtectError::ExceedsMax(_) | VmProtectError::WriteExecute(_) => KERN_PROTECTION_FAILURE,
            VmProtectError::NoMemory(_) | VmProtectError::Machine(_) => KERN_RESOURCE_SHORTAGE,
            VmProtectError::Permanent(_) => KERN_NO_SPACE,
            VmProtectError::Copy(e) => e.code(how),
        }
    }
}

impl Code for VmInheritError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            VmInheritError::BadInheritance(_) | VmInheritError::Wraps(_) | VmInheritError::Submap(_) => {
                KERN_INVALID_ARGUMENT
            }
            VmInheritError::NoMemory(_) => KERN_RESOURCE_SHORTAGE,
        }
    }
}

impl Code for VmWireError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            VmWireError::BadAccess(_) | VmWireError::Wraps(_) | VmWireError::Submap(_) => {
                KERN_INVALID_ARGUMENT
            }
            VmWireError::Unprivileged(_) => KERN_NO_ACCESS,
            VmWireError::Hole(_) | VmWireError::Protection(_) if mach3(how) => KERN_NO_SPACE,
            VmWireError::Hole(_) => KERN_INVALID_ADDRESS,
            VmWireError::Protection(_) => KERN_PROTECTION_FAILURE,
            VmWireError::NoMemory(_) | VmWireError::Fault(FaultError::NoMemory(_)) => KERN_RESOURCE_SHORTAGE,
            VmWireError::TooOften(_) | VmWireError::Fault(_) => KERN_FAILURE,
        }
    }
}

impl Code for WireError {
    fn code(&self, how: &Personality) -> kern_return_t {
        VmWireError::from(*self).code(how)
    }
}

impl Code for WireAllError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            WireAllError::BadFlags(_) => KERN_INVALID_ARGUMENT,
            WireAllError::Wire(e) => e.code(how),
        }
    }
}

impl Code for PurgableError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            PurgableError::BadControl(_) | PurgableError::BadState(_) | PurgableError::NotPurgeable(_) => {
                KERN_INVALID_ARGUMENT
            }
            PurgableError::Hole(_) => KERN_INVALID_ADDRESS,
            PurgableError::Protection(_) => KERN_PROTECTION_FAILURE,
        }
    }
}

impl Code for ReadError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            ReadError::Wraps(_) => KERN_INVALID_ADDRESS,
            ReadError::TooLarge(_) => KERN_INVALID_ARGUMENT,
            ReadError::Source(e) | ReadError::Destination(e) => e.code(how),
            ReadError::Place(e) => e.code(how),
        }
    }
}

impl Code for ReadListError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            ReadListError::TooMany(_) => KERN_INVALID_ARGUMENT,
            ReadListError::Entry(_, e) => e.code(how),
        }
    }
}

impl Code for WriteError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            WriteError::Wraps(_) => KERN_INVALID_ADDRESS,
            WriteError::Unaligned(_) => KERN_INVALID_ARGUMENT,
            // The data travels in the message.
            WriteError::Data(_) => MACH_SEND_INVALID_MEMORY,
            WriteError::Destination(e) => e.code(how),
        }
    }
}

impl Code for VmCopyError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            VmCopyError::Wraps(_) => KERN_INVALID_ADDRESS,
            VmCopyError::Unaligned(_) => KERN_INVALID_ARGUMENT,
            VmCopyError::Source(e) | VmCopyError::Destination(e) => e.code(how),
        }
    }
}

impl Code for RegionError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            RegionError::None(_) if mach3(how) => KERN_NO_SPACE,
            RegionError::None(_) => KERN_INVALID_ADDRESS,
        }
    }
}

impl Code for MsyncError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            MsyncError::BadFlags(_)
            | MsyncError::Wraps(_)
            | MsyncError::NotSupported
            | MsyncError::Wired(_) => KERN_INVALID_ARGUMENT,
            MsyncError::Hole(_) => KERN_INVALID_ADDRESS,
            MsyncError::NoMemory(_) => KERN_RESOURCE_SHORTAGE,
            MsyncError::Pager(..) => KERN_FAILURE,
        }
    }
}

impl Code for BehaviorError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            BehaviorError::BadBehavior(_) | BehaviorError::Wraps(_) | BehaviorError::Wired(_) => {
                KERN_INVALID_ARGUMENT
            }
            BehaviorError::Outside(_) => KERN_NO_SPACE,
            BehaviorError::Hole(_) => KERN_INVALID_ADDRESS,
            BehaviorError::Protection(_) => KERN_PROTECTION_FAILURE,
            BehaviorError::NotReusable(_) => KERN_FAILURE,
            BehaviorError::NoMemory(_) => KERN_RESOURCE_SHORTAGE,
            BehaviorError::Denied(e) => e.code(how),
        }
    }
}

impl Code for AttributeError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            AttributeError::Wraps(_) | AttributeError::Unsupported(..) => KERN_INVALID_ARGUMENT,
            AttributeError::Outside(_) if mach3(how) => KERN_INVALID_ARGUMENT,
            AttributeError::Outside(_) => KERN_INVALID_ADDRESS,
            AttributeError::Hole(_) => KERN_FAILURE,
        }
    }
}

impl Code for PageQueryError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            PageQueryError::Wraps(_) => KERN_INVALID_ARGUMENT,
        }
    }
}

impl Code for PhysError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            PhysError::Unaligned(_) | PhysError::Wraps(_) => KERN_INVALID_ARGUMENT,
        }
    }
}

impl Code for machvm_linux::Error {
    fn code(&self, _how: &Personality) -> kern_return_t {
        use machvm_linux::Error;
        match self {
            Error::InvalidAddress(_) => KERN_INVALID_ADDRESS,
            Error::Protection(_) => KERN_PROTECTION_FAILURE,
            Error::NoSpace => KERN_NO_SPACE,
            Error::InvalidArgument(_) => KERN_INVALID_ARGUMENT,
            Error::Memory(_) => KERN_MEMORY_ERROR,
            Error::ResourceShortage | Error::NoMemory(_) | Error::Setup(_) | Error::Io(_) => {
                KERN_RESOURCE_SHORTAGE
            }
            // A child that could not follow, and what was not known when this was written.
            _ => KERN_FAILURE,
        }
    }
}

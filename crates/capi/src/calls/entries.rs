//! Memory entries: `mach_make_memory_entry`, `mach_memory_object_memory_entry` (U09, U10).

use std::sync::Arc;

use machvm::task::{Made, MakeEntryError, MakeFlags, MemoryEntry};
use machvm_hal::{PAGE_MASK, PAGE_SIZE, Prot};
use machvm_linux::library::Hosted;

use super::host::host_of;
use super::{code, destination, give, here, in_body};
use crate::kr::{self, Code};
use crate::outside;
use crate::ports::{self, EntryPort, Right};
use crate::types::{
    boolean_t, kern_return_t, mach_port_t, memory_object_offset_t, memory_object_size_t, vm_address_t,
    vm_prot_t, vm_size_t,
};
use crate::world::world;

/// A port for an entry.
fn name(entry: MemoryEntry<'static, Hosted>) -> mach_port_t {
    world().ports().add(Right::Entry(EntryPort::new(entry)))
}

/// Does the call look at a task's memory?
fn is_of_a_range(permission: u32, parent: bool) -> bool {
    let flags = MakeFlags::from_bits_truncate(permission);
    let of_range = MakeFlags::VM_COPY | MakeFlags::VM_SHARE | MakeFlags::NAMED_REUSE;
    !flags.intersects(MakeFlags::ONLY | MakeFlags::NAMED_CREATE) && (flags.intersects(of_range) || !parent)
}

/// The name of an entry, and how much it covers: `None` where the call does not say.
type Handle = (mach_port_t, Option<memory_object_size_t>);

fn make(
    target: mach_port_t,
    size: memory_object_size_t,
    offset: memory_object_offset_t,
    permission: vm_prot_t,
    parent: mach_port_t,
) -> Result<Handle, kern_return_t> {
    let target = destination(target)?;
    // A port that is no entry is no parent.
    let parent_entry = match in_body(parent)? {
        Some(Right::Entry(entry)) => Some(entry),
        _ => None,
    };
    let permission = permission.cast_unsigned();
    let (world, how) = here();
    let task = match target {
        Right::Task(task) => task,
        // New memory and parts of an entry are no task's: any port will do.
        _ if !is_of_a_range(permission, parent_entry.is_some()) => Arc::clone(world.own()),
        _ => return Err(kr::KERN_INVALID_TASK),
    };
    let of = |offset| -> Result<Result<Made<'_, _>, _>, kern_return_t> {
        let mut inside = world.inside().ok_or(kr::KERN_FAILURE)?;
        let parent = parent_entry.as_ref().map(|e| e.get());
        Ok(task.mach(how).mach_make_memory_entry(size, offset, permission, parent, inside.may()))
    };
    let made = match of(offset)? {
        // The numbers are good and the VM does not have the memory: Linux may.
        Err(MakeEntryError::Source(_)) if outside::touches(&task, offset, size) => {
            let copy = permission & MakeFlags::VM_COPY.bits() != 0;
            let source = outside::source(offset, size, copy)?;
            of(source.start() + (offset & PAGE_MASK))?
        }
        made => made,
    };
    let made = made.map_err(|e| e.code(how))?;
    Ok(match made {
        Made::Entry(entry, size) => (name(entry), Some(size)),
        Made::Null => (ports::NULL, Some(0)),
        // Nothing was made: the parent's cache mode was changed.
        Made::Parent if permission & MakeFlags::ONLY.bits() != 0 => (ports::NULL, None),
        Made::Parent => {
            world.ports().retain(parent);
            (parent, parent_entry.map(|e| e.get().size()))
        }
    })
}

/// Makes a right to memory of `target`, of a part of another entry, or to new memory;
/// `size` is what is wanted and gets what the entry covers (U09). Of memory outside the
/// window of this process's task there are copies, and shares of what nobody can write
/// (`KERN_NOT_SUPPORTED` else).
///
/// # Safety
/// 1. `size` is null or good for reading and writing one size, `handle` null or good for
///    writing one name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_make_memory_entry_64(
    target: mach_port_t,
    size: *mut memory_object_size_t,
    offset: memory_object_offset_t,
    permission: vm_prot_t,
    handle: *mut mach_port_t,
    parent: mach_port_t,
) -> kern_return_t {
    if size.is_null() || handle.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let made = make(target, unsafe { size.read() }, offset, permission, parent);
    // SAFETY: 1.
    code(made.map(|(name, covers)| unsafe {
        if let Some(covers) = covers {
            size.write(covers);
        }
        handle.write(name);
    }))
}

/// As [`mach_make_memory_entry_64`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_make_memory_entry(
    target: mach_port_t,
    size: *mut vm_size_t,
    offset: vm_address_t,
    permission: vm_prot_t,
    handle: *mut mach_port_t,
    parent: mach_port_t,
) -> kern_return_t {
    // SAFETY: 1; the types are equally wide.
    unsafe { mach_make_memory_entry_64(target, size.cast(), offset as u64, permission, handle, parent) }
}

/// Makes a right to the data of a memory object (U10). This library has no memory objects
/// but its own, so without `internal` there is none that `pager` could be.
///
/// # Safety
/// 1. `handle` is null or good for writing one name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_memory_object_memory_entry_64(
    host: mach_port_t,
    internal: boolean_t,
    size: memory_object_size_t,
    permission: vm_prot_t,
    pager: mach_port_t,
    handle: *mut mach_port_t,
) -> kern_return_t {
    let made = || {
        if handle.is_null() {
            return Err(kr::KERN_INVALID_ARGUMENT);
        }
        host_of(host)?;
        in_body(pager)?;
        let rights = u8::try_from(permission).ok().and_then(Prot::from_bits);
        let rights = rights.ok_or(kr::KERN_INVALID_ARGUMENT)?;
        let whole = size.checked_next_multiple_of(PAGE_SIZE).filter(|n| *n != 0);
        if internal == 0 || whole.is_none() {
            return Err(kr::KERN_INVALID_ARGUMENT);
        }
        let world = world();
        let mut inside = world.inside().ok_or(kr::KERN_FAILURE)?;
        // SAFETY: the entry is kept in `World`, which is never dropped.
        let vm = unsafe { world.vm().core() };
        let entry = MemoryEntry::internal(vm, size, rights, inside.may());
        drop(inside);
        entry.map(name).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)
    };
    // SAFETY: looked at there, and 1.
    unsafe { give(handle, made()) }
}

/// As [`mach_memory_object_memory_entry_64`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_memory_object_memory_entry(
    host: mach_port_t,
    internal: boolean_t,
    size: vm_size_t,
    permission: vm_prot_t,
    pager: mach_port_t,
    handle: *mut mach_port_t,
) -> kern_return_t {
    // SAFETY: 1.
    unsafe { mach_memory_object_memory_entry_64(host, internal, size as u64, permission, pager, handle) }
}

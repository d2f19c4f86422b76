//! `vm_remap`, `vm_remap_new` (U07, U08).

use machvm::task::{RawFlags, RawInherit, RawProt, RemapError, Remapped, VmFlags};
use machvm_hal::{PAGE_MASK, Prot, RawAddr, RawSize};

use super::{code, here, task_in_body, task_of};
use crate::kr::{self, Code};
use crate::outside;
use crate::ports::TaskPort;
use crate::types::{
    boolean_t, kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_inherit_t,
    vm_prot_t, vm_size_t,
};

/// What both calls take, as numbers.
struct Wanted {
    target: mach_port_t,
    address: RawAddr,
    size: mach_vm_size_t,
    mask: mach_vm_address_t,
    flags: RawFlags,
    source: mach_port_t,
    source_address: RawAddr,
    copy: bool,
    inherit: RawInherit,
    /// `vm_remap_new`: protection and maximum that are wanted.
    rights: Option<(RawProt, RawProt)>,
}

impl Wanted {
    fn call(&self) -> Result<Remapped, kern_return_t> {
        let to = task_of(self.target)?;
        let from = task_in_body(self.source, kr::KERN_INVALID_ARGUMENT)?;
        let how = here().1;
        let at = self.source_address;
        match self.of(&to, &from, at)? {
            // The numbers are good and the VM does not have the source: Linux may.
            Err(RemapError::Source(_)) if outside::touches(&from, at.0, self.size) => {
                let source = outside::source(at.0, self.size, self.copy)?;
                let start = RawAddr(source.start() + (at.0 & PAGE_MASK));
                self.of(&to, &from, start)?.map_err(|e| e.code(how))
            }
            done => done.map_err(|e| e.code(how)),
        }
    }

    fn of(
        &self,
        to: &TaskPort,
        from: &TaskPort,
        at: RawAddr,
    ) -> Result<Result<Remapped, RemapError>, kern_return_t> {
        let (world, how) = here();
        let mut inside = world.inside().ok_or(kr::KERN_FAILURE)?;
        let (to, from, may) = (to.mach(how), from.mach(how), inside.may());
        let (size, mask, flags) = (RawSize(self.size), self.mask, self.flags);
        let addr = outside::hint(self.address, flags);
        let (copy, inherit) = (self.copy, self.inherit);
        Ok(match self.rights {
            None => to.vm_remap(addr, size, mask, flags, &from, at, copy, inherit, may),
            Some(r) => to.vm_remap_new(addr, size, mask, flags, &from, at, copy, r, inherit, may),
        })
    }
}

/// A protection as C has it.
fn number(prot: Prot) -> vm_prot_t {
    vm_prot_t::from(prot.bits())
}

/// Where the results go.
///
/// # Safety
/// 1. All three are good for writing.
unsafe fn give(
    result: Result<Remapped, kern_return_t>,
    address: *mut mach_vm_address_t,
    protection: *mut vm_prot_t,
    max_protection: *mut vm_prot_t,
) -> kern_return_t {
    // SAFETY: 1.
    code(result.map(|done| unsafe {
        address.write(done.address);
        protection.write(number(done.prot));
        max_protection.write(number(done.max));
    }))
}

/// Maps memory of `source` in `target`, the same memory or a copy of it, and tells what
/// may be done with all of it (U07). Memory outside the window of this process's task can be
/// copied; shared, where nobody can write it (`KERN_NOT_SUPPORTED` else).
///
/// # Safety
/// 1. `address` is null or good for reading and writing one address.
/// 2. `protection` and `max_protection` are null or good for writing one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_remap(
    target: mach_port_t,
    address: *mut mach_vm_address_t,
    size: mach_vm_size_t,
    mask: mach_vm_address_t,
    flags: i32,
    source: mach_port_t,
    source_address: mach_vm_address_t,
    copy: boolean_t,
    protection: *mut vm_prot_t,
    max_protection: *mut vm_prot_t,
    inheritance: vm_inherit_t,
) -> kern_return_t {
    if address.is_null() || protection.is_null() || max_protection.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    let wanted = Wanted {
        target,
        // SAFETY: 1.
        address: RawAddr(unsafe { address.read() }),
        size,
        mask,
        flags: RawFlags(flags.cast_unsigned()),
        source,
        source_address: RawAddr(source_address),
        copy: copy != 0,
        inherit: RawInherit(inheritance),
        rights: None,
    };
    // SAFETY: 1 and 2.
    unsafe { give(wanted.call(), address, protection, max_protection) }
}

/// As [`mach_vm_remap`], with the protection and the maximum that the caller wants, which
/// the memory must allow. The address is always that of the first byte, where the
/// personality has a flag for that (U08).
///
/// # Safety
/// 1. `address`, `protection` and `max_protection` are null or good for reading and writing
///    one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_remap_new(
    target: mach_port_t,
    address: *mut mach_vm_address_t,
    size: mach_vm_size_t,
    mask: mach_vm_address_t,
    flags: i32,
    source: mach_port_t,
    source_address: mach_vm_address_t,
    copy: boolean_t,
    protection: *mut vm_prot_t,
    max_protection: *mut vm_prot_t,
    inheritance: vm_inherit_t,
) -> kern_return_t {
    if address.is_null() || protection.is_null() || max_protection.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    let data = here().1.remap_flags & VmFlags::RETURN_DATA_ADDR;
    // SAFETY: 1.
    let rights = unsafe { (protection.read(), max_protection.read()) };
    let wanted = Wanted {
        target,
        // SAFETY: 1.
        address: RawAddr(unsafe { address.read() }),
        size,
        mask,
        flags: RawFlags(flags.cast_unsigned() | data.bits()),
        source,
        source_address: RawAddr(source_address),
        copy: copy != 0,
        inherit: RawInherit(inheritance),
        rights: Some((RawProt(rights.0.cast_unsigned()), RawProt(rights.1.cast_unsigned()))),
    };
    // SAFETY: 1.
    unsafe { give(wanted.call(), address, protection, max_protection) }
}

/// As [`mach_vm_remap`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_remap(
    target: mach_port_t,
    address: *mut vm_address_t,
    size: vm_size_t,
    mask: vm_address_t,
    flags: i32,
    source: mach_port_t,
    source_address: vm_address_t,
    copy: boolean_t,
    protection: *mut vm_prot_t,
    max_protection: *mut vm_prot_t,
    inheritance: vm_inherit_t,
) -> kern_return_t {
    let (address, size, mask, at) = (address.cast(), size as u64, mask as u64, source_address as u64);
    let (prot, max, inherit) = (protection, max_protection, inheritance);
    // SAFETY: 1; the types are equally wide.
    unsafe { mach_vm_remap(target, address, size, mask, flags, source, at, copy, prot, max, inherit) }
}

/// As [`mach_vm_remap_new`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_remap_new(
    target: mach_port_t,
    address: *mut vm_address_t,
    size: vm_size_t,
    mask: vm_address_t,
    flags: i32,
    source: mach_port_t,
    source_address: vm_address_t,
    copy: boolean_t,
    protection: *mut vm_prot_t,
    max_protection: *mut vm_prot_t,
    inheritance: vm_inherit_t,
) -> kern_return_t {
    let (address, size, mask, at) = (address.cast(), size as u64, mask as u64, source_address as u64);
    let (prot, max, inherit) = (protection, max_protection, inheritance);
    // SAFETY: 1; the types are equally wide.
    unsafe { mach_vm_remap_new(target, address, size, mask, flags, source, at, copy, prot, max, inherit) }
}

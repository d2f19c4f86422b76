//! C's types, with XNU's widths.
#![allow(non_camel_case_types)]

/// `kern_return_t`.
pub type kern_return_t = i32;
/// `mach_port_t` and its kin: a name of this process.
pub type mach_port_t = u32;
/// `natural_t`.
pub type natural_t = u32;
/// `boolean_t`.
pub type boolean_t = u32;
/// `mach_vm_address_t`, `mach_vm_offset_t`.
pub type mach_vm_address_t = u64;
/// `mach_vm_size_t`.
pub type mach_vm_size_t = u64;
/// `vm_address_t`, `vm_offset_t`: as wide as a pointer.
pub type vm_address_t = usize;
/// `vm_size_t`.
pub type vm_size_t = usize;
/// `memory_object_offset_t`.
pub type memory_object_offset_t = u64;
/// `vm_prot_t`.
pub type vm_prot_t = i32;
/// `vm_inherit_t`.
pub type vm_inherit_t = u32;
/// `vm_behavior_t`.
pub type vm_behavior_t = i32;
/// `vm_sync_t`.
pub type vm_sync_t = u32;
/// `vm_purgable_t`.
pub type vm_purgable_t = i32;
/// `mach_msg_type_number_t`.
pub type mach_msg_type_number_t = natural_t;
/// `vm_wire_t`.
pub type vm_wire_t = i32;
/// `memory_object_size_t`.
pub type memory_object_size_t = u64;
/// `mach_port_right_t`.
pub type mach_port_right_t = natural_t;
/// `mach_port_type_t`: a bit for each right.
pub type mach_port_type_t = natural_t;
/// `mach_port_urefs_t`.
pub type mach_port_urefs_t = natural_t;
/// `mach_port_delta_t`.
pub type mach_port_delta_t = i32;

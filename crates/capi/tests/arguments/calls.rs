//! The calls, with the arguments of a call that succeeds.

/// What an argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Task,
    Entry,
    Host,
    Privileged,
    /// The name of a port of the caller's.
    Name,
    Address,
    Size,
    /// An address that is given and taken.
    Place,
    /// A size that is given and taken.
    Length,
    Flags,
    MakeFlags,
    Prot,
    Inherit,
    Bool,
    Mask,
    Offset,
    Sync,
    Behavior,
    Attribute,
    Purge,
    Flavor,
    /// A number that is given and taken.
    Word,
    /// How much room there is, in words.
    Room,
    /// Only taken.
    Out,
    /// Memory of the caller's, which the library writes itself.
    Buffer,
    /// The address of a variable that points to memory of the caller's.
    Array,
    /// Memory of the caller's, as an address in a message.
    Data,
    /// Memory of the caller's that is filled in part only.
    Count,
}

/// A function of the C library, whatever its type.
pub(crate) type Function = unsafe extern "C" fn();

pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) function: Function,
    pub(crate) args: &'static [(&'static str, Kind, u64)],
}

macro_rules! calls {
    ($($name:ident($($arg:ident: $kind:ident = $good:expr),* $(,)?);)*) => {
        unsafe extern "C" { $(fn $name();)* }
        /// See the module text.
        pub(crate) static CALLS: &[Call] = &[$(
            Call { name: stringify!($name), function: $name, args: &[$((stringify!($arg), Kind::$kind, $good)),*] },
        )*];
    };
}

use crate::scene::{BASE, CHILD, ENTRY, FREE, P};

const COPY_TO: u64 = BASE + 2 * P;

calls! {
    mach_vm_allocate(task: Task = CHILD, at: Place = 0, size: Size = P, flags: Flags = 1);
    vm_allocate(task: Task = CHILD, at: Place = 0, size: Size = P, flags: Flags = 1);
    mach_vm_deallocate(task: Task = CHILD, at: Address = BASE, size: Size = P);
    vm_deallocate(task: Task = CHILD, at: Address = BASE, size: Size = P);
    mach_vm_protect(task: Task = CHILD, at: Address = BASE, size: Size = P, max: Bool = 0, prot: Prot = 1);
    vm_protect(task: Task = CHILD, at: Address = BASE, size: Size = P, max: Bool = 1, prot: Prot = 1);
    mach_vm_inherit(task: Task = CHILD, at: Address = BASE, size: Size = P, inherit: Inherit = 0);
    vm_inherit(task: Task = CHILD, at: Address = BASE, size: Size = P, inherit: Inherit = 0);
    mach_vm_read(task: Task = CHILD, at: Address = BASE, size: Size = P, data: Out = 0, count: Out = 0);
    vm_read(task: Task = CHILD, at: Address = BASE, size: Size = 3 * P, data: Out = 0, count: Out = 0);
    mach_vm_read_list(task: Task = CHILD, list: Buffer = 0, count: Count = 0);
    vm_read_list(task: Task = CHILD, list: Buffer = 0, count: Count = 0);
    mach_vm_write(task: Task = CHILD, at: Address = BASE, data: Data = 0, count: Size = P);
    vm_write(task: Task = CHILD, at: Address = BASE, data: Data = 0, count: Size = 2 * P);
    mach_vm_copy(task: Task = CHILD, from: Address = BASE, size: Size = 2 * P, to: Address = COPY_TO);
    vm_copy(task: Task = CHILD, from: Address = BASE, size: Size = P, to: Address = COPY_TO);
    mach_vm_read_overwrite(task: Task = CHILD, at: Address = BASE, size: Size = P, data: Data = 0, got: Out = 0);
    vm_read_overwrite(task: Task = CHILD, at: Address = BASE, size: Size = 2 * P, data: Data = 0, got: Out = 0);
    mach_vm_msync(task: Task = CHILD, at: Address = BASE, size: Size = P, flags: Sync = 2);
    vm_msync(task: Task = CHILD, at: Address = BASE, size: Size = P, flags: Sync = 1);
    mach_vm_behavior_set(task: Task = CHILD, at: Address = BASE, size: Size = P, behavior: Behavior = 1);
    vm_behavior_set(task: Task = CHILD, at: Address = BASE, size: Size = P, behavior: Behavior = 5);
    mach_vm_map(task: Task = CHILD, at: Place = 0, size: Size = P, mask: Mask = 0, flags: Flags = 1, object: Entry = ENTRY,
        offset: Offset = 0, copy: Bool = 0, prot: Prot = 3, max: Prot = 3, inherit: Inherit = 1);
    vm_map(task: Task = CHILD, at: Place = 0, size: Size = P, mask: Mask = 0, flags: Flags = 1, object: Entry = 0,
        offset: Offset = 0, copy: Bool = 0, prot: Prot = 3, max: Prot = 7, inherit: Inherit = 1);
    vm_map_64(task: Task = CHILD, at: Place = FREE, size: Size = P, mask: Mask = 0, flags: Flags = 0, object: Entry = ENTRY,
        offset: Offset = 0, copy: Bool = 1, prot: Prot = 1, max: Prot = 3, inherit: Inherit = 1);
    mach_vm_machine_attribute(task: Task = CHILD, at: Address = BASE, size: Size = P, attribute: Attribute = 1, value: Word = 6);
    vm_machine_attribute(task: Task = CHILD, at: Address = BASE, size: Size = P, attribute: Attribute = 1, value: Word = 6);
    mach_vm_remap(task: Task = CHILD, at: Place = 0, size: Size = P, mask: Mask = 0, flags: Flags = 1, source: Task = CHILD,
        from: Address = BASE, copy: Bool = 0, prot: Out = 0, max: Out = 0, inherit: Inherit = 1);
    vm_remap(task: Task = CHILD, at: Place = FREE, size: Size = P, mask: Mask = 0, flags: Flags = 0, source: Task = CHILD,
        from: Address = BASE, copy: Bool = 1, prot: Out = 0, max: Out = 0, inherit: Inherit = 1);
    mach_vm_remap_new(task: Task = CHILD, at: Place = 0, size: Size = P, mask: Mask = 0, flags: Flags = 1, source: Task = CHILD,
        from: Address = BASE, copy: Bool = 0, prot: Word = 1, max: Word = 3, inherit: Inherit = 1);
    vm_remap_new(task: Task = CHILD, at: Place = 0, size: Size = P, mask: Mask = 0, flags: Flags = 1, source: Task = CHILD,
        from: Address = BASE, copy: Bool = 0, prot: Word = 3, max: Word = 7, inherit: Inherit = 1);
    mach_vm_purgable_control(task: Task = CHILD, at: Address = BASE + 11 * P, control: Purge = 0, state: Word = 1);
    vm_purgable_control(task: Task = CHILD, at: Address = BASE + 11 * P, control: Purge = 1, state: Word = 0);
    mach_vm_region(task: Task = CHILD, at: Place = BASE, size: Out = 0, flavor: Flavor = 9, info: Buffer = 0, count: Room = 9, name: Out = 0);
    vm_region(task: Task = CHILD, at: Place = BASE, size: Out = 0, flavor: Flavor = 10, info: Buffer = 0, count: Room = 8, name: Out = 0);
    vm_region_64(task: Task = CHILD, at: Place = BASE, size: Out = 0, flavor: Flavor = 13, info: Buffer = 0, count: Room = 11, name: Out = 0);
    mach_vm_region_recurse(task: Task = CHILD, at: Place = BASE, size: Out = 0, depth: Word = 9, info: Buffer = 0, count: Room = 19);
    vm_region_recurse(task: Task = CHILD, at: Place = BASE, size: Out = 0, depth: Word = 0, info: Buffer = 0, count: Room = 19);
    vm_region_recurse_64(task: Task = CHILD, at: Place = BASE, size: Out = 0, depth: Word = 0, info: Buffer = 0, count: Room = 19);
    mach_vm_page_query(task: Task = CHILD, at: Address = BASE, disposition: Out = 0, refs: Out = 0);
    vm_map_page_query(task: Task = CHILD, at: Address = BASE, disposition: Out = 0, refs: Out = 0);
    mach_vm_page_info(task: Task = CHILD, at: Address = BASE, flavor: Flavor = 1, info: Buffer = 0, count: Room = 8);
    mach_vm_page_range_query(task: Task = CHILD, at: Address = BASE, size: Size = P, dispositions: Data = 0, count: Length = 1);
    mach_vm_wire(host: Privileged = 0x403, task: Task = CHILD, at: Address = BASE, size: Size = P, prot: Prot = 1);
    vm_wire(host: Privileged = 0x403, task: Task = CHILD, at: Address = BASE + 8 * P, size: Size = P, prot: Prot = 0);
    vm_wire_all(host: Privileged = 0x403, task: Task = CHILD, flags: Sync = 2);
    vm_pages_phys(host: Host = 0x403, task: Task = CHILD, at: Address = BASE, size: Size = P, pages: Array = 0, count: Room = 9);
    mach_make_memory_entry(task: Task = CHILD, size: Length = P, at: Address = BASE, prot: MakeFlags = 3, made: Out = 0, parent: Entry = 0);
    mach_make_memory_entry_64(task: Task = CHILD, size: Length = P, at: Address = BASE, prot: MakeFlags = 3, made: Out = 0, parent: Entry = 0);
    mach_memory_object_memory_entry(host: Host = 0x303, internal: Bool = 1, size: Size = P, prot: Prot = 3, pager: Entry = 0, made: Out = 0);
    mach_memory_object_memory_entry_64(host: Host = 0x303, internal: Bool = 1, size: Size = P, prot: Prot = 3, pager: Entry = 0, made: Out = 0);
    mach_memory_entry_purgable_control(entry: Entry = ENTRY, control: Purge = 1, state: Word = 0);
    vm_statistics(task: Task = CHILD, to: Buffer = 0);
    vm_cache_statistics(task: Task = CHILD, to: Buffer = 0);
    task_info(task: Task = CHILD, flavor: Flavor = 22, to: Buffer = 0, count: Room = 90);
    host_info(host: Host = 0x303, flavor: Flavor = 1, to: Buffer = 0, count: Room = 12);
    host_statistics(host: Host = 0x303, flavor: Flavor = 2, to: Buffer = 0, count: Room = 15);
    host_statistics64(host: Host = 0x303, flavor: Flavor = 4, to: Buffer = 0, count: Room = 38);
    host_page_size(host: Host = 0x303, size: Out = 0);
    host_get_special_port(host: Host = 0x303, node: Prot = 0, which: Flavor = 2, port: Out = 0);
    task_create(task: Task = CHILD, ledgers: Mask = 0, count: Mask = 0, inherit: Bool = 1, child: Out = 0);
    task_terminate(task: Task = CHILD);
    task_for_pid(task: Name = 0x203, pid: Offset = 0, port: Out = 0);
    pid_for_task(task: Task = 0x203, pid: Out = 0);
    mach_port_type(task: Name = 0x203, name: Name = 0x203, kind: Out = 0);
    mach_port_get_refs(task: Name = 0x203, name: Name = 0x203, right: Purge = 0, refs: Out = 0);
    mach_port_mod_refs(task: Name = 0x203, name: Name = 0x203, right: Purge = 0, delta: Bool = 1);
    mach_port_deallocate(task: Name = 0x203, name: Name = 0x303);
    mach_port_destroy(task: Name = 0x203, name: Name = 0x303);
}

/// What is not called, and why.
pub(crate) const EXEMPT: &[(&str, &str)] = &[
    ("mach_task_self", "takes nothing"),
    ("task_self_trap", "takes nothing"),
    ("host_self_trap", "takes nothing"),
    ("mach_host_self", "takes nothing, gives a reference"),
    ("mach_error", "prints"),
    ("mach_error_string", "tests/c/mach_error.c: every code"),
    ("mach_error_type", "tests/c/mach_error.c: every code"),
    ("mach_timebase_info", "no code of the VM: tests/c/mach_time.c"),
    ("mach_absolute_time", "takes nothing"),
    ("mach_approximate_time", "takes nothing"),
    ("mach_continuous_time", "takes nothing"),
    ("mach_continuous_approximate_time", "takes nothing"),
    ("sigaction", "Linux's call: tests/c/faults.c"),
    ("signal", "Linux's call: tests/c/faults.c"),
    ("__sysv_signal", "Linux's call: tests/c/faults.c"),
];

//! The headers and the Rust side agree: every structure's size, fields and widths, every
//! constant that both know, and the widths of all types. A C file of static assertions is
//! generated and compiled against the installed headers.

mod stage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use machvm::task::{Disposition, MakeFlags, PurgableState, SyncFlags, VmFlags, WireAllFlags};
use machvm_capi::{calls, info, totals, types};

/// Asserts a structure's size, and each field's offset and width. Names all fields: one
/// that is missing here does not compile.
macro_rules! layout {
    ($c:expr, $t:path, $name:literal, { $($field:ident),* $(,)? }) => {{
        fn complete(whole: $t) {
            let $t { $($field: _),* } = whole;
        }
        let _ = complete;
        let c: &mut String = $c;
        is(c, concat!("sizeof(", $name, ")"), size_of::<$t>());
        $(
            let at = std::mem::offset_of!($t, $field);
            field(c, $name, stringify!($field), at, width_of(|t: &$t| &raw const t.$field));
        )*
    }};
}

/// Asserts the widths and the signs of types.
macro_rules! widths {
    ($c:expr, $($name:ident),* $(,)?) => {
        $(
            is($c, concat!("sizeof(", stringify!($name), ")"), size_of::<types::$name>());
            let signed = types::$name::MIN != 0;
            is($c, concat!("((", stringify!($name), ") -1 < 0)"), usize::from(signed));
        )*
    };
}

fn width_of<T, F>(_: impl Fn(&T) -> *const F) -> usize {
    size_of::<F>()
}

fn field(c: &mut String, of: &str, name: &str, at: usize, width: usize) {
    if name == "ledgers" {
        // An array of ours, twenty members of the header's.
        let (first, next) = ("ledger_purgeable_nonvolatile", "limit_bytes_remaining");
        is(c, &format!("offsetof({of}, {first})"), at);
        return is(c, &format!("offsetof({of}, {next}) - offsetof({of}, {first})"), width);
    }
    is(c, &format!("offsetof({of}, {name})"), at);
    is(c, &format!("sizeof((({of} *) 0)->{name})"), width);
}

fn is(c: &mut String, what: &str, value: usize) {
    writeln!(c, "_Static_assert({what} == {value}, \"{what} is not {value}\");").unwrap();
}

/// Compiles the assertions.
fn compile(name: &str, assertions: &str) {
    let prefix = stage::prefix();
    let mut c = String::new();
    for header in ["mach.h", "mach_vm.h", "mach_time.h", "vm_wire.h", "vm_cache_statistics.h"] {
        writeln!(c, "#include <mach/{header}>").unwrap();
    }
    c.push_str("#include <stddef.h>\n");
    c.push_str(assertions);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.c"));
    fs::write(&file, c).unwrap();
    let out = Command::new("gcc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-type-limits", "-fsyntax-only", "-I"])
        .arg(prefix.join("include"))
        .arg(&file)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn structures() {
    let c = &mut String::new();
    layout!(c, info::vm_region_basic_info_64, "struct vm_region_basic_info_64", {
        protection, max_protection, inheritance, shared, reserved, offset, behavior, user_wired_count
    });
    layout!(c, info::vm_region_basic_info, "struct vm_region_basic_info", {
        protection, max_protection, inheritance, shared, reserved, offset, behavior, user_wired_count
    });
    layout!(c, info::vm_region_extended_info, "struct vm_region_extended_info", {
        protection, user_tag, pages_resident, pages_shared_now_private, pages_swapped_out,
        pages_dirtied, ref_count, shadow_depth, external_pager, share_mode, pages_reusable
    });
    layout!(c, info::vm_region_top_info, "struct vm_region_top_info", {
        obj_id, ref_count, private_pages_resident, shared_pages_resident, share_mode
    });
    layout!(c, info::vm_region_submap_info, "struct vm_region_submap_info", {
        protection, max_protection, inheritance, offset, user_tag, pages_resident,
        pages_shared_now_private, pages_swapped_out, pages_dirtied, ref_count, shadow_depth,
        external_pager, share_mode, is_submap, behavior, object_id, user_wired_count
    });
    layout!(c, info::vm_region_submap_info_64, "struct vm_region_submap_info_64", {
        protection, max_protection, inheritance, offset, user_tag, pages_resident,
        pages_shared_now_private, pages_swapped_out, pages_dirtied, ref_count, shadow_depth,
        external_pager, share_mode, is_submap, behavior, object_id, user_wired_count, pages_reusable,
        object_id_full
    });
    layout!(c, info::vm_region_submap_short_info_64, "struct vm_region_submap_short_info_64", {
        protection, max_protection, inheritance, offset, user_tag, ref_count, shadow_depth,
        external_pager, share_mode, is_submap, behavior, object_id, user_wired_count
    });
    layout!(c, info::vm_page_info_basic, "struct vm_page_info_basic", {
        disposition, ref_count, object_id, offset, depth, __pad
    });
    layout!(c, calls::read::mach_vm_read_entry, "struct mach_vm_read_entry", { address, size });
    layout!(c, calls::task_info::time_value, "struct time_value", { seconds, microseconds });
    layout!(c, calls::task_info::task_basic_info_32, "struct task_basic_info_32", {
        suspend_count, virtual_size, resident_size, user_time, system_time, policy
    });
    layout!(c, calls::task_info::task_basic_info_64, "struct task_basic_info_64", {
        suspend_count, virtual_size, resident_size, user_time, system_time, policy
    });
    layout!(c, calls::task_info::mach_task_basic_info, "struct mach_task_basic_info", {
        virtual_size, resident_size, resident_size_max, user_time, system_time, policy, suspend_count
    });
    layout!(c, calls::task_info::task_vm_info, "struct task_vm_info", {
        virtual_size, region_count, page_size, resident_size, resident_size_peak, device, device_peak,
        internal, internal_peak, external, external_peak, reusable, reusable_peak,
        purgeable_volatile_pmap, purgeable_volatile_resident, purgeable_volatile_virtual, compressed,
        compressed_peak, compressed_lifetime, phys_footprint, min_address, max_address,
        ledger_phys_footprint_peak, ledgers, limit_bytes_remaining, decompressions, ledger_swapins
    });
    layout!(c, calls::time::TimebaseInfo, "struct mach_timebase_info", { numer, denom });
    layout!(c, totals::vm_statistics, "struct vm_statistics", {
        free_count, active_count, inactive_count, wire_count, zero_fill_count, reactivations, pageins,
        pageouts, faults, cow_faults, lookups, hits, purgeable_count, purges, speculative_count
    });
    layout!(c, totals::vm_statistics64, "struct vm_statistics64", {
        free_count, active_count, inactive_count, wire_count, zero_fill_count, reactivations, pageins,
        pageouts, faults, cow_faults, lookups, hits, purges, purgeable_count, speculative_count,
        decompressions, compressions, swapins, swapouts, compressor_page_count, throttled_count,
        external_page_count, internal_page_count, total_uncompressed_pages_in_compressor
    });
    layout!(c, totals::vm_cache_statistics, "struct vm_cache_statistics", {
        cache_object_count, cache_count, active_tmp_count, inactive_tmp_count, active_perm_count,
        inactive_perm_count, dirty_count, laundry_count, writeback_count, slab_count, slab_reclaim_count
    });
    layout!(c, totals::host_basic_info, "struct host_basic_info", {
        max_cpus, avail_cpus, memory_size, cpu_type, cpu_subtype, cpu_threadtype, physical_cpu,
        physical_cpu_max, logical_cpu, logical_cpu_max, max_mem
    });
    compile("structures", c);
}

#[test]
fn types_are_as_wide() {
    let c = &mut String::new();
    widths!(
        c,
        kern_return_t,
        mach_port_t,
        natural_t,
        boolean_t,
        mach_vm_address_t,
        mach_vm_size_t,
        vm_address_t,
        vm_size_t,
        memory_object_offset_t,
        vm_prot_t,
        vm_inherit_t,
        vm_behavior_t,
        vm_sync_t,
        vm_purgable_t,
        mach_msg_type_number_t,
        vm_wire_t,
        memory_object_size_t,
        mach_port_right_t,
        mach_port_type_t,
        mach_port_urefs_t,
        mach_port_delta_t,
    );
    // Types that are the same in C must not differ by a qualifier of width.
    is(c, "sizeof(mach_port_name_t)", 4);
    is(c, "sizeof(vm_map_t)", 4);
    is(c, "sizeof(vm_offset_t)", size_of::<*const u8>());
    is(c, "sizeof(mach_vm_read_entry_t)", 256 * size_of::<calls::read::mach_vm_read_entry>());
    compile("types", c);
}

/// Every constant of ours that is a plain number, by the text of the sources: so none can be
/// forgotten.
#[test]
fn constants() {
    let mut found = BTreeMap::new();
    let mut files = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
            continue;
        }
        for line in fs::read_to_string(path).unwrap().lines() {
            let Some((name, rest)) = line.trim().strip_prefix("pub const ").and_then(|l| l.split_once(':'))
            else {
                continue;
            };
            let Some((_, value)) = rest.split_once(" = ") else { continue };
            let value = value.trim_end_matches(';').replace('_', "");
            let number = match value.strip_prefix("0x") {
                Some(hex) => i64::from_str_radix(hex, 16),
                None => value.parse(),
            };
            if let Ok(n) = number {
                found.insert(name.to_string(), n);
            }
        }
    }
    let mut c = String::new();
    let codes = found.keys().filter(|n| n.starts_with("KERN_") || n.starts_with("MACH_")).count();
    assert!(codes > 90, "{codes} codes found");
    for (name, value) in &found {
        // Codes must be there; of others, those of the same name.
        let must = name.starts_with("KERN_") || name.starts_with("MACH_SEND") || name.starts_with("MACH_RCV");
        let missing =
            if must { format!("\n#else\n#error {name} is not in the headers") } else { String::new() };
        writeln!(
            c,
            "#ifdef {name}\n_Static_assert((long long) ({name}) == {value}, \"{name} is not {value}\");{missing}\n#endif"
        )
        .unwrap();
    }
    compile("constants", &c);
}

/// The flags that the core's calls take.
#[test]
fn flags() {
    let c = &mut String::new();
    let mut flag = |name: &str, value: u32| is(c, &format!("(unsigned) {name}"), value as usize);
    for (name, value) in VmFlags::all().iter_names().map(|(n, f)| (n, f.bits())) {
        let name = match name {
            "CHUNK_4GB" => "VM_FLAGS_4GB_CHUNK".into(),
            "SUPERPAGE_ANY" => "VM_FLAGS_SUPERPAGE_SIZE_ANY".into(),
            "SUPERPAGE_2MB" => "VM_FLAGS_SUPERPAGE_SIZE_2MB".into(),
            "XNU_USER" => "(VM_FLAGS_USER_MAP & ~VM_FLAGS_ALIAS_MASK)".into(),
            other => format!("VM_FLAGS_{other}"),
        };
        flag(&name, value);
    }
    for (name, f) in MakeFlags::all().iter_names() {
        let name = if name == "USE_4K_DATA_ADDR" { "4K_DATA_ADDR" } else { name };
        flag(&format!("MAP_MEM_{name}"), f.bits());
    }
    for (name, f) in SyncFlags::all().iter_names() {
        flag(&format!("VM_SYNC_{name}"), f.bits());
    }
    for (name, f) in Disposition::all().iter_names() {
        flag(&format!("VM_PAGE_QUERY_PAGE_{name}"), f.bits());
    }
    for (name, f) in WireAllFlags::all().iter_names() {
        flag(&format!("VM_WIRE_{name}"), f.bits());
    }
    for (name, state) in [
        ("NONVOLATILE", PurgableState::NONVOLATILE),
        ("VOLATILE", PurgableState::VOLATILE),
        ("EMPTY", PurgableState::EMPTY),
    ] {
        flag(&format!("VM_PURGABLE_{name}"), state.0);
    }
    compile("flags", c);
}

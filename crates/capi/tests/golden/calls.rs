//! The calls, on everything in the scene.

use std::fmt::Write as _;

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::attribute::mach_vm_machine_attribute;
use machvm_capi::calls::behavior::mach_vm_behavior_set;
use machvm_capi::calls::copy::mach_vm_copy;
use machvm_capi::calls::entries::mach_make_memory_entry_64;
use machvm_capi::calls::inherit::mach_vm_inherit;
use machvm_capi::calls::map::mach_vm_map;
use machvm_capi::calls::msync::mach_vm_msync;
use machvm_capi::calls::names::mach_port_deallocate;
use machvm_capi::calls::phys::vm_pages_phys;
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::purgable::mach_vm_purgable_control;
use machvm_capi::calls::query::{mach_vm_page_info, mach_vm_page_query, mach_vm_page_range_query};
use machvm_capi::calls::read::{mach_vm_read, mach_vm_read_entry, mach_vm_read_list, mach_vm_read_overwrite};
use machvm_capi::calls::region::{mach_vm_region, vm_region};
use machvm_capi::calls::region_recurse::mach_vm_region_recurse;
use machvm_capi::calls::remap::{mach_vm_remap, mach_vm_remap_new};
use machvm_capi::calls::statistics::vm_statistics;
use machvm_capi::calls::task_info::task_info;
use machvm_capi::calls::wire::mach_vm_wire;
use machvm_capi::calls::write::mach_vm_write;
use machvm_capi::kr::*;
use machvm_capi::ports::{DEAD, HOST, HOST_PRIV, NULL, TASK_SELF};

use super::record::{Golden, SIZES};
use super::scene::{AT, P, scene, scene_outside};

/// Everything, as text.
pub(crate) fn everything() -> String {
    scene(ME);
    scene_outside();
    let mut g = Golden(format!("sizes: {SIZES:x?}\n"));
    ports(&mut g);
    transfers(&mut g);
    queries(&mut g);
    changes(&mut g);
    g.0
}

const ME: u32 = TASK_SELF;

fn read(task: u32, at: u64, n: u64) -> i32 {
    let (mut data, mut count) = (0, 0);
    // SAFETY: good addresses.
    let r = unsafe { mach_vm_read(task, at, n, &raw mut data, &raw mut count) };
    if r == KERN_SUCCESS {
        assert_eq!(u64::from(count), n);
        assert!(n == 0 || mach_vm_deallocate(ME, data as u64, n) == KERN_SUCCESS);
    }
    r
}

fn overwrite(at: u64, n: u64, to: u64) -> i32 {
    let mut out = 1 << 60;
    // SAFETY: a good address.
    let r = unsafe { mach_vm_read_overwrite(ME, at, n, to, &raw mut out) };
    assert_eq!(out, if r == KERN_SUCCESS { n } else { 1 << 60 });
    r
}

/// Calls that leave the scene as it is, on this process's own task.
fn transfers(g: &mut Golden) {
    let to = AT + 14 * P;
    g.ranges("read", |a, n| read(ME, a, n));
    g.ranges("read_overwrite from", |a, n| overwrite(a, n, to));
    g.ranges("read_overwrite to", |a, n| overwrite(AT, n, a));
    g.ranges("copy from", |a, n| mach_vm_copy(ME, a, n, to));
    g.ranges("copy to", |a, n| mach_vm_copy(ME, AT, n, a));
    g.ranges("copy to itself", |a, n| mach_vm_copy(ME, a, n, a));
    g.ranges("write from", |a, n| mach_vm_write(ME, AT, a as usize, n as u32));
    g.ranges("write to", |a, n| mach_vm_write(ME, a, AT as usize, n as u32));
    g.ranges("read_list", |address, size| {
        let mut list = [mach_vm_read_entry { address, size }];
        // SAFETY: one entry.
        let r = unsafe { mach_vm_read_list(ME, list.as_mut_ptr(), 1) };
        if r == KERN_SUCCESS {
            mach_vm_deallocate(ME, list[0].address, size);
        }
        r
    });
}

fn queries(g: &mut Golden) {
    let mut room = [0i32; 64];
    let to = room.as_mut_ptr().expose_provenance() as u64;
    g.ranges("page_range_query", |a, n| {
        let mut count = 4;
        // SAFETY: a good address.
        unsafe { mach_vm_page_range_query(ME, a, n, to, &raw mut count) }
    });
    g.ranges("page_range_query into", |a, n| {
        let mut count = 4;
        // SAFETY: a good address; the call looks at where it writes.
        unsafe { mach_vm_page_range_query(ME, AT, n, a, &raw mut count) }
    });
    g.ranges("pages_phys", |a, n| {
        let (mut frames, mut count) = ([0u64; 8], 8);
        let mut to = frames.as_mut_ptr();
        // SAFETY: good addresses.
        unsafe { vm_pages_phys(HOST, ME, a as usize, n as usize, &raw mut to, &raw mut count) }
    });
    g.values("page_query, page_info", &[-1, 0, 1, 2], |a, v| {
        let (mut d, mut n, mut count) = (0, 0, 8);
        // SAFETY: good addresses.
        unsafe {
            match v {
                -1 => mach_vm_page_query(ME, a, &raw mut d, &raw mut n),
                v => mach_vm_page_info(ME, a, v, room.as_mut_ptr(), &raw mut count),
            }
        }
    });
    g.values("region, flavour", &[-1, 0, 8, 9, 10, 11, 12, 13, 14], |a, v| {
        let (mut at, mut size, mut name, mut count) = (a, 0, 0, 64);
        // SAFETY: good addresses.
        unsafe {
            mach_vm_region(
                ME,
                &raw mut at,
                &raw mut size,
                v,
                room.as_mut_ptr(),
                &raw mut count,
                &raw mut name,
            )
        }
    });
    g.values("vm_region, count", &[0, 7, 8, 9, 64], |a, v| {
        let (mut at, mut size, mut name, mut count) = (a as usize, 0, 0, v as u32);
        // SAFETY: good addresses.
        unsafe {
            vm_region(ME, &raw mut at, &raw mut size, 10, room.as_mut_ptr(), &raw mut count, &raw mut name)
        }
    });
    g.values("region_recurse, count", &[0, 11, 12, 16, 19, 64], |a, v| {
        let (mut at, mut size, mut depth, mut count) = (a, 0, 7, v as u32);
        // SAFETY: good addresses.
        unsafe {
            let info = room.as_mut_ptr();
            mach_vm_region_recurse(ME, &raw mut at, &raw mut size, &raw mut depth, info, &raw mut count)
        }
    });
    for flags in [0, 2, 3, 0x22, 0x28, 0x80] {
        g.ranges(&format!("msync {flags:#x}"), |a, n| mach_vm_msync(ME, a, n, flags));
    }
    let all: Vec<i32> = (-1..=13).collect();
    for (size, pages) in [(0, 0), (P, 1), (3 * P, 3)] {
        g.values(&format!("behavior, {pages} pages"), &all, |a, v| mach_vm_behavior_set(ME, a, size, v));
    }
    g.ranges("behavior 1", |a, n| mach_vm_behavior_set(ME, a, n, 1));
    g.values("attribute", &[0, 1, 2, 6, 9, 10, 11], |a, v| {
        let mut value = v;
        // SAFETY: a good address.
        unsafe { mach_vm_machine_attribute(ME, a, P, 1, &raw mut value) }
    });
    g.ranges("attribute flush", |a, n| {
        let mut value = 6;
        // SAFETY: a good address.
        unsafe { mach_vm_machine_attribute(ME, a, n, 1, &raw mut value) }
    });
}

/// Calls that change the scene, each on a task of its own.
fn changes(g: &mut Golden) {
    g.changes("allocate", |t, a, n| {
        let mut at = a;
        // SAFETY: a good address.
        unsafe { mach_vm_allocate(t, &raw mut at, n, 0) }
    });
    g.change_values(
        "allocate, flags",
        &[0, 1, 2, 4, 0x80, 0x800, 0x4000, 0x4001, 0x1_0000, 0x100_0001, -1],
        |t, a, v| {
            let mut at = a;
            // SAFETY: a good address.
            unsafe { mach_vm_allocate(t, &raw mut at, P, v) }
        },
    );
    g.changes("deallocate", |t, a, n| mach_vm_deallocate(t, a, n));
    g.changes("protect", |t, a, n| mach_vm_protect(t, a, n, 0, 3));
    g.changes("protect, maximum", |t, a, n| mach_vm_protect(t, a, n, 1, 1));
    g.change_values("protect, 2 pages", &[0, 1, 2, 5, 7, 8, 0x13, 0x47, -1], |t, a, v| {
        mach_vm_protect(t, a, 2 * P, 0, v)
    });
    g.changes("inherit", |t, a, n| mach_vm_inherit(t, a, n, 2));
    g.change_values("inherit, 1 page", &[0, 1, 2, 3, 4, -1], |t, a, v| {
        mach_vm_inherit(t, a, P, v.cast_unsigned())
    });
    g.changes("wire", |t, a, n| mach_vm_wire(HOST_PRIV, t, a, n, 1));
    g.changes("unwire", |t, a, n| mach_vm_wire(HOST_PRIV, t, a, n, 0));
    g.change_values("purgable_control", &[0, 1, 2, 3, -1], |t, a, v| {
        let mut state = 0;
        // SAFETY: a good address.
        unsafe { mach_vm_purgable_control(t, a, v, &raw mut state) }
    });
    g.changes("map", |t, a, n| {
        let mut at = a;
        // SAFETY: a good address.
        unsafe { mach_vm_map(t, &raw mut at, n, 0, 0, NULL, 0, 0, 3, 7, 1) }
    });
    for (what, copy) in [("share", 0), ("copy", 1)] {
        g.changes(&format!("remap {what}"), |t, a, n| {
            let (mut at, mut prot, mut max) = (0, 0, 0);
            // SAFETY: good addresses.
            unsafe { mach_vm_remap(t, &raw mut at, n, 0, 1, t, a, copy, &raw mut prot, &raw mut max, 1) }
        });
    }
    g.changes("remap_new, writable", |t, a, n| {
        let (mut at, mut prot, mut max) = (0, 3, 3);
        // SAFETY: good addresses.
        unsafe { mach_vm_remap_new(t, &raw mut at, n, 0, 1, t, a, 0, &raw mut prot, &raw mut max, 1) }
    });
    for (what, flags) in [("", 3), (" share", 0x40_0003), (" copy", 0x20_0003), (" create", 0x2_0003)] {
        g.changes(&format!("make_entry{what}"), |t, a, n| {
            let (mut size, mut entry) = (n, 0);
            // SAFETY: good addresses.
            let r = unsafe { mach_make_memory_entry_64(t, &raw mut size, a, flags, &raw mut entry, NULL) };
            if r == KERN_SUCCESS && entry != NULL {
                assert_eq!(mach_port_deallocate(ME, entry), KERN_SUCCESS);
            }
            r
        });
    }
}

/// Every call with ports that are no tasks.
fn ports(g: &mut Golden) {
    writeln!(g.0, "\nports: null, dead, unknown, host").unwrap();
    let mut room = [0i32; 64];
    let mut row = |what: &str, call: &mut dyn FnMut(u32) -> i32| {
        g.row(what, [NULL, DEAD, 0x7777_7703, HOST].map(|t| (call(t), false)));
    };
    let (mut at, mut n, mut name, mut count, mut depth) = (AT, 1u64, 0u32, 64u32, 0u32);
    let (mut d, mut refs, mut data) = (0i32, 0i32, 0usize);
    let mut s = Default::default();
    row("deallocate", &mut |t| mach_vm_deallocate(t, AT, P));
    row("protect", &mut |t| mach_vm_protect(t, AT, P, 0, 3));
    row("inherit", &mut |t| mach_vm_inherit(t, AT, P, 1));
    row("copy", &mut |t| mach_vm_copy(t, AT, P, AT + P));
    row("write", &mut |t| mach_vm_write(t, AT, AT as usize, 8));
    row("write nothing", &mut |t| mach_vm_write(t, AT, 0, 0));
    row("msync", &mut |t| mach_vm_msync(t, AT, P, 2));
    row("behavior_set", &mut |t| mach_vm_behavior_set(t, AT, P, 1));
    row("wire", &mut |t| mach_vm_wire(HOST_PRIV, t, AT, P, 1));
    // SAFETY: good addresses, here and below.
    row("allocate", &mut |t| unsafe { mach_vm_allocate(t, &raw mut at, P, 0) });
    // SAFETY: as above.
    row("read", &mut |t| unsafe { mach_vm_read(t, AT, P, &raw mut data, &raw mut count) });
    // SAFETY: as above.
    row("read_overwrite", &mut |t| unsafe { mach_vm_read_overwrite(t, AT, P, AT + P, &raw mut n) });
    // SAFETY: as above.
    row("read_list", &mut |t| unsafe { mach_vm_read_list(t, std::ptr::null_mut(), 0) });
    row("region", &mut |t| {
        let info = room.as_mut_ptr();
        // SAFETY: as above.
        unsafe { mach_vm_region(t, &raw mut at, &raw mut n, 9, info, &raw mut count, &raw mut name) }
    });
    row("region_recurse", &mut |t| {
        let info = room.as_mut_ptr();
        // SAFETY: as above.
        unsafe { mach_vm_region_recurse(t, &raw mut at, &raw mut n, &raw mut depth, info, &raw mut count) }
    });
    // SAFETY: as above.
    row("page_query", &mut |t| unsafe { mach_vm_page_query(t, AT, &raw mut d, &raw mut refs) });
    // SAFETY: as above.
    row("page_info", &mut |t| unsafe { mach_vm_page_info(t, AT, 1, room.as_mut_ptr(), &raw mut count) });
    // SAFETY: as above.
    row("page_range_query", &mut |t| unsafe { mach_vm_page_range_query(t, AT, P, AT, &raw mut n) });
    // SAFETY: as above.
    row("machine_attribute", &mut |t| unsafe { mach_vm_machine_attribute(t, AT, P, 1, &raw mut d) });
    // SAFETY: as above.
    row("statistics", &mut |t| unsafe { vm_statistics(t, &raw mut s) });
    // SAFETY: as above.
    row("task_info", &mut |t| unsafe { task_info(t, 22, room.as_mut_ptr(), &raw mut count) });
    row("pages_phys", &mut |t| {
        let (mut frames, mut count) = ([0u64; 8], 8);
        let mut to = frames.as_mut_ptr();
        // SAFETY: as above.
        unsafe { vm_pages_phys(HOST, t, AT as usize, P as usize, &raw mut to, &raw mut count) }
    });
}

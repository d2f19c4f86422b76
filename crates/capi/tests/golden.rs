//! Codes on record: every call with numbers of every kind, in every personality, compared
//! with `tests/golden/*.txt`. A change of a code is a line that differs there.
//!
//! ```text
//!   copy from ro+5        0 0 0 0 2 1 1 1 1 1 1      one code for each of SIZES
//! ```
//! After a change that is meant, `MACHVM_BLESS=1 cargo test -p machvm-capi --test golden`
//! writes the files anew; what changed is then read as a diff.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

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
use machvm_capi::calls::tasks::{task_create, task_terminate};
use machvm_capi::calls::wire::mach_vm_wire;
use machvm_capi::calls::write::mach_vm_write;
use machvm_capi::kr::*;
use machvm_capi::ports::{DEAD, HOST, HOST_PRIV, NULL, TASK_SELF};

const P: u64 = 4096;
const LOW: u64 = 1 << 32;
const HIGH: u64 = LOW + (256 << 30);
/// Where the scene is, in the window and outside it.
const AT: u64 = LOW + (1 << 30);
const OUT: u64 = 0x2000_0000;

const SIZES: [u64; 11] = [0, 1, P - 1, P, 2 * P, 3 * P, 8 * P, 1 << 47, 1 << 63, !(P - 1), u64::MAX];

/// Addresses of the scene: two pages each, and what is special by itself.
const PLACES: [(&str, u64); 20] = [
    ("null", 0),
    ("one", 1),
    ("rw", AT),
    ("rw+5", AT + 5),
    ("rw, last page", AT + 3 * P),
    ("ro", AT + 4 * P),
    ("ro+5", AT + 4 * P + 5),
    ("none", AT + 6 * P),
    ("hole", AT + 8 * P),
    ("wired", AT + 10 * P),
    ("max ro", AT + 12 * P),
    ("shared", AT + 14 * P),
    ("end", HIGH - P),
    ("beyond", HIGH),
    ("outside rw", OUT),
    ("outside ro", OUT + 4 * P + 9),
    ("outside none", OUT + 6 * P),
    ("outside hole", OUT + 8 * P),
    ("top", !(P - 1)),
    ("max", u64::MAX),
];

/// Makes the scene in a task: 20 pages of the window.
fn scene(task: u32) {
    let mut at = AT;
    // SAFETY: a good address.
    assert_eq!(unsafe { mach_vm_allocate(task, &raw mut at, 20 * P, 0) }, KERN_SUCCESS);
    assert_eq!(mach_vm_protect(task, AT + 4 * P, 2 * P, 0, 1), KERN_SUCCESS);
    assert_eq!(mach_vm_protect(task, AT + 6 * P, 2 * P, 0, 0), KERN_SUCCESS);
    assert_eq!(mach_vm_deallocate(task, AT + 8 * P, 2 * P), KERN_SUCCESS);
    assert_eq!(mach_vm_wire(HOST_PRIV, task, AT + 10 * P, 2 * P, 3), KERN_SUCCESS);
    assert_eq!(mach_vm_protect(task, AT + 12 * P, 2 * P, 1, 1), KERN_SUCCESS);
    assert_eq!(mach_vm_inherit(task, AT + 14 * P, 2 * P, 0), KERN_SUCCESS);
    assert_eq!(mach_vm_deallocate(task, AT + 16 * P, 4 * P), KERN_SUCCESS);
}

/// The scene outside: 8 pages of Linux's, where it puts nothing by itself.
fn scene_outside() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, and parts of it.
    unsafe {
        let p = libc::mmap(OUT as *mut _, 8 * P as usize, rw, flags, -1, 0);
        assert_eq!(p.addr() as u64, OUT);
        assert_eq!(libc::mprotect(p.byte_add(4 * P as usize), 2 * P as usize, libc::PROT_READ), 0);
        assert_eq!(libc::mprotect(p.byte_add(6 * P as usize), 2 * P as usize, libc::PROT_NONE), 0);
    }
}

/// A task of its own with the scene in it, for calls that change things.
fn with_scene(call: impl FnOnce(u32) -> i32) -> i32 {
    let mut task = 0;
    // SAFETY: a good address.
    let r = unsafe { task_create(TASK_SELF, std::ptr::null_mut(), 0, 0, &raw mut task) };
    assert_eq!(r, KERN_SUCCESS);
    scene(task);
    let code = call(task);
    assert_eq!(task_terminate(task), KERN_SUCCESS);
    code
}

fn name(code: i32) -> String {
    match code {
        MACH_SEND_INVALID_DEST => "dest".into(),
        MACH_SEND_INVALID_MEMORY => "memory".into(),
        MACH_SEND_INVALID_RIGHT => "right".into(),
        c => {
            assert!((0..=KERN_NOT_FOUND).contains(&c), "{c:#x} is no code of these calls");
            c.to_string()
        }
    }
}

struct Golden(String);

impl Golden {
    fn row(&mut self, what: &str, codes: impl IntoIterator<Item = i32>) {
        let codes: Vec<String> = codes.into_iter().map(name).collect();
        writeln!(self.0, "{what:<32} {}", codes.join(" ")).unwrap();
    }
    /// A row for each place, a code for each size.
    fn ranges(&mut self, what: &str, mut call: impl FnMut(u64, u64) -> i32) {
        writeln!(self.0).unwrap();
        for (place, at) in PLACES {
            let codes: Vec<i32> = SIZES.iter().map(|n| call(at, *n)).collect();
            self.row(&format!("{what} {place}"), codes);
        }
    }
    /// A row for each place, a code for each value.
    fn values(&mut self, what: &str, values: &[i32], mut call: impl FnMut(u64, i32) -> i32) {
        writeln!(self.0, "\n{what}: for {values:?}").unwrap();
        for (place, at) in PLACES {
            let codes: Vec<i32> = values.iter().map(|v| call(at, *v)).collect();
            self.row(&format!("{what} {place}"), codes);
        }
    }
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
    g.ranges("allocate", |a, n| {
        with_scene(|t| {
            let mut at = a;
            // SAFETY: a good address.
            unsafe { mach_vm_allocate(t, &raw mut at, n, 0) }
        })
    });
    g.values(
        "allocate, flags",
        &[0, 1, 2, 4, 0x80, 0x800, 0x4000, 0x4001, 0x1_0000, 0x100_0001, -1],
        |a, v| {
            with_scene(|t| {
                let mut at = a;
                // SAFETY: a good address.
                unsafe { mach_vm_allocate(t, &raw mut at, P, v) }
            })
        },
    );
    g.ranges("deallocate", |a, n| with_scene(|t| mach_vm_deallocate(t, a, n)));
    g.ranges("protect", |a, n| with_scene(|t| mach_vm_protect(t, a, n, 0, 3)));
    g.ranges("protect, maximum", |a, n| with_scene(|t| mach_vm_protect(t, a, n, 1, 1)));
    g.values("protect, 2 pages", &[0, 1, 2, 5, 7, 8, 0x13, 0x47, -1], |a, v| {
        with_scene(|t| mach_vm_protect(t, a, 2 * P, 0, v))
    });
    g.ranges("inherit", |a, n| with_scene(|t| mach_vm_inherit(t, a, n, 2)));
    g.values("inherit, 1 page", &[0, 1, 2, 3, 4, -1], |a, v| {
        with_scene(|t| mach_vm_inherit(t, a, P, v.cast_unsigned()))
    });
    g.ranges("wire", |a, n| with_scene(|t| mach_vm_wire(HOST_PRIV, t, a, n, 1)));
    g.ranges("unwire", |a, n| with_scene(|t| mach_vm_wire(HOST_PRIV, t, a, n, 0)));
    g.values("purgable_control", &[0, 1, 2, 3, -1], |a, v| {
        with_scene(|t| {
            let mut state = 0;
            // SAFETY: a good address.
            unsafe { mach_vm_purgable_control(t, a, v, &raw mut state) }
        })
    });
    g.ranges("map", |a, n| {
        with_scene(|t| {
            let mut at = a;
            // SAFETY: a good address.
            unsafe { mach_vm_map(t, &raw mut at, n, 0, 0, NULL, 0, 0, 3, 7, 1) }
        })
    });
    for (what, copy) in [("share", 0), ("copy", 1)] {
        g.ranges(&format!("remap {what}"), |a, n| {
            with_scene(|t| {
                let (mut at, mut prot, mut max) = (0, 0, 0);
                // SAFETY: good addresses.
                unsafe { mach_vm_remap(t, &raw mut at, n, 0, 1, t, a, copy, &raw mut prot, &raw mut max, 1) }
            })
        });
    }
    g.ranges("remap_new, writable", |a, n| {
        with_scene(|t| {
            let (mut at, mut prot, mut max) = (0, 3, 3);
            // SAFETY: good addresses.
            unsafe { mach_vm_remap_new(t, &raw mut at, n, 0, 1, t, a, 0, &raw mut prot, &raw mut max, 1) }
        })
    });
    for (what, flags) in [("", 3), (" share", 0x40_0003), (" copy", 0x20_0003), (" create", 0x2_0003)] {
        g.ranges(&format!("make_entry{what}"), |a, n| {
            with_scene(|t| {
                let (mut size, mut entry) = (n, 0);
                // SAFETY: good addresses.
                let r =
                    unsafe { mach_make_memory_entry_64(t, &raw mut size, a, flags, &raw mut entry, NULL) };
                if r == KERN_SUCCESS && entry != NULL {
                    assert_eq!(mach_port_deallocate(ME, entry), KERN_SUCCESS);
                }
                r
            })
        });
    }
}

/// Every call with ports that are no tasks.
fn ports(g: &mut Golden) {
    writeln!(g.0, "\nports: null, dead, unknown, host").unwrap();
    let mut room = [0i32; 64];
    let mut row = |what: &str, call: &mut dyn FnMut(u32) -> i32| {
        g.row(what, [NULL, DEAD, 0x7777_7703, HOST].map(call));
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

#[test]
#[ignore = "needs an environment: run by codes_are_those_on_record"]
fn write_codes() {
    let out = std::env::var("MACHVM_GOLDEN").expect("run by codes_are_those_on_record");
    scene(ME);
    scene_outside();
    let mut g = Golden(format!("sizes: {SIZES:x?}\n"));
    ports(&mut g);
    transfers(&mut g);
    queries(&mut g);
    changes(&mut g);
    std::fs::write(out, g.0).unwrap();
}

#[test]
fn codes_are_those_on_record() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut wrong = String::new();
    for who in ["xnu", "mach3", "freebsd", "uvm", "posix"] {
        let out = std::env::temp_dir().join(format!("machvm-golden-{who}-{}", std::process::id()));
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["write_codes", "--exact", "--ignored"])
            .env("MACHVM_PERSONALITY", who)
            .env("MACHVM_GOLDEN", &out)
            .output()
            .unwrap();
        assert!(run.status.success(), "{who}: {}", String::from_utf8_lossy(&run.stdout));
        let got = std::fs::read_to_string(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        let path = dir.join(format!("{who}.txt"));
        if std::env::var_os("MACHVM_BLESS").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, got).unwrap();
            continue;
        }
        let want = std::fs::read_to_string(&path).unwrap_or_default();
        for (got, want) in got.lines().zip(want.lines().chain(std::iter::repeat(""))).filter(|(a, b)| a != b)
        {
            writeln!(wrong, "{who}\n  was: {want}\n  is:  {got}").unwrap();
        }
        assert!(got.lines().count() >= want.lines().count(), "{who}: lines are missing");
    }
    assert!(wrong.is_empty(), "{wrong}\nIf that is meant: MACHVM_BLESS=1, and read the diff");
}

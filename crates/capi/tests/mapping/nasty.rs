//! Numbers of every kind: no call crashes, answers something that is no code, or changes a
//! task and then fails. In every personality.

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::entries::{mach_make_memory_entry_64, mach_memory_object_memory_entry_64};
use machvm_capi::calls::inherit::mach_vm_inherit;
use machvm_capi::calls::map::mach_vm_map;
use machvm_capi::calls::names::{mach_port_deallocate, mach_port_mod_refs};
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::purgable::{mach_memory_entry_purgable_control, mach_vm_purgable_control};
use machvm_capi::calls::remap::{mach_vm_remap, mach_vm_remap_new};
use machvm_capi::calls::wire::{mach_vm_wire, vm_wire_all};

use crate::util::*;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() % all.len() as u64) as usize]
    }
}

/// A task with something of everything, its ports, and numbers that concern it.
struct Scene {
    task: u32,
    ports: Vec<u32>,
    numbers: Vec<u64>,
    sizes: Vec<u64>,
    small: Vec<i32>,
}

impl Scene {
    fn new() -> Self {
        let task = task();
        let at = allocate(task, 12);
        assert_eq!(mach_vm_protect(task, at + P, P, 0, R), KERN_SUCCESS);
        assert_eq!(mach_vm_protect(task, at + 2 * P, P, 0, NONE), KERN_SUCCESS);
        assert_eq!(mach_vm_protect(task, at + 3 * P, P, 1, R), KERN_SUCCESS);
        assert_eq!(mach_vm_deallocate(task, at + 4 * P, P), KERN_SUCCESS);
        assert_eq!(mach_vm_wire(HOST_PRIV, task, at + 5 * P, P, R), KERN_SUCCESS);
        assert_eq!(mach_vm_inherit(task, at + 6 * P, P, SHARE), KERN_SUCCESS);
        let (mut size, mut entry) = (2 * P, 0);
        // SAFETY: variables of ours.
        let r =
            unsafe { mach_make_memory_entry_64(task, &raw mut size, at + 7 * P, RW, &raw mut entry, NULL) };
        assert_eq!(r, KERN_SUCCESS);
        let ports = vec![task, task, task, task, entry, entry, NULL, DEAD, UNKNOWN, HOST, HOST_PRIV];
        // What fits is small: it may be wired.
        let mut sizes = vec![0, 1, P - 1, P, P + 1, 2 * P, 3 * P, 1 << 21, (1 << 21) + P, 1 << 45];
        sizes.extend([1 << 63, (1 << 63) - 1, u64::MAX, u64::MAX - 1, !(P - 1), u64::MAX / 2 + P]);
        let mut numbers = sizes.clone();
        numbers.extend([1 << 30, 1 << 46]);
        numbers.extend((0..14).flat_map(|i| [at + i * P, at + i * P + 0xff0]));
        let small = [0, 1, 2, 3, 4, 5, 7, 8, 0x10, 0x13, 0x40, 0x47, 0x80, 0x4000, 0x4001, 0x1_0000];
        let mut small = small.to_vec();
        small.extend([0x10_0001, 0x2_0003, 0x6_0003, 0x8_0003, 0x20_0001, 0x40_0001, -1, i32::MIN, i32::MAX]);
        Scene { task, ports, numbers, sizes, small }
    }

    /// Makes a call with numbers of any kind; gives its name and code.
    fn step(&self, r: &mut Random) -> (&'static str, i32) {
        let (task, other, host) = (r.of(&self.ports), r.of(&self.ports), r.of(&self.ports));
        let (a, n, from) = (r.of(&self.numbers), r.of(&self.sizes), r.of(&self.numbers));
        let (p, q, f, i) = (r.of(&self.small), r.of(&self.small), r.of(&self.small), r.of(&self.small));
        let inherit = i.cast_unsigned();
        let mask = if r.next().is_multiple_of(4) { from } else { 0 };
        let (mut at, mut prot, mut max, mut name, mut state) = (a, p, q, 77, f);
        let copy = inherit & 1;
        let done = |what, code: i32, same: bool| {
            assert!(code == KERN_SUCCESS || same, "{what}: it failed with {code:#x} and wrote");
            (what, code)
        };
        // SAFETY: variables of ours; the task is none whose memory we hold pointers to.
        unsafe {
            match r.next() % 13 {
                0 => {
                    let c = mach_vm_allocate(task, &raw mut at, n, f);
                    done("allocate", c, at == a)
                }
                1 => done("deallocate", mach_vm_deallocate(task, a, n), true),
                2 => {
                    let c = mach_vm_map(task, &raw mut at, n, mask, f, other, from, copy, p, q, inherit & 3);
                    done("map", c, at == a)
                }
                3 | 4 => {
                    let call = if f & 1 == 0 { mach_vm_remap } else { mach_vm_remap_new };
                    let (x, y, z) = (&raw mut at, &raw mut prot, &raw mut max);
                    let c = call(task, x, n, mask, f, other, from, copy, y, z, inherit & 3);
                    done("remap", c, (at, prot, max) == (a, p, q))
                }
                5 => done("protect", mach_vm_protect(task, a, n, copy, p), true),
                6 => done("inherit", mach_vm_inherit(task, a, n, inherit), true),
                7 => done("wire", mach_vm_wire(host, task, a, n, p), true),
                8 => done("wire_all", vm_wire_all(host, task, f), true),
                9 => {
                    let mut size = n;
                    let c = mach_make_memory_entry_64(task, &raw mut size, a, f, &raw mut name, other);
                    let same = (size, name) == (n, 77);
                    if c == KERN_SUCCESS {
                        assert_eq!(mach_port_deallocate(TASK_SELF, name), KERN_SUCCESS);
                    }
                    done("make_memory_entry", c, same)
                }
                10 => {
                    let c = mach_memory_object_memory_entry_64(host, copy, n, p, other, &raw mut name);
                    if c == KERN_SUCCESS {
                        assert_eq!(mach_port_deallocate(TASK_SELF, name), KERN_SUCCESS);
                    }
                    done("memory_object", c, name == 77)
                }
                11 => {
                    let c = mach_vm_purgable_control(task, a, q, &raw mut state);
                    done("purgable", c, state == f)
                }
                _ => {
                    let c = mach_memory_entry_purgable_control(other, q, &raw mut state);
                    done("entry_purgable", c, state == f)
                }
            }
        }
    }
}

/// What is a code, and not how Rust says that something else happened.
fn is_code(code: i32) -> bool {
    (0..=KERN_NOT_FOUND).contains(&code) || [MACH_SEND_INVALID_DEST, MACH_SEND_INVALID_RIGHT].contains(&code)
}

#[test]
#[ignore = "needs an environment: run by any_numbers_in_every_personality"]
fn any_numbers() {
    let seed = std::env::var("MACHVM_SEED").map_or(1, |s| s.parse().unwrap());
    let mut r = Random(seed);
    for round in 0..40 {
        let s = Scene::new();
        for step in 0..120 {
            let before = regions(s.task);
            let (what, code) = s.step(&mut r);
            assert!(is_code(code), "seed {seed}, round {round}, step {step}: {what} gives {code:#x}");
            // A deallocation may fail half way for lack of memory only, which there is.
            if code != KERN_SUCCESS {
                let after = regions(s.task);
                assert_eq!(before, after, "seed {seed}, round {round}, step {step}: {what} {code:#x}");
            }
        }
        assert_eq!(mach_vm_deallocate(s.task, 0, !(P - 1)), KERN_SUCCESS);
        for name in [s.task, s.ports[4]] {
            assert_eq!(mach_port_mod_refs(TASK_SELF, name, 0, -1), KERN_SUCCESS);
        }
    }
}

#[test]
fn any_numbers_in_every_personality() {
    let seed = std::env::var("MACHVM_SEED").unwrap_or_else(|_| u64::from(std::process::id()).to_string());
    for how in ["xnu", "mach3", "freebsd", "uvm", "posix"] {
        passes("nasty::any_numbers", &[("MACHVM_PERSONALITY", how), ("MACHVM_SEED", &seed)]);
    }
}

//! A task of one layout, and the numbers that are tried on it.
//!
//! ```text
//!   page 0-3 read and write (0 and 1 touched)    11-12 purgeable
//!        4   read only                           13    shared with a memory entry
//!        5   no access                           14    permanent
//!        6   write only                          15    maximum read
//!        7   hole                                16    paged out, or as good as that: never touched
//!        8-9 wired                               the window's last page: read and write
//!       10   executable
//! ```

use machvm_capi::calls::allocate::mach_vm_allocate;
use machvm_capi::calls::entries::mach_make_memory_entry_64;
use machvm_capi::calls::names::mach_port_mod_refs;
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::read::mach_vm_read_overwrite;
use machvm_capi::calls::region::mach_vm_region;
use machvm_capi::calls::tasks::{task_create, task_terminate};
use machvm_capi::calls::wire::mach_vm_wire;
use machvm_capi::calls::write::mach_vm_write;

use crate::calls::{Function, Kind};

pub(crate) const P: u64 = 4096;
/// Where the task's memory begins.
pub(crate) const BASE: u64 = 1 << 32;
/// One past its last address.
const END: u64 = BASE + (256 << 30);
/// A range where nothing is.
pub(crate) const FREE: u64 = BASE + (1 << 30);
/// Stands for the task in arguments, for its memory entry, for a variable of the caller's.
pub(crate) const CHILD: u64 = 1 << 60;
pub(crate) const ENTRY: u64 = 2 << 60;
const NULL_POINTER: u64 = 3 << 60;
const SELF: u32 = 0x203;
const HOST: u32 = 0x303;
const PRIVILEGED: u32 = 0x403;
/// Words of the caller's buffer.
const WORDS: usize = 4096;

/// Some personalities take nothing else.
#[repr(align(4096))]
struct Aligned([u8; 2 * P as usize]);

pub(crate) struct Scene {
    task: u32,
    entry: u32,
    variables: [u64; 11],
    buffer: Box<[u64; WORDS]>,
}

/// Calls any function of the library: the first six arguments go in registers, the others
/// on the stack, eight bytes each, whatever their type.
pub(crate) fn call(function: Function, a: &[u64; 11]) -> i32 {
    type Any = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> i32;
    // SAFETY: x86-64's C convention passes integers and pointers alike, and ignores what is
    // too much; the pointers among them are good or null.
    unsafe {
        let function: Any = core::mem::transmute::<Function, Any>(function);
        function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10])
    }
}

fn done(code: i32) {
    assert_eq!(code, 0, "the task's layout");
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let mut task = 0;
        // SAFETY: variables of ours; no ledgers.
        done(unsafe { task_create(SELF, core::ptr::null_mut(), 0, 0, &raw mut task) });
        let fixed = |page: u64, pages: u64, flags: i32| {
            let mut at = page;
            // SAFETY: an address of ours.
            let mut allocate = |flags| unsafe { mach_vm_allocate(task, &raw mut at, pages * P, flags) };
            // Not every personality has these flags.
            if flags == 0 || allocate(flags) != 0 {
                done(allocate(0));
            }
        };
        let page = |n: u64| BASE + n * P;
        fixed(page(0), 7, 0);
        fixed(page(8), 3, 0);
        fixed(page(11), 2, 2);
        fixed(page(13), 1, 0);
        fixed(page(14), 1, 0x80);
        fixed(page(15), 2, 0);
        fixed(END - P, 1, 0);
        let protect = |n: u64, max, prot| done(mach_vm_protect(task, page(n), P, max, prot));
        let data = Aligned([0x5a; 2 * P as usize]);
        done(mach_vm_write(task, page(0), data.0.as_ptr().expose_provenance(), 2 * P as u32));
        protect(4, 0, 1);
        protect(5, 0, 0);
        protect(6, 0, 2);
        protect(10, 0, 5);
        protect(15, 1, 1);
        done(mach_vm_wire(PRIVILEGED, task, page(8), 2 * P, 3));
        let (mut size, mut entry) = (P, 0);
        // SAFETY: variables of ours.
        done(unsafe { mach_make_memory_entry_64(task, &raw mut size, page(13), 3, &raw mut entry, 0) });
        Scene { task, entry, variables: [0; 11], buffer: Box::new([0x1111_1111_1111_1111; WORDS]) }
    }

    /// An argument of a kind, for place `i`.
    pub(crate) fn argument(&mut self, kind: Kind, value: u64, i: usize) -> u64 {
        let pointer = |p: *mut u64| if value == NULL_POINTER { 0 } else { p.expose_provenance() as u64 };
        match kind {
            Kind::Place | Kind::Length | Kind::Word | Kind::Room => {
                self.variables[i] = value;
                pointer(&raw mut self.variables[i])
            }
            Kind::Out => {
                self.variables[i] = 77;
                pointer(&raw mut self.variables[i])
            }
            Kind::Array => {
                self.variables[i] = self.buffer.as_mut_ptr().expose_provenance() as u64;
                pointer(&raw mut self.variables[i])
            }
            // A bad address is itself.
            Kind::Data if value != 0 && value != NULL_POINTER => value,
            Kind::Buffer | Kind::Data => pointer(self.buffer.as_mut_ptr()),
            _ if value == CHILD => self.task.into(),
            _ if value == ENTRY => self.entry.into(),
            _ => value,
        }
    }

    pub(crate) fn variable(&self, i: usize) -> u64 {
        self.variables[i]
    }

    /// Everything that a call that fails must leave: regions, contents, the caller's
    /// variables and buffer.
    pub(crate) fn digest(&self) -> (Vec<[u64; 5]>, Vec<u64>) {
        let (mut regions, mut at) = (Vec::new(), 0);
        let mut contents = self.variables.to_vec();
        contents.push(self.buffer.iter().fold(0u64, |h, w| h.rotate_left(5) ^ w));
        loop {
            let (mut size, mut info, mut count, mut name) = (0, [0i32; 9], 9, 0);
            // SAFETY: variables of ours.
            let r = unsafe {
                let info = info.as_mut_ptr();
                mach_vm_region(self.task, &raw mut at, &raw mut size, 9, info, &raw mut count, &raw mut name)
            };
            if r != 0 {
                return (regions, contents);
            }
            let word = |i: usize| u64::from(info[i].cast_unsigned());
            regions.push([at, size, word(0) << 32 | word(1), word(2), word(8) & 0xffff]);
            if info[0] & 1 != 0 {
                let (mut first, mut got) = (0u64, 0);
                // SAFETY: variables of ours.
                let r = unsafe {
                    let to = (&raw mut first).expose_provenance() as u64;
                    mach_vm_read_overwrite(self.task, at, 8, to, &raw mut got)
                };
                done(r);
                contents.push(first);
            }
            at += size;
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Either may be gone by what was tried.
        task_terminate(self.task);
        mach_port_mod_refs(SELF, self.entry, 0, -1);
        mach_port_mod_refs(SELF, self.task, 0, -1);
    }
}

/// What is tried for an argument of a kind, with names.
pub(crate) fn values(kind: Kind) -> Vec<(String, u64)> {
    let named = |all: &[(&str, u64)]| all.iter().map(|(n, v)| ((*n).to_string(), *v)).collect::<Vec<_>>();
    let numbers = |all: &[u64]| all.iter().map(|v| (format!("{v:#x}"), *v)).collect::<Vec<_>>();
    let page = |n: u64| BASE + n * P;
    let ports =
        [("null", 0), ("dead", 0xffff_ffff), ("unknown", 0x00dd_dd03), ("entry", ENTRY), ("task", CHILD)];
    let addresses = [
        ("null", 0),
        ("below", BASE - P),
        ("unaligned", BASE + 5),
        ("last byte of a page", page(1) - 1),
        ("read only", page(4)),
        ("no access", page(5)),
        ("write only", page(6)),
        ("before the hole", page(6) + 8),
        ("hole", page(7)),
        ("wired", page(8)),
        ("executable", page(10)),
        ("purgeable", page(11)),
        ("shared", page(13)),
        ("permanent", page(14)),
        ("maximum read", page(15)),
        ("never touched", page(16)),
        ("free", FREE),
        ("last page", END - P),
        ("end", END),
        ("kernel", 0xffff_8000_0000_0000),
        ("top page", 0u64.wrapping_sub(P)),
        ("all ones", u64::MAX),
    ];
    match kind {
        Kind::Task => named(&ports[..4]).into_iter().chain(named(&[("host", HOST.into())])).collect(),
        Kind::Entry => named(&ports).into_iter().chain(named(&[("host", HOST.into())])).collect(),
        Kind::Host | Kind::Privileged => named(&ports)
            .into_iter()
            .chain(named(&[("host", HOST.into()), ("host_priv", PRIVILEGED.into())]))
            .collect(),
        Kind::Name => named(&ports).into_iter().chain(named(&[("self", SELF.into())])).collect(),
        Kind::Address => named(&addresses),
        Kind::Place => {
            named(&addresses).into_iter().chain(named(&[("null pointer", NULL_POINTER)])).collect()
        }
        Kind::Size | Kind::Length => {
            let mut all = named(&[
                ("0", 0),
                ("2", 2),
                ("page - 1", P - 1),
                ("page + 1", P + 1),
                ("2 pages", 2 * P),
                ("4 pages", 4 * P),
                ("to the hole", 7 * P),
                ("over the hole", 10 * P),
                ("the window", END - BASE),
                ("2^63", 1 << 63),
                ("wrapping", 0u64.wrapping_sub(P)),
                ("all ones", u64::MAX),
            ]);
            if kind == Kind::Length {
                all.extend(named(&[("null pointer", NULL_POINTER)]));
            }
            all
        }
        Kind::Flags => {
            let mut all: Vec<u64> = (0..24).map(|b| 1 << b).collect();
            all.extend([0, 3, 0x4001, 0x1_0001, 0x2_0001, 0x10_0001, 0x8_0001, 0x0a00_0001, 0xffff_ffff]);
            numbers(&all)
        }
        Kind::MakeFlags => {
            let bits = (0..8).chain([0x10, 0x20, 0x40, 0x47, 0x80]);
            let flags = [
                0x1_0003,
                0x2_0003,
                0x4_0003,
                0x8_0003,
                0x10_0003,
                0x20_0003,
                0x40_0003,
                0x80_0003,
                0x0100_0003,
            ];
            let more = [0x20_0001, 0x20_0007, 0x40_0001, 0x42_0003, 0x60_0003, 0xffff_ffff];
            numbers(&bits.chain(flags).chain(more).collect::<Vec<u64>>())
        }
        Kind::Prot => numbers(&[
            0,
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            0x10,
            0x13,
            0x20,
            0x40,
            0x43,
            0x80,
            0x100,
            0x0100_0000,
            0xffff_ffff,
        ]),
        Kind::Inherit => numbers(&[0, 1, 2, 3, 4, 0xffff_ffff]),
        Kind::Bool => numbers(&[0, 1, 2, 0xffff_ffff]),
        Kind::Mask => numbers(&[0xfff, 0xffff, 0x1f_ffff, 0x7_ff0f, 1 << 40, 1 << 63, u64::MAX]),
        Kind::Offset => numbers(&[1, P - 1, P, 2 * P, 1 << 40, 0u64.wrapping_sub(P), u64::MAX]),
        Kind::Sync => {
            numbers(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 0xa, 0x10, 0x12, 0x20, 0x22, 0x40, 0x80, 0xffff_ffff])
        }
        Kind::Behavior => numbers(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 99, 0xffff_ffff]),
        Kind::Attribute => numbers(&[0, 1, 2, 4, 8, 0xffff_ffff]),
        Kind::Purge => numbers(&[0, 1, 2, 3, 4, 5, 0xffff_ffff]),
        Kind::Flavor => (0..26).chain([99, 0xffff_ffff]).map(|v| (v.to_string(), v)).collect(),
        Kind::Word => {
            let mut all = numbers(&[0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x40, 0x43, 0x100, 0xffff_ffff]);
            all.extend(named(&[("null pointer", NULL_POINTER)]));
            all
        }
        Kind::Room => {
            let mut all: Vec<_> = [0, 2, 5, 7, 8, 9, 10, 11, 12, 15, 16, 19, 24, 38, 40, 90, 1000]
                .map(|v: u64| (v.to_string(), v))
                .into();
            all.extend(named(&[("null pointer", NULL_POINTER)]));
            all
        }
        Kind::Out | Kind::Buffer | Kind::Array => named(&[("null pointer", NULL_POINTER)]),
        Kind::Data => {
            named(&[("null pointer", NULL_POINTER), ("bad", 0x10_0000), ("kernel", 0xffff_8000_0000_0000)])
        }
        Kind::Count => numbers(&[1, 256, 257, 0xffff_ffff]),
    }
}

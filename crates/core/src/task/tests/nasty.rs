//! Nasty numbers: every call with every combination of them, in every personality. No
//! call panics or hangs, and none that fails changes anything.

use std::vec::Vec;

use super::*;
use crate::map::tests::fail::state;
use crate::map::tests::{FIRST, LAST, check, check_empty, map, vm};
use crate::task::{Disposition, PurgableState, ReadEntry};

const ADDRS: [u64; 14] = [
    0,
    1,
    FIRST * P,
    FIRST * P - 1,
    20 * P,
    20 * P + 1,
    21 * P + 0xfff,
    27 * P,
    30 * P,
    33 * P,
    LAST * P - P,
    LAST * P,
    1 << 63,
    u64::MAX,
];
const SIZES: [u64; 11] = [0, 1, P - 1, P, P + 1, 3 * P, 8 * P, 60 * P, 1 << 40, u64::MAX - P, u64::MAX];
const WORDS: [u32; 8] = [0, 1, 3, 7, 8, 0x10, 0x4001, u32::MAX];

/// Calls that leave everything as it was when they fail, with their number.
const CALLS: usize = 22;

fn call(t: &Task<'_, '_, World>, which: usize, x: u64, size: u64, y: u64, w: u32) -> bool {
    let (addr, size, other, may) = (RawAddr(x), RawSize(size), RawAddr(y), &mut may());
    let raw = RawProt(w);
    match which {
        0 => t.vm_allocate(addr, size, RawFlags(w), may).is_ok(),
        1 => t.vm_deallocate(addr, size, may).is_ok(),
        2 => t.vm_protect(addr, size, false, raw, may).is_ok(),
        3 => t.vm_protect(addr, size, true, raw, may).is_ok(),
        4 => t.vm_inherit(addr, size, RawInherit(w), may).is_ok(),
        5 => t.vm_read(addr, size, t, may).is_ok(),
        6 => t.vm_read_overwrite(addr, size, t, other, may).is_ok(),
        7 => t.vm_write(addr, t, other, size, may).is_ok(),
        8 => t.vm_copy(addr, size, other, may).is_ok(),
        9 => {
            let r = (raw, RawProt(7), RawInherit(w & 3));
            t.vm_map(addr, size, y, RawFlags(w & 1), &MapSource::Zero, w & 2 != 0, r, may).is_ok()
        }
        10 => t.vm_remap(other, size, 0, RawFlags(w), t, addr, w & 2 != 0, COPY, may).is_ok(),
        11 => t.vm_remap_new(other, size, 0, ANYWHERE, t, addr, false, (raw, RawProt(7)), COPY, may).is_ok(),
        12 => t.mach_make_memory_entry(size.0, x, w, None, may).is_ok(),
        13 => t.vm_wire(addr, size, raw, false, may).is_ok(),
        14 => t.vm_region_basic(addr, may).is_ok() && t.vm_region_extended(addr, may).is_ok(),
        15 => t.vm_region_top(addr, may).is_ok() && t.vm_region_recurse(addr, may).is_ok(),
        16 => t.vm_machine_attribute(addr, size, w, w, may).is_ok(),
        17 => t.vm_purgable_control(addr, w, PurgableState(w), may).is_ok(),
        18 => {
            t.vm_page_query(addr, may);
            t.vm_page_range_query(addr, size, &mut [Disposition::empty(); 4], may).is_ok()
        }
        19 => t.vm_pages_phys(addr, size, &mut [None; 4], may).is_ok(),
        20 => t.vm_read_list(&mut [ReadEntry { address: x, size: size.0 }], t, may).is_ok(),
        _ => t.vm_write_bytes(addr, &[7; 100], may).is_ok(),
    }
}

/// Calls that may do a part before they fail: immediate advice.
fn partial(t: &Task<'_, '_, World>, x: u64, size: u64, w: u32) {
    let (addr, size, may) = (RawAddr(x), RawSize(size), &mut may());
    let _ = t.vm_msync(addr, size, w & 0x7f, may);
    let _ = t.vm_behavior_set(addr, size, w & 0xf, may);
    let _ = t.vm_wire_all(w, may);
    let _ = t.vm_wire_all(0, may);
}

#[test]
fn nasty_numbers_change_nothing_where_they_fail() {
    for which in 0..CALLS {
        let mut failed = 0;
        for how in Personality::ALL {
            let vm = vm();
            {
                let m = map(&vm);
                furnish(&m);
                let t = Task::new(&m, how);
                let mut before = state(&m);
                for x in ADDRS {
                    for size in SIZES {
                        // The other address and the word go round with them.
                        let at = |k: u64| (x ^ size).wrapping_mul(0x9e37_79b9).wrapping_add(k) as usize >> 3;
                        for k in 0..4 {
                            let (y, w) = (ADDRS[at(k) % ADDRS.len()], WORDS[at(k + 3) % WORDS.len()]);
                            let ok = call(&t, which, x, size, y, w);
                            let after = state(&m);
                            let what = (how.name, which, x, size, y, w);
                            assert!(ok || after == before, "{what:x?} failed and changed something");
                            failed += u32::from(!ok);
                            before = after;
                        }
                    }
                }
            }
            check_empty(&vm);
        }
        assert!(failed > 0, "call {which} never fails");
    }
}

#[test]
fn nasty_numbers_of_advice_leave_a_sound_map() {
    for how in Personality::ALL {
        let vm = vm();
        {
            let m = map(&vm);
            furnish(&m);
            let t = Task::new(&m, how);
            let words: Vec<u32> = (0..16).chain([0x20, 0x24, 0x30, 0x7f, 0xff]).collect();
            for x in ADDRS {
                for size in SIZES {
                    words.iter().for_each(|w| partial(&t, x, size, *w));
                    check(&m);
                }
            }
        }
        check_empty(&vm);
    }
}

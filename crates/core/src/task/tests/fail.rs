//! Fail at k: each call with its k-th request for memory, number space or a region
//! refused, for every k. A call that fails has changed nothing; one that gets by has
//! done all.

use std::boxed::Box;
use std::vec::Vec;

use super::*;
use crate::map::tests::fail::state;
use crate::map::tests::{check_empty, map, vm};
use crate::task::{Made, MakeFlags};

/// No call of these tests makes this many requests.
const MOST: i64 = 300;

type Entry<'vm> = MemoryEntry<'vm, World>;
/// Gives whether it succeeded; what it made is kept where it belongs.
type Call = for<'t, 'vm> fn(&Task<'t, 'vm, World>, &Entry<'vm>, &mut Vec<Entry<'vm>>) -> bool;

fn made<'vm>(m: Result<Made<'vm, World>, crate::task::MakeEntryError>, keep: &mut Vec<Entry<'vm>>) -> bool {
    match m {
        Ok(Made::Entry(e, _)) => {
            keep.push(e);
            true
        }
        other => other.is_ok(),
    }
}

fn calls() -> Vec<(&'static str, Call)> {
    std::vec![
        ("u01 allocate anywhere", |t, _, _| t.vm_allocate(a(0), n(3), ANYWHERE, &mut may()).is_ok()),
        ("u02 allocate over", |t, _, _| t.vm_allocate(a(21), n(3), OVER, &mut may()).is_ok()),
        ("u02 allocate purgeable", |t, _, _| {
            t.vm_allocate(a(40), n(3), VmFlags::PURGABLE.into(), &mut may()).is_ok()
        }),
        ("u04 deallocate", |t, _, _| t.vm_deallocate(a(21), n(2), &mut may()).is_ok()),
        ("u05 map zeroes", |t, _, _| {
            let r = rights(1, 3);
            t.vm_map(a(50), n(2), 0, ANYWHERE, &MapSource::Zero, false, r, &mut may()).is_ok()
        }),
        ("u06 map an entry", |t, e, _| {
            let (r, s) = (rights(3, 3), MapSource::Entry(e, P));
            t.vm_map(a(50), n(2), 0, ANYWHERE, &s, false, r, &mut may()).is_ok()
        }),
        ("u06 map a copy over", |t, e, _| {
            let (r, s) = (rights(3, 3), MapSource::Entry(e, 0));
            t.vm_map(a(21), n(3), 0, OVER, &s, true, r, &mut may()).is_ok()
        }),
        ("u07 remap shared", |t, _, _| {
            t.vm_remap(a(50), n(6), 0, ANYWHERE, t, a(21), false, COPY, &mut may()).is_ok()
        }),
        ("u07 remap a copy over", |t, _, _| {
            t.vm_remap(a(31), n(4), 0, OVER, t, a(21), true, COPY, &mut may()).is_ok()
        }),
        ("u09 plain entry", |t, _, keep| {
            made(t.mach_make_memory_entry(2 * P, 20 * P, 3, None, &mut may()), keep)
        }),
        ("u09 copy entry", |t, _, keep| {
            let flags = 3 | MakeFlags::VM_COPY.bits();
            made(t.mach_make_memory_entry(7 * P, 20 * P, flags, None, &mut may()), keep)
        }),
        ("u09 share entry", |t, _, keep| {
            let flags = 3 | MakeFlags::VM_SHARE.bits();
            made(t.mach_make_memory_entry(7 * P, 20 * P, flags, None, &mut may()), keep)
        }),
        ("u09 new memory", |t, _, keep| {
            let flags = 3 | MakeFlags::NAMED_CREATE.bits();
            made(t.mach_make_memory_entry(7 * P, 0, flags, None, &mut may()), keep)
        }),
        ("u09 child entry", |t, e, keep| {
            // Of an entry of a range there are parts elsewhere.
            let t = Task::new(t.map, &Personality::FREEBSD);
            made(t.mach_make_memory_entry(P, P, 1, Some(e), &mut may()), keep)
        }),
        ("u11 wire", |t, _, _| t.vm_wire(a(21), n(4), RawProt(1), true, &mut may()).is_ok()),
        ("u14 read", |t, _, _| t.vm_read(a(21), n(5), t, &mut may()).is_ok()),
        ("u15 write", |t, _, _| t.vm_write(a(24), t, a(20), n(3), &mut may()).is_ok()),
        ("u16 copy", |t, _, _| t.vm_copy(a(20), n(5), a(22), &mut may()).is_ok()),
        ("u20 protect", |t, _, _| t.vm_protect(a(21), n(3), false, RawProt(1), &mut may()).is_ok()),
        ("u20 maximum", |t, _, _| t.vm_protect(a(21), n(3), true, RawProt(3), &mut may()).is_ok()),
        ("u20 private copy", |t, _, _| {
            t.vm_protect(a(21), n(1), false, RawProt(3 | RawProt::COPY), &mut may()).is_ok()
        }),
        ("u21 inherit", |t, _, _| t.vm_inherit(a(21), n(1), RawInherit(2), &mut may()).is_ok()),
        ("u30 behavior", |t, _, _| t.vm_behavior_set(a(21), n(1), 1, &mut may()).is_ok()),
    ]
}

/// Runs one call in a world of its own with the `k`-th request refused. Gives whether it
/// succeeded, whether something was refused, and the values afterwards.
fn once(name: &str, call: Call, k: i64) -> (bool, bool, Box<dyn core::any::Any>) {
    let vm = vm();
    let out;
    {
        let m = map(&vm);
        furnish(&m);
        let t = Task::new(&m, &Personality::XNU);
        let flags = 3 | MakeFlags::VM_SHARE.bits();
        let base = t.mach_make_memory_entry(4 * P, 20 * P, flags, None, &mut may());
        let Ok(Made::Entry(base, _)) = base else { panic!("{base:?}") };
        let before = state(&m);
        let mut keep = Vec::new();
        vm.platform().fuse.set(k);
        let ok = call(&t, &base, &mut keep);
        let blown = vm.platform().fuse.blown();
        vm.platform().fuse.set(-2);
        let after = state(&m);
        if !ok {
            assert!(after == before, "{name} failed at request {k} and changed something");
            assert!(blown, "{name} failed although nothing was refused");
        }
        out = (ok, blown, Box::new(after.values) as Box<dyn core::any::Any>);
    }
    check_empty(&vm);
    out
}

#[test]
fn calls_that_fail_change_nothing() {
    type Values = std::collections::BTreeMap<u64, u64>;
    for (name, call) in calls() {
        let (ok, _, want) = once(name, call, -2);
        assert!(ok, "{name} fails by itself");
        let mut refusals = 0;
        for k in 0.. {
            assert!(k < MOST, "{name} never gets by");
            let (ok, blown, got) = once(name, call, k);
            if ok {
                let same = got.downcast_ref::<Values>() == want.downcast_ref::<Values>();
                assert!(same, "{name} with request {k} refused did something else");
            }
            refusals += u32::from(!ok);
            if !blown {
                break;
            }
        }
        std::println!("{name}: {refusals} refusals");
    }
}

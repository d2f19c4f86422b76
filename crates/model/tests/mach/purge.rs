//! U31: `vm_purgable_control`; Z111.

use machvm::FaultError;
use machvm::task::{Made, MakeFlags, MapSource, PurgableError, PurgableState, RawFlags, VmFlags};
use machvm_hal::Prot;

use crate::*;

const SET: u32 = 0;
const GET: u32 = 1;
const V: PurgableState = PurgableState::VOLATILE;
const N: PurgableState = PurgableState::NONVOLATILE;
const E: PurgableState = PurgableState::EMPTY;

/// Purgeable memory, written.
fn purgeable(p: &Program<'_>, addr: u64, pages: u64) {
    let flags = RawFlags(VmFlags::PURGABLE.bits());
    assert_eq!(xnu(p).vm_allocate(a(addr), n(pages * P), flags, &mut may()), Ok(addr));
    p.store(addr, &pattern(0, pages * P)).expect("writable");
}
fn control(p: &Program<'_>, addr: u64, what: u32, s: PurgableState) -> Result<PurgableState, PurgableError> {
    xnu(p).vm_purgable_control(a(addr), what, s, &mut may())
}

#[test]
fn u31_states_and_what_they_do() {
    both(64, |vm| {
        let p = program(vm);
        purgeable(&p, BASE, 4);
        assert_eq!(control(&p, BASE, GET, N), Ok(N));
        assert_eq!(control(&p, BASE, SET, V), Ok(N), "the old state");
        assert_eq!(bytes(&p, BASE, 4 * P), pattern(0, 4 * P), "nothing went");
        assert_eq!(control(&p, BASE + 3 * P, SET, N), Ok(V), "not empty: nothing was lost");
        assert_eq!(control(&p, BASE, SET, E), Ok(N));
        assert_eq!(control(&p, BASE, SET, V), Ok(E), "Z111: EMPTY stays EMPTY");
        assert_eq!(control(&p, BASE, GET, V), Ok(E));
        assert_eq!(bytes(&p, BASE, 4 * P), vec![0; 4 * P as usize]);
        assert_eq!(control(&p, BASE, SET, N), Ok(E), "lost");
        p.store_word(BASE, 1).expect("writable");
        assert_eq!(control(&p, BASE, GET, N), Ok(N));
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u31_pressure_takes_volatile_contents_and_only_them() {
    both(64, |vm| {
        let p = program(vm);
        purgeable(&p, BASE, 4);
        purgeable(&p, BASE + (1 << 20), 4);
        fill(&p, BASE + (2 << 20), 4);
        assert_eq!(control(&p, BASE, SET, V), Ok(N));
        assert_eq!(vm.vm_statistics64().purgeable_count, 4);
        assert_eq!(vm.purge_volatile(1, &mut may()), 4, "a whole object");
        assert_eq!(vm.purge_volatile(1, &mut may()), 0);
        assert_eq!((vm.vm_statistics64().purges, vm.statistics().swapouts), (4, 0));
        assert_eq!(bytes(&p, BASE + (1 << 20), 4 * P), pattern(0, 4 * P));
        assert_eq!(bytes(&p, BASE + (2 << 20), 4 * P), pattern(0, 4 * P));
        assert_eq!(control(&p, BASE, SET, N), Ok(E));
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u31_order_of_groups_and_in_a_group() {
    both(64, |vm| {
        let p = program(vm);
        let at = |i: u64| BASE + i * (1 << 20);
        (0..5).for_each(|i| purgeable(&p, at(i), 1));
        let lifo = 1 << 6;
        // Group 1 first in time, but after group 0; LIFO behind FIFO, newest first.
        for (i, bits) in [(0, 1 << 8), (1, 0), (2, 0), (3, lifo), (4, lifo)] {
            assert_eq!(control(&p, at(i), SET, PurgableState(1 | bits)), Ok(N));
        }
        let mut gone = Vec::new();
        for _ in 0..5 {
            assert_eq!(vm.purge_volatile(1, &mut may()), 1);
            let now = (0..5).find(|i| !gone.contains(i) && control(&p, at(*i), GET, N) == Ok(E));
            gone.push(now.expect("one more"));
        }
        assert_eq!(gone, [1, 2, 4, 3, 0]);
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u31_wired_pages_and_copies_keep_their_contents() {
    both(64, |vm| {
        let p = program(vm);
        purgeable(&p, BASE, 4);
        let child = fork(&p);
        assert_eq!(xnu(&p).vm_wire(a(BASE + P), n(P), prot(Prot::RW), true, &mut may()), Ok(()));
        assert_eq!(control(&p, BASE, SET, E), Ok(N));
        assert_eq!(bytes(&child, BASE, 4 * P), pattern(0, 4 * P), "a copy is not purgeable");
        assert_eq!(control(&child, BASE, GET, N), Err(PurgableError::NotPurgeable(va(BASE))));
        let mut want = vec![0; 4 * P as usize];
        want[P as usize..2 * P as usize].copy_from_slice(&pattern(P, P));
        assert_eq!(bytes(&p, BASE, 4 * P), want);
        check_quiet(vm, [&p, &child]);
    });
}

#[test]
fn u31_what_is_on_swap_goes_too_and_purge_all() {
    both(64, |vm| {
        let p = program(vm);
        purgeable(&p, BASE, 4);
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(control(&p, BASE, SET, V), Ok(N));
        assert_eq!(control(&p, 0, 2, N), Ok(N), "PURGE_ALL needs no address");
        assert_eq!(control(&p, BASE, GET, N), Ok(E));
        assert_eq!(vm.platform().mem_swap().map(|s| s.kept()), Some(0));
        assert_eq!(bytes(&p, BASE, 4 * P), vec![0; 4 * P as usize]);
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u31_codes() {
    both(64, |vm| {
        let p = filled(vm, 1);
        purgeable(&p, BASE + P, 1);
        // KERN_INVALID_ARGUMENT.
        assert_eq!(control(&p, BASE, SET, V), Err(PurgableError::NotPurgeable(va(BASE))));
        assert_eq!(control(&p, BASE + P, 3, V), Err(PurgableError::BadControl(3)), "the kernel's own");
        assert_eq!(control(&p, BASE + P, 9, V), Err(PurgableError::BadControl(9)));
        assert_eq!(control(&p, BASE + P, SET, PurgableState(3)), Err(PurgableError::BadState(3)), "DENY");
        assert_eq!(control(&p, BASE + P, SET, PurgableState(0x8000)), Err(PurgableError::BadState(0x8000)));
        // KERN_INVALID_ADDRESS, KERN_PROTECTION_FAILURE.
        assert_eq!(control(&p, BASE + 9 * P, GET, N), Err(PurgableError::Hole(va(BASE + 9 * P))));
        protect(&p, BASE + P, 1, Prot::R);
        assert_eq!(control(&p, BASE + P, SET, V), Err(PurgableError::Protection(va(BASE + P))));
        assert_eq!(control(&p, BASE + P, GET, V), Ok(N));
        assert_eq!(p.store_word(BASE + P, 1), Err(FaultError::Protection(va(BASE + P))));
    });
}

#[test]
fn u31_entries_on_purgeable_memory() {
    both(64, |vm| {
        let p = program(vm);
        let flags = 3 | (MakeFlags::NAMED_CREATE | MakeFlags::PURGABLE).bits();
        let made = xnu(&p).mach_make_memory_entry(2 * P, 0, flags, None, &mut may());
        let Ok(Made::Entry(e, _)) = made else { panic!("{made:?}") };
        let rights = (prot(Prot::RW), prot(Prot::RW), COPY);
        let source = MapSource::Entry(&e, 0);
        assert_eq!(xnu(&p).vm_map(a(BASE), n(2 * P), 0, FIXED, &source, false, rights, &mut may()), Ok(BASE));
        p.store_word(BASE, 1).expect("writable");
        let bad = PurgableState(1 << 20);
        assert_eq!(e.purgable_control(Some(bad), &mut may()), Err(PurgableError::BadState(bad.0)));
        assert_eq!(e.purgable_control(Some(V), &mut may()), Ok(N));
        assert_eq!(control(&p, BASE, GET, N), Ok(V), "one object");
        assert_eq!(vm.purge_volatile(1, &mut may()), 1);
        assert_eq!(e.purgable_control(None, &mut may()), Ok(E));
        assert_eq!(p.load_word(BASE), Ok(0));
        drop((p, e));
    });
}

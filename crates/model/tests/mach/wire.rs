//! U11, U12: `vm_wire`, `vm_wire_all`; Z124.

use machvm::task::{RawProt, VmWireError, WireAllError};
use machvm_hal::Prot;

use crate::*;

const RW: RawProt = RawProt(3);
const NONE: RawProt = RawProt(0);

fn wired(p: &Program<'_>, page: u64) -> u32 {
    xnu(p).vm_region_basic(a(BASE + page * P), &mut may()).expect("mapped").1.user_wired_count
}

#[test]
fn u11_vm_wire_keeps_pages_in_memory() {
    both(32, |vm| {
        let p = program(vm);
        let t = xnu(&p);
        assert_eq!(t.vm_allocate(a(BASE), n(8 * P), FIXED, &mut may()), Ok(BASE));
        assert_eq!(t.vm_wire(a(BASE), n(4 * P), RW, false, &mut may()), Ok(()));
        assert_eq!(vm.vm_statistics64().wire_count, 4, "brought in");
        fill(&p, BASE + (1 << 20), 60);
        let faults = vm.statistics().faults;
        (0..4).for_each(|i| p.store_word(BASE + i * P, 1).expect("writable"));
        assert_eq!(vm.statistics().faults, faults, "no fault on wired memory");
        assert_eq!(t.vm_wire(a(BASE), n(4 * P), NONE, false, &mut may()), Ok(()));
        assert_eq!(vm.vm_statistics64().wire_count, 0);
        check_quiet(vm, [&p]);
    });
}

#[test]
fn z124_wirings_count_in_xnu_and_do_not_elsewhere() {
    both(32, |vm| {
        for (how, twice) in [(XNU, 2), (MACH3, 1), (&Personality::FREEBSD, 1), (&Personality::POSIX, 1)] {
            let p = filled(vm, 2);
            let t = as_(&p, how);
            let wire = |access| t.vm_wire(a(BASE), n(2 * P), access, true, &mut may());
            assert_eq!((wire(RW), wire(RW)), (Ok(()), Ok(())));
            assert_eq!(wired(&p, 0), twice, "{}", how.name);
            assert_eq!(wire(NONE), Ok(()));
            assert_eq!(wired(&p, 0), twice - 1, "{}: the last call wins, or one is left", how.name);
            assert_eq!(wire(NONE), Ok(()));
            assert_eq!(wire(NONE), Ok(()), "not wired: nothing to do");
            assert_eq!(vm.vm_statistics64().wire_count, 0);
            check_quiet(vm, [&p]);
        }
    });
}

#[test]
fn u11_vm_wire_codes() {
    both(32, |vm| {
        let p = filled(vm, 4);
        let wire = |how, addr, size, access| {
            as_(&p, how).vm_wire(a(addr), n(size), RawProt(access), false, &mut may())
        };
        assert_eq!(wire(XNU, BASE, 0, 8), Err(VmWireError::BadAccess(8)), "KERN_INVALID_ARGUMENT");
        assert_eq!(wire(XNU, 3, 0, 3), Ok(()));
        assert_eq!(wire(XNU, u64::MAX, 9, 3), Err(VmWireError::Wraps(u64::MAX)));
        // KERN_INVALID_ADDRESS (Mach 3: KERN_NO_SPACE); what was wired is let go.
        assert_eq!(wire(XNU, BASE, 5 * P, 3), Err(VmWireError::Hole(va(BASE + 4 * P))));
        assert_eq!(wire(MACH3, BASE + 4 * P, P, 3), Err(VmWireError::Hole(va(BASE + 4 * P))));
        assert_eq!(wire(XNU, BASE + 4 * P, P, 0), Err(VmWireError::Hole(va(BASE + 4 * P))));
        assert_eq!(wire(XNU, BASE, 5 * P, 0), Ok(()), "holes behind the first page are passed over");
        assert_eq!(wire(MACH3, BASE, 5 * P, 0), Err(VmWireError::Hole(va(BASE + 4 * P))));
        // KERN_PROTECTION_FAILURE.
        protect(&p, BASE + P, 1, Prot::R);
        assert_eq!(wire(XNU, BASE, 2 * P, 3), Err(VmWireError::Protection(va(BASE + P))));
        assert_eq!(wire(XNU, BASE, 2 * P, 1), Ok(()));
        assert_eq!(wire(XNU, BASE, 2 * P, 0), Ok(()));
        assert_eq!(vm.vm_statistics64().wire_count, 0);
        // KERN_NO_ACCESS: 8 MiB without privilege in Mach 3.
        let big = BASE + (64 << 20);
        assert_eq!(xnu(&p).vm_allocate(a(big), n(9 << 20), FIXED, &mut may()), Ok(big));
        assert_eq!(wire(MACH3, big, 9 << 20, 3), Err(VmWireError::Unprivileged(9 << 20)));
        // More than there is: all of it is let go again.
        let e = as_(&p, MACH3).vm_wire(a(big), n(9 << 20), RW, true, &mut may());
        assert!(matches!(e, Err(VmWireError::Fault(_))), "{e:?}");
        assert_eq!(vm.vm_statistics64().wire_count, 0, "Z28");
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u12_vm_wire_all() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let t = as_(&p, MACH3);
        let all = |flags| t.vm_wire_all(flags, &mut may());
        assert_eq!(all(4), Err(WireAllError::BadFlags(4)), "KERN_INVALID_ARGUMENT");
        assert_eq!(t.vm_protect(a(BASE + 3 * P), n(P), false, NONE, &mut may()), Ok(()));
        assert_eq!(all(1), Ok(()));
        assert_eq!(vm.vm_statistics64().wire_count, 3, "what has rights");
        fill(&p, BASE + (1 << 20), 2);
        assert_eq!(vm.vm_statistics64().wire_count, 3, "not what comes");
        assert_eq!(all(2), Ok(()));
        assert_eq!(t.vm_allocate(a(BASE + (2 << 20)), n(2 * P), FIXED, &mut may()), Ok(BASE + (2 << 20)));
        assert_eq!(vm.vm_statistics64().wire_count, 5);
        // Memory that gets rights while FUTURE is in force.
        assert_eq!(t.vm_protect(a(BASE + 3 * P), n(P), false, RW, &mut may()), Ok(()));
        assert_eq!(vm.vm_statistics64().wire_count, 6);
        assert_eq!(all(0), Ok(()));
        assert_eq!(vm.vm_statistics64().wire_count, 0);
        fill(&p, BASE + (3 << 20), 1);
        assert_eq!(vm.vm_statistics64().wire_count, 0, "FUTURE ended");
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u12_a_failure_of_current_takes_future_back() {
    both(32, |vm| {
        let p = program(vm);
        let t = as_(&p, MACH3);
        assert_eq!(t.vm_allocate(a(BASE), n(64 * P), FIXED, &mut may()), Ok(BASE));
        assert!(matches!(t.vm_wire_all(3, &mut may()), Err(WireAllError::Wire(_))));
        assert_eq!(vm.vm_statistics64().wire_count, 0);
        assert_eq!(t.vm_allocate(a(BASE + (1 << 20)), n(P), FIXED, &mut may()), Ok(BASE + (1 << 20)));
        assert_eq!(vm.vm_statistics64().wire_count, 0);
        // And with FUTURE in force, what cannot be wired is not mapped.
        assert_eq!(t.vm_deallocate(a(BASE), n(2 << 20), &mut may()), Ok(()));
        assert_eq!(t.vm_wire_all(2, &mut may()), Ok(()));
        let e = t.vm_allocate(a(BASE), n(64 * P), FIXED, &mut may());
        assert!(
            matches!(e, Err(machvm::task::AllocateError::Place(machvm::task::PlaceError::Wire(_)))),
            "{e:?}"
        );
        assert_eq!(p.map.size(&mut may()), 0);
        check_quiet(vm, [&p]);
    });
}

//! W01 to W09, vmspace.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::*;
use machvm::map::{Holes, Inherit, Limits, MapFlags, Wiring};
use machvm::vmspace::{UnshareError, VmSpace};
use machvm_hal::{CpuId, Pmap};
use machvm_pmap::CreateError;

fn space(vm: &Vm<Machine>) -> VmSpace<'_, Machine> {
    VmSpace::alloc(vm, vm.platform().pmap(), pages(0, 0x1000))
}
/// Stores by way of the map: there is no CPU in this space.
fn write(s: &Map<'_, Machine>, page: u64, v: u8) {
    s.write_in_page(at(page), &[v], &mut may()).expect("writable");
}
fn read(s: &Map<'_, Machine>, page: u64) -> u8 {
    let mut b = [0];
    s.read_in_page(at(page), &mut b, &mut may()).expect("readable");
    b[0]
}

#[test]
fn w01_w02_w05_z38_the_last_reference_takes_the_contents() {
    each(Config { frames: 100, ..Config::default() }, |vm| {
        let s = space(vm);
        put(s.map(), 0, 8);
        write(s.map(), 3, 3);
        assert_eq!(s.references(), 1);
        let debugger = s.acquire_ref().expect("alive");
        assert_eq!(s.references(), 2);
        assert!(!s.exit(|| {}, &mut may()), "somebody looks at it still");
        assert!(!s.exit(|| {}, &mut may()), "once is enough");
        assert_eq!((s.references(), read(debugger.map(), 3)), (1, 3));
        let second = s.acquire_ref().expect("alive, as somebody holds it");
        drop(debugger);
        assert_eq!(s.map().entry_count(&mut may()), 1);
        drop(second);
        assert_eq!((s.references(), s.map().entry_count(&mut may())), (0, 0));
        assert!(s.acquire_ref().is_none(), "never from zero to one");
        assert_eq!(vm.live(), [0; 6], "gone, although the structure is still there");
    });
}

#[test]
fn w03_w04_z39_the_cpu_leaves_before_anything_is_removed() {
    each(Config { frames: 100, ..Config::default() }, |vm| {
        let s = space(vm);
        put(s.map(), 0, 8);
        write(s.map(), 3, 3);
        s.map().wire_page(va(5), &mut may()).expect("memory");
        s.map().unwire_page(va(5), &mut may());
        let cpu = CpuId(0);
        s.map().pmap().activate(cpu);
        let left = AtomicBool::new(false);
        let leave = || {
            assert_eq!(s.map().entry_count(&mut may()), 1, "everything is there yet");
            assert!(s.resident_count() >= 1);
            s.map().pmap().deactivate(cpu);
            left.store(true, SeqCst);
        };
        assert!(s.exit(leave, &mut may()), "the only one");
        assert!(left.load(SeqCst));
        assert_eq!((s.resident_count(), vm.live()), (0, [0; 6]));
        vm.platform().check_quiet();
    });
}

#[test]
fn w06_w07_exec_reuses_or_renews() {
    each(Config { frames: 100, ..Config::default() }, |vm| {
        let s = space(vm);
        put(s.map(), 0, 8);
        write(s.map(), 3, 3);
        s.map().modflags(MapFlags::WIREFUTURE, MapFlags::empty(), &mut may());
        s.map().set_limits(Limits { stack: 12 << 12, ..Limits::default() }, &mut may());
        let never = || -> Result<_, Infallible> { panic!("no pmap is needed") };
        let same = s.exec(pages(0, 0x1000), never, &mut may()).expect("cannot fail");
        assert!(same.is_none() && s.map().entry_count(&mut may()) == 0);
        assert_eq!(
            (s.map().flags(&mut may()), s.map().limits(&mut may()).stack),
            (MapFlags::empty(), 12 << 12)
        );
        put(s.map(), 0, 8);
        write(s.map(), 3, 4);
        // A kernel thread borrows it (W06): the process gets another one.
        let aio = s.acquire_ref().expect("alive");
        let pmap = || vm.platform().try_pmap();
        let new = s.exec(pages(0, 0x1000), pmap, &mut may()).expect("memory").expect("shared");
        assert_eq!((new.references(), new.map().entry_count(&mut may())), (1, 0));
        assert_eq!(new.map().limits(&mut may()).stack, 12 << 12);
        assert!(!s.exit(|| {}, &mut may()));
        assert_eq!(read(aio.map(), 3), 4);
        drop(aio);
        assert_eq!(s.references(), 0);
        // Other bounds: another map.
        let wider = new.exec(pages(0, 0x2000), pmap, &mut may()).expect("memory").expect("not these");
        assert_eq!(wider.map().max(), va(0x2000));
        // No pmap: nothing happened.
        put(new.map(), 0, 1);
        let failed = new.exec(pages(0, 0x2000), || Err::<machvm_model::ModelPmap, _>("none"), &mut may());
        assert!(matches!(failed, Err("none")) && new.map().entry_count(&mut may()) == 1);
    });
}

#[test]
fn w07_unshare_gives_a_copy_of_ones_own() {
    each(Config { frames: 100, ..Config::default() }, |vm| {
        let s = space(vm);
        put(s.map(), 0, 8);
        write(s.map(), 3, 3);
        let pmap = || vm.platform().try_pmap();
        assert!(matches!(s.unshare(pmap, &mut may()), Ok(None)), "it is private");
        let other = s.acquire_ref().expect("alive");
        let own = s.unshare(pmap, &mut may()).ok().flatten().expect("a copy");
        write(other.map(), 3, 7);
        write(own.map(), 4, 8);
        assert_eq!((read(own.map(), 3), read(other.map(), 4)), (3, 0));
        let none = s.unshare(|| Err::<machvm_model::ModelPmap, _>(CreateError), &mut may());
        assert!(matches!(none, Err(UnshareError::Pmap(CreateError))));
        drop(other);
    });
}

#[test]
fn w08_w09_fork_and_counts() {
    each(Config { frames: 100, ..Config::default() }, |vm| {
        let s = space(vm);
        put(s.map(), 0, 16);
        s.map().inherit(pages(12, 4), Inherit::None, &mut may()).expect("memory");
        (0..16).for_each(|p| write(s.map(), p, p as u8));
        s.map().wire(pages(0, 3), Wiring::User, Holes::Refuse, &mut may()).expect("memory");
        assert_eq!((s.wired_count(&mut may()), s.swap_count(&mut may())), (3, 0));
        assert!(s.resident_count() >= 3);
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!((s.resident_count(), s.swap_count(&mut may())), (3, 13), "what is wired stays");
        let child = s.fork(vm.platform().pmap(), &mut may()).expect("memory");
        assert_eq!((child.references(), child.wired_count(&mut may()), child.resident_count()), (1, 0, 0));
        assert_eq!(child.map().size(&mut may()), 12 << 12, "NONE is absent");
        assert_eq!((read(child.map(), 7), read(s.map(), 7)), (7, 7));
        assert!(child.swap_count(&mut may()) <= 9);
    });
}

//! One task: the calls and what loads and stores see.

use crate::{PAGE, config, load, small_vm, store, vm};
use machvm_linux::{Config, Error, Inherit, Prot, Vm};

#[test]
fn u01_allocated_memory_is_zero_and_keeps_what_is_stored() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(100 * PAGE + 1).expect("memory");
    assert_eq!((a % PAGE, vm.live()[0]), (0, 0), "aligned, and nothing resident");
    for i in 0..101 {
        assert_eq!(load(&task, a + i * PAGE), 0);
        store(&task, a + i * PAGE + 8, i as u64);
    }
    assert!((0..101).all(|i| load(&task, a + i * PAGE + 8) == i as u64));
    let s = vm.statistics().expect("statistics");
    assert_eq!((s.frames, s.core.zero_fill, s.core.map_entries), (101, 101, 1));
    assert!(s.core.faults < 101, "clusters: {} faults", s.core.faults);
    assert_eq!(task.mapped_pages(), 101);
}

#[test]
fn u01_places_are_first_fit_and_can_be_chosen() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(PAGE).expect("memory");
    let b = task.allocate(PAGE).expect("memory");
    assert_eq!((a, b), (0x1_0000, 0x1_1000));
    task.allocate_at(0x4_0123, PAGE).expect("free");
    store(&task, 0x4_0000, 1);
    store(&task, 0x4_1ff8, 2);
    assert!(matches!(task.allocate_at(0x4_1000, 1), Err(Error::NoSpace)));
    assert!(matches!(task.allocate_at(0, 1), Err(Error::InvalidAddress(0))));
    assert!(matches!(task.allocate_at(usize::MAX, 2), Err(Error::InvalidAddress(_))));
    assert!(matches!(task.allocate(0), Err(Error::InvalidArgument(_))));
    assert!(matches!(task.allocate(task.size()), Err(Error::NoSpace)));
    assert!(matches!(task.allocate(usize::MAX), Err(Error::NoSpace | Error::InvalidArgument(_))));
    let regions = task.regions().expect("regions");
    assert_eq!(
        regions.iter().map(|r| (r.start, r.size)).collect::<Vec<_>>(),
        [(0x1_0000, 2 * PAGE), (0x4_0000, 2 * PAGE)]
    );
    assert!(regions.iter().all(|r| (r.prot, r.max, r.inherit) == (Prot::RW, Prot::ALL, Inherit::Copy)));
}

#[test]
fn u04_deallocated_memory_is_gone() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(10 * PAGE).expect("memory");
    (0..10).for_each(|i| store(&task, a + i * PAGE, 7));
    task.deallocate(a + 2 * PAGE, 3 * PAGE).expect("freed");
    assert_eq!(vm.statistics().expect("statistics").frames, 7);
    let mut word = [0; 8];
    assert!(
        matches!(task.read(a + 2 * PAGE, &mut word), Err(Error::InvalidAddress(at)) if at == a + 2 * PAGE)
    );
    assert_eq!(load(&task, a + PAGE), 7);
    assert_eq!(load(&task, a + 5 * PAGE), 7);
    task.deallocate(0, task.size()).expect("freed");
    assert_eq!((vm.statistics().expect("statistics").frames, vm.live()), (0, [0; 6]));
    // And again: holes are passed over.
    task.deallocate(a, 10 * PAGE).expect("nothing to free");
    task.allocate_at(a, 10 * PAGE).expect("free again");
    assert_eq!(load(&task, a), 0);
}

#[test]
fn u20_protection_is_obeyed_and_can_be_given_back() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(4 * PAGE).expect("memory");
    (0..4).for_each(|i| store(&task, a + i * PAGE, 5));
    task.protect(a + PAGE, PAGE, Prot::R).expect("protected");
    task.protect(a + 2 * PAGE, PAGE, Prot::NONE).expect("protected");
    let mut buf = vec![0; 4 * PAGE];
    let r = task.read(a, &mut buf);
    assert!(matches!(r, Err(Error::Protection(at)) if at == a + 2 * PAGE), "{r:?}");
    assert_eq!((buf[0], buf[PAGE], buf[2 * PAGE]), (5, 5, 0), "what lies below was read");
    let r = task.write(a + PAGE - 4, &[9; 8]);
    assert!(matches!(r, Err(Error::Protection(at)) if at == a + PAGE), "{r:?}");
    assert_eq!(load(&task, a + PAGE - 8), 0x0909_0909_0000_0000, "what lies below was written");
    task.protect(a, 4 * PAGE, Prot::RW).expect("protected");
    assert!((1..4).all(|i| load(&task, a + i * PAGE) == 5));
    (0..4).for_each(|i| store(&task, a + i * PAGE, 6));
    assert_eq!(task.regions().expect("regions").len(), 1, "joined again");
}

#[test]
fn u14_u15_read_and_write_reach_absent_pages_and_stay_in_the_window() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(1 << 20).expect("memory");
    let data: Vec<u8> = (0..300_000u32).map(|i| (i * 7) as u8).collect();
    task.write(a + 1234, &data).expect("written");
    let mut back = vec![0; data.len()];
    task.read(a + 1234, &mut back).expect("read");
    assert!(back == data);
    // Both sides managed.
    let b = task.allocate(1 << 20).expect("memory");
    // SAFETY: memory of the task that nothing else refers to.
    let view = unsafe { core::slice::from_raw_parts_mut(task.as_ptr(b), data.len()) };
    task.read(a + 1234, view).expect("read");
    assert!(*view == *data);
    assert!(matches!(task.read(task.size() - 4, &mut [0; 8]), Err(Error::InvalidAddress(_))));
    assert!(matches!(task.write(usize::MAX, &[0; 8]), Err(Error::InvalidAddress(_))));
    assert!(matches!(task.write(0, &[0; 8]), Err(Error::InvalidAddress(0))));
}

#[test]
fn discarded_memory_is_zero_again() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(64 * PAGE).expect("memory");
    (0..64).for_each(|i| store(&task, a + i * PAGE, 1));
    task.discard(a + 8 * PAGE, 16 * PAGE).expect("discarded");
    assert_eq!(vm.statistics().expect("statistics").frames, 48);
    let zero = |i: usize| (8..24).contains(&i);
    assert!((0..64).all(|i| (load(&task, a + i * PAGE) == 0) == zero(i)));
}

#[test]
fn u16_copies_share_pages_until_written() {
    let vm = vm();
    let (from, to) = (vm.task().expect("a task"), vm.task().expect("a task"));
    let a = from.allocate(64 * PAGE).expect("memory");
    let b = to.allocate(64 * PAGE).expect("memory");
    (0..64).for_each(|i| store(&from, a + i * PAGE, i as u64 + 1));
    from.copy(a, 64 * PAGE, &to, b).expect("copied");
    assert_eq!(vm.statistics().expect("statistics").frames, 64, "nothing was copied");
    assert!((0..64).all(|i| load(&to, b + i * PAGE) == i as u64 + 1));
    store(&from, a, 100);
    store(&to, b + PAGE, 200);
    assert_eq!((load(&to, b), load(&from, a + PAGE)), (1, 2));
    // Within a task, overlapping.
    from.copy(a, 32 * PAGE, &from, a + 16 * PAGE).expect("copied");
    assert!((1..32).all(|i| load(&from, a + (16 + i) * PAGE) == i as u64 + 1));
    assert_eq!(load(&from, a + 16 * PAGE), 100);
    // Refused: unaligned, a hole, the wrong protection, another system.
    assert!(matches!(from.copy(a + 1, PAGE, &to, b), Err(Error::InvalidArgument(_))));
    assert!(matches!(from.copy(a + 63 * PAGE, 2 * PAGE, &to, b), Err(Error::InvalidAddress(_))));
    to.protect(b, PAGE, Prot::R).expect("protected");
    assert!(matches!(from.copy(a, PAGE, &to, b), Err(Error::Protection(at)) if at == b));
    let other = small_vm(1 << 20);
    let stranger = other.task().expect("a task");
    assert!(matches!(from.copy(a, PAGE, &stranger, b), Err(Error::InvalidArgument(_))));
}

#[test]
fn systems_are_independent_and_end_with_their_last_task() {
    let systems: Vec<Vm> = (0..8).map(|_| vm()).collect();
    let tasks: Vec<_> = systems.iter().map(|v| v.task().expect("a task")).collect();
    for (n, task) in tasks.iter().enumerate() {
        let a = task.allocate(50 * PAGE).expect("memory");
        assert_eq!(a, 0x1_0000, "each has its own addresses");
        (0..=n).for_each(|i| store(task, a + i * PAGE, n as u64));
    }
    for (n, vm) in systems.iter().enumerate() {
        assert!(vm.statistics().expect("statistics").frames > n as u64);
    }
    drop(systems); // before their tasks
    for (n, task) in tasks.iter().enumerate() {
        assert_eq!(load(task, 0x1_0000), n as u64);
        store(task, 0x1_0000 + 49 * PAGE, 1);
    }
    drop(tasks);
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let refused = |c: Config| assert!(matches!(Vm::new(c), Err(Error::InvalidArgument(_))), "{c:?}");
    refused(Config { memory: Some(0), ..Config::default() });
    refused(Config { memory: Some(4096), ..Config::default() });
    refused(Config { window: 0, ..Config::default() });
    refused(Config { window: u64::MAX, ..Config::default() });
}

#[test]
fn windows_can_be_large_and_many() {
    let vm = Vm::new(Config { window: Config::default().window, ..config() }).expect("a VM");
    let tasks: Vec<_> = (0..300).map(|_| vm.task().expect("a task")).collect();
    for (i, t) in tasks.iter().enumerate() {
        t.allocate_at(t.size() - PAGE, PAGE).expect("the last page");
        store(t, t.size() - 8, i as u64);
    }
    assert!(tasks.iter().enumerate().all(|(i, t)| load(t, t.size() - 8) == i as u64));
}

//! Single faults, one rule each.

use machvm::map::{Attributes, Backing};
use machvm::{FaultError, Vm};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, Va, VaRange};
use machvm_model::{Config, Machine, Task, check_quiet};

const BASE: u64 = 0x10_0000;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(Va::from_page(BASE / PAGE_SIZE + first), n).expect("fits")
}
fn at(page: u64) -> u64 {
    BASE + page * PAGE_SIZE
}
fn both(frames: u32, test: impl Fn(&Vm<Machine>)) {
    for c in (Config { frames, ..Config::default() }).every_kind() {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
        assert_eq!(vm.platform().mem_swap().expect("swap").kept(), 0);
    }
}
fn map(t: &Task<'_>, r: VaRange, prot: Prot) {
    t.map.insert(r, Backing::Anonymous, &Attributes::new(prot), &mut may()).expect("insert");
}

#[test]
fn zero_fill_then_store_then_load() {
    both(256, |vm| {
        let t = Task::new(vm);
        map(&t, pages(0, 40), Prot::RW);
        for i in 0..40 {
            assert_eq!(t.load_word(at(i)).expect("load"), 0);
            t.store_word(at(i) + 8, i + 1).expect("store");
        }
        for i in 0..40 {
            assert_eq!(t.load_word(at(i) + 8).expect("load"), i + 1);
            assert_eq!(t.load_word(at(i) + 16).expect("load"), 0);
        }
        check_quiet(vm, [&t]);
        assert_eq!(vm.statistics().zero_fill, 40);
    });
}

#[test]
fn fork_copies_on_write_both_ways() {
    both(256, |vm| {
        let t = Task::new(vm);
        map(&t, pages(0, 8), Prot::RW);
        (0..8).for_each(|i| t.store_word(at(i), 100 + i).expect("store"));
        let child = Task { map: t.map.fork(vm.platform().pmap(), &mut may()).expect("fork") };
        check_quiet(vm, [&t, &child]);
        child.store_word(at(1), 1).expect("store");
        t.store_word(at(2), 2).expect("store");
        check_quiet(vm, [&t, &child]);
        for i in 0..8 {
            let (mine, its) = (if i == 2 { 2 } else { 100 + i }, if i == 1 { 1 } else { 100 + i });
            assert_eq!(t.load_word(at(i)).expect("load"), mine, "page {i} of the parent");
            assert_eq!(child.load_word(at(i)).expect("load"), its, "page {i} of the child");
        }
        check_quiet(vm, [&t, &child]);
        drop(t);
        assert_eq!(child.load_word(at(5)).expect("load"), 105);
        child.store_word(at(5), 7).expect("store");
        check_quiet(vm, [&child]);
    });
}

/// Stores, and loads of what lies at others' frames, that follow one another break the
/// sharing of up to 16 pages in a fault, upward and downward; others of one, so that nothing
/// is copied that is not asked for.
#[test]
fn f01_copies_come_in_clusters_where_faults_follow_one_another() {
    const N: u64 = 200;
    for c in (Config { frames: 2000, ..Config::default() }).every_kind() {
        let vm = &Vm::new(Machine::new(c.calm())).expect("memory");
        for order in ["up", "down", "scattered"] {
            for written in ["parent", "child"] {
                let t = Task::new(vm);
                map(&t, pages(0, N), Prot::RW);
                (0..N).for_each(|i| t.store_word(at(i), 100 + i).expect("store"));
                let child = Task { map: t.map.fork(vm.platform().pmap(), &mut may()).expect("fork") };
                let (task, other) = if written == "parent" { (&t, &child) } else { (&child, &t) };
                let before = vm.statistics();
                for i in 0..N {
                    let page = match order {
                        "up" => i,
                        "down" => N - 1 - i,
                        _ => (i * 77) % N,
                    };
                    task.store_word(at(page) + 8, i).expect("store");
                    if i == 0 || order == "scattered" {
                        let copies = vm.statistics().cow_copies - before.cow_copies;
                        assert_eq!(copies, i + 1, "{written} {order}");
                    }
                }
                let (faults, copies) = {
                    let now = vm.statistics();
                    (now.faults - before.faults, now.cow_copies - before.cow_copies)
                };
                assert_eq!(copies, N, "each page once, {written} {order}");
                if order != "scattered" {
                    assert!(faults < N / 4, "{faults} faults, {written} {order}, {c:?}");
                }
                check_quiet(vm, [&t, &child]);
                for i in 0..N {
                    let word = |t: &Task<'_>, offset| t.load_word(at(i) + offset).expect("load");
                    assert_eq!((word(task, 0), word(other, 0), word(other, 8)), (100 + i, 100 + i, 0));
                }
                check_quiet(vm, [&t, &child]);
            }
        }
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
    }
}

/// The last sharer's pages become writable again up to 16 in a fault, where faults follow one
/// another; of others one.
#[test]
fn f01_pages_of_the_last_sharer_come_in_clusters() {
    const N: u64 = 200;
    for c in (Config { frames: 2000, ..Config::default() }).every_kind() {
        let vm = Vm::new(Machine::new(c.calm())).expect("memory");
        let t = Task::new(&vm);
        map(&t, pages(0, N), Prot::RW);
        let store = |i: u64, x: u64| t.store_word(at(i), x).expect("store");
        let faults_of = |order: &mut dyn Iterator<Item = u64>, x: u64| {
            drop(Task { map: t.map.fork(vm.platform().pmap(), &mut may()).expect("fork") });
            let before = vm.statistics();
            order.for_each(|i| store(i, x + i));
            let now = vm.statistics();
            assert_eq!(now.cow_copies, before.cow_copies, "{c:?}");
            now.faults - before.faults
        };
        (0..N).for_each(|i| store(i, i));
        let up = faults_of(&mut (0..N), 1000);
        assert!(up <= N / 16 + 8, "{up} faults, {c:?}");
        let apart = faults_of(&mut (0..N).map(|i| i * 37 % N), 2000);
        assert!(apart >= N * 3 / 4, "{apart} faults, {c:?}");
        (0..N).for_each(|i| assert_eq!(t.load_word(at(i)).expect("load"), 2000 + i, "{c:?}"));
        check_quiet(&vm, [&t]);
    }
}

#[test]
fn f01_errors_name_the_page() {
    both(64, |vm| {
        let t = Task::new(vm);
        map(&t, pages(0, 2), Prot::R);
        let mut b = [0];
        assert_eq!(t.load(at(5) + 7, &mut b), Err(FaultError::NoMapping(Va::from_page(at(5) >> 12))));
        assert_eq!(t.store(at(1) + 7, &b), Err(FaultError::Protection(Va::from_page(at(1) >> 12))));
        assert_eq!(t.fetch(at(1)), Err(FaultError::Protection(Va::from_page(at(1) >> 12))));
    });
}

#[test]
fn page_out_and_back() {
    both(48, |vm| {
        let t = Task::new(vm);
        map(&t, pages(0, 200), Prot::RW);
        (0..200).for_each(|i| t.store_word(at(i), i * 3 + 1).expect("store"));
        for i in (0..200).chain((0..200).rev()) {
            assert_eq!(t.load_word(at(i)).expect("load"), i * 3 + 1, "page {i}");
        }
        check_quiet(vm, [&t]);
        let s = vm.statistics();
        assert!(s.swapouts >= 152 && s.swapins >= 152 && s.frames_peak <= 48, "{s:?}");
    });
}

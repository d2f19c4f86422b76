//! What a watcher is told of the use of memory, and unmapping pages to see their uses.

mod common;

use std::collections::BTreeSet;

use common::{at, may, pages};
use machvm::Vm;
use machvm::map::{Attributes, Backing, Holes, Wiring};
use machvm::pageout::{Note, Replacement, Rotation};
use machvm_hal::{Pmap, Prot};
use machvm_model::{Config, Machine, Task, check_quiet};

fn each(frames: u32, test: impl Fn(&Vm<Machine>)) {
    for c in (Config { frames, ..Config::default() }).every_kind() {
        for policy in Replacement::ALL {
            test(&Vm::new(Machine::new(Config { policy, ..c.calm() })).expect("memory"));
        }
    }
}
fn task(vm: &Vm<Machine>, n: u64) -> Task<'_> {
    let t = Task::new(vm);
    t.map.insert(pages(0, n), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may()).expect("insert");
    t
}

// Every page comes before it is used, what counters say of page-ins and of frames freed the notes
// say too, and nothing outlives the task.
#[test]
fn notes_tell_what_counters_count() {
    each(64, |vm| {
        let t = task(vm, 100);
        vm.platform().notes();
        for round in 0..3 {
            (0..100).for_each(|p| t.store_word(at(p), p + round).expect("store"));
            vm.pageout(10, &mut may());
        }
        (0..100).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 2)));
        drop(t);
        let (mut known, mut page_ins, mut freed) = (BTreeSet::new(), 0, 0);
        for note in vm.platform().notes() {
            match note {
                Note::In { page, stored } => {
                    assert!(known.insert(page) || stored, "page {page} came twice");
                    page_ins += u64::from(stored);
                }
                Note::Used { page, .. } | Note::Along { page, .. } => assert!(known.contains(&page)),
                Note::Gone { page } => assert!(known.remove(&page), "page {page} went twice"),
                Note::Freed { pages } => freed += pages,
                Note::Ahead { .. } => {}
            }
        }
        let s = vm.statistics();
        assert!(page_ins > 50, "{s:?}");
        assert_eq!((page_ins, known.len()), (s.swapins, 0));
        assert_eq!(freed, s.dropped + s.laundered_short);
        check_quiet(vm, []);
    });
}

// Every page that is mapped and in use is unmapped in one rotation, except wired ones; the next
// use is a fault, which is told, and contents do not change.
#[test]
fn a_rotation_unmaps_every_page_once() {
    each(128, |vm| {
        let t = task(vm, 80);
        (0..80).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        t.map.wire(pages(10, 4), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        let mapped = || t.map.pmap().resident_count();
        assert_eq!(mapped(), 80);
        vm.platform().notes();
        let mut rotation = Rotation::default();
        for _ in 0..13 {
            let before = mapped();
            let n = vm.sample_uses(&mut rotation, 7, &mut may());
            // Page tables may count a page that goes with the next flush twice.
            assert!(before - mapped() <= n && n <= 7, "{n} pages in one call, {before} were mapped");
        }
        assert_eq!(mapped(), 4, "nothing is mapped but what is wired");
        let s = vm.statistics();
        (0..80).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 1)));
        let told = vm.platform().notes();
        let seen: BTreeSet<u32> = (told.iter())
            .filter_map(|n| match n {
                Note::Used { page, .. } | Note::Along { page, .. } => Some(*page),
                _ => None,
            })
            .collect();
        assert_eq!(seen.len(), 76, "{told:?}");
        assert!(!told.iter().any(|n| matches!(n, Note::In { .. } | Note::Gone { .. })), "{told:?}");
        assert_eq!((s.active, s.zero_fill), (vm.statistics().active, vm.statistics().zero_fill));
        check_quiet(vm, [&t]);
    });
}

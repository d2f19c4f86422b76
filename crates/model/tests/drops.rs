//! Dropping private contents never uncovers an older copy (decision 17): anonymous memory
//! reads zero, private file mappings read the file. Tests are named after rows.

use machvm::Vm;
use machvm::map::{Advice, Advise, Attributes, Backing, Inherit, Leave, MapCopy, Need, Place, Take};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, Va, VaRange};
use machvm_model::{Config, Machine, Point, Task, check_quiet};

const BASE: u64 = 0x2000;
const RW: Attributes = Attributes::new(Prot::RW);

fn may() -> MaySleep {
    MaySleep::claim()
}
fn va(page: u64) -> Va {
    Va::from_page(BASE + page)
}
fn at(page: u64) -> u64 {
    va(page).get()
}
fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(va(first), n).expect("fits")
}
fn with(test: impl Fn(&Vm<Machine>)) {
    for c in (Config { frames: 200, ..Config::default() }).every_kind().map(Config::calm) {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
    }
}
fn fork<'vm>(t: &Task<'vm>) -> Task<'vm> {
    Task { map: t.map.fork(t.map.vm().platform().pmap(), &mut may()).expect("fork") }
}
fn insert(t: &Task<'_>, first: u64, n: u64) {
    t.map.insert(pages(first, n), Backing::Anonymous, &RW, &mut may()).expect("insert");
}
fn fill(t: &Task<'_>, first: u64, n: u64, more: u64) {
    (first..first + n).for_each(|p| t.store_word(at(p), p + more).expect("store"));
}
fn expect(t: &Task<'_>, first: u64, n: u64, want: impl Fn(u64) -> u64) {
    (first..first + n).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(want(p)), "page {p} of {t:?}"));
}
/// Generations of contents, the older ones in memory, on swap and with other tasks.
fn layered<'vm>(vm: &'vm Vm<Machine>, n: u64) -> (Task<'vm>, Vec<Task<'vm>>) {
    let t = Task::new(vm);
    insert(&t, 0, n);
    fill(&t, 0, n, 100);
    let first = fork(&t);
    fill(&t, 0, n, 200);
    while vm.pageout(1000, &mut may()) != 0 {}
    let second = fork(&t);
    fill(&t, 0, n / 2, 300);
    (t, vec![first, second])
}

#[test]
fn z58_dropped_memory_is_zero_whatever_it_was_copied_from() {
    with(|vm| {
        for advise in [Advise::DontNeed, Advise::Free] {
            let (t, others) = layered(vm, 20);
            let child = fork(&others[0]);
            assert_eq!(t.map.madvise(pages(2, 16), advise, &mut may()), Ok(None));
            expect(&t, 2, 16, |_| 0);
            assert_eq!(child.map.madvise(pages(0, 20), advise, &mut may()), Ok(None));
            expect(&child, 0, 20, |_| 0);
            // Again, after it was written again.
            fill(&t, 2, 16, 400);
            assert_eq!(t.map.madvise(pages(2, 16), advise, &mut may()), Ok(None));
            while vm.pageout(1000, &mut may()) != 0 {}
            expect(&t, 2, 16, |_| 0);
            expect(&t, 0, 2, |p| p + 300);
            expect(&others[0], 0, 20, |p| p + 100);
            expect(&others[1], 0, 20, |p| p + 200);
            check_quiet(vm, others.iter().chain([&t, &child]));
        }
    });
}

#[test]
fn z58_a_private_mapping_of_a_file_reads_the_file_again() {
    with(|vm| {
        let byte = |page: u64| u64::from_le_bytes([page as u8 + 1; 8]);
        let data = (0..12 * PAGE_SIZE).map(|i| (i / PAGE_SIZE) as u8 + 1).collect();
        let (id, _) = vm.platform().add_pager(data);
        let (o, first) = vm.object_from_pager(12, id, 0, false, &mut may()).expect("object");
        let t = Task::new(vm);
        t.map.insert(pages(0, 12), Backing::Private(o, first), &RW, &mut may()).expect("insert");
        fill(&t, 0, 10, 100);
        let child = fork(&t);
        fill(&t, 0, 10, 200);
        // The child has nothing of its own to drop: what it shares is not the file's either.
        assert_eq!(child.map.madvise(pages(0, 5), Advise::DontNeed, &mut may()), Ok(None));
        assert_eq!(t.map.madvise(pages(3, 5), Advise::DontNeed, &mut may()), Ok(None));
        expect(&child, 0, 5, byte);
        expect(&child, 5, 5, |p| p + 100);
        expect(&t, 3, 5, byte);
        expect(&t, 8, 2, |p| p + 200);
        // FREE leaves what is not anonymous alone.
        assert_eq!(t.map.madvise(pages(0, 12), Advise::Free, &mut may()), Ok(None));
        expect(&t, 0, 3, |p| p + 200);
        check_quiet(vm, [&t, &child]);
    });
}

#[test]
fn z56_memory_that_joins_a_neighbour_finds_nothing_old() {
    with(|vm| {
        for copied in [false, true] {
            let t = Task::new(vm);
            insert(&t, 0, 30);
            fill(&t, 0, 30, 100);
            let child = copied.then(|| fork(&t));
            while vm.pageout(1000, &mut may()) != 0 {}
            for (first, n) in [(20, 10), (0, 5), (8, 4)] {
                t.map.delete(pages(first, n), &mut may()).expect("delete");
                insert(&t, first, n);
                expect(&t, first, n, |_| 0);
                fill(&t, first, n, 100);
            }
            t.map.delete(pages(25, 5), &mut may()).expect("delete");
            t.map.extend(va(25), 5, &mut may()).expect("extend");
            expect(&t, 25, 5, |_| 0);
            expect(&t, 0, 25, |p| p + 100);
            child.iter().for_each(|c| expect(c, 0, 30, |p| p + 100));
            check_quiet(vm, child.iter().chain([&t]));
        }
    });
}

/// The end of a mapping of a file goes while memory is short, so that its contents may stay
/// behind; the mapping grows again.
#[test]
fn z56_a_file_mapping_that_grows_again_reads_the_file() {
    with(|vm| {
        for k in 0..40 {
            let byte = |page: u64| u64::from_le_bytes([page as u8 + 1; 8]);
            let data = (0..12 * PAGE_SIZE).map(|i| (i / PAGE_SIZE) as u8 + 1).collect();
            let (id, _) = vm.platform().add_pager(data);
            let (o, first) = vm.object_from_pager(12, id, 0, false, &mut may()).expect("object");
            let t = Task::new(vm);
            t.map.insert(pages(0, 12), Backing::Private(o, first), &RW, &mut may()).expect("insert");
            fill(&t, 0, 12, 100);
            let child = fork(&t);
            vm.platform().inject().arm(Point::Object as u32, k, false);
            let done = t.map.delete(pages(6, 6), &mut may());
            vm.platform().inject().disarm();
            if done.is_ok() {
                t.map.extend(va(6), 6, &mut may()).expect("extend");
                expect(&t, 6, 6, byte);
            }
            expect(&t, 0, 6, |p| p + 100);
            expect(&child, 0, 12, |p| p + 100);
            check_quiet(vm, [&t, &child]);
        }
    });
}

#[test]
fn d17_wipe_on_fork_and_what_a_move_leaves_are_zero() {
    with(|vm| {
        let (t, others) = layered(vm, 20);
        t.map.inherit(pages(3, 10), Inherit::Zero, &mut may()).expect("inherit");
        let child = fork(&t);
        expect(&child, 3, 10, |_| 0);
        expect(&child, 0, 3, |p| p + 300);
        let grandchild = fork(&child);
        fill(&child, 3, 10, 500);
        expect(&grandchild, 3, 10, |_| 0);
        expect(&fork(&child), 3, 10, |_| 0);
        t.map.move_range(pages(3, 10), va(100), Leave::Zeroes, &mut may()).expect("move");
        expect(&t, 3, 10, |_| 0);
        expect(&t, 100, 7, |p| p - 97 + 300);
        t.map.fixed(pages(0, 3), Backing::Anonymous, &RW, &mut may()).expect("fixed");
        expect(&t, 0, 3, |_| 0);
        check_quiet(vm, others.iter().chain([&t, &child, &grandchild]));
    });
}

/// Memory that is shared in part, copied in part: what one task unmaps the others keep.
#[test]
fn z57_splitting_and_unmapping_frees_nothing_that_others_map() {
    with(|vm| {
        let t = Task::new(vm);
        insert(&t, 0, 24);
        fill(&t, 0, 24, 100);
        t.map.inherit(pages(8, 8), Inherit::Share, &mut may()).expect("inherit");
        let child = fork(&t);
        t.map.delete(pages(6, 6), &mut may()).expect("delete");
        assert_eq!(t.map.madvise(pages(12, 4), Advise::DontNeed, &mut may()), Ok(None));
        expect(&child, 0, 24, |p| p + 100);
        expect(&t, 12, 12, |p| p + 100); // shared: only unmapped
        child.store_word(at(13), 1).expect("store");
        assert_eq!(t.load_word(at(13)), Ok(1));
        insert(&t, 6, 6);
        expect(&t, 6, 6, |_| 0);
        child.map.delete(pages(0, 20), &mut may()).expect("delete");
        assert_eq!(t.load_word(at(13)), Ok(1));
        expect(&t, 14, 2, |p| p + 100);
        check_quiet(vm, [&t, &child]);
    });
}

/// What a range is made of, as others share it.
fn share<'vm>(t: &Task<'vm>, first: u64, n: u64) -> MapCopy<'vm, Machine> {
    let need = Need { prot: Prot::R, max: Prot::R };
    t.map.extract(pages(first, n), Take::Share, need, &mut may()).expect("memory").pieces
}
fn place<'vm>(t: &Task<'vm>, first: u64, pieces: &mut MapCopy<'vm, Machine>) {
    t.map.copyout(Place::At(va(first)), pieces, |a| a, &mut may()).expect("room");
}
fn drop_all(t: &Task<'_>, first: u64, n: u64, advise: Advise) {
    assert_eq!(t.map.madvise(pages(first, n), advise, &mut may()), Ok(None));
}
fn filled(vm: &Vm<Machine>) -> Task<'_> {
    let t = Task::new(vm);
    insert(&t, 0, 24);
    fill(&t, 0, 24, 100);
    t
}

/// madvise(2), MADV_DONTNEED: of a mapping of which a child shares a part the rest is private.
#[test]
fn d17_private_parts_of_memory_that_a_child_shares_are_dropped() {
    with(|vm| {
        for advise in [Advise::DontNeed, Advise::Free] {
            let t = filled(vm);
            t.map.inherit(pages(8, 8), Inherit::Share, &mut may()).expect("inherit");
            let child = fork(&t);
            while vm.pageout(1000, &mut may()) != 0 {}
            drop_all(&t, 0, 24, advise);
            expect(&t, 0, 8, |_| 0);
            expect(&t, 8, 8, |p| p + 100);
            expect(&t, 16, 8, |_| 0);
            expect(&child, 0, 24, |p| p + 100);
            drop_all(&child, 0, 24, advise);
            expect(&child, 16, 8, |_| 0);
            child.store_word(at(9), 1).expect("store");
            assert_eq!(t.load_word(at(9)), Ok(1));
            // The grandchild's copy of what they share is its own.
            child.map.inherit(pages(8, 8), Inherit::Copy, &mut may()).expect("inherit");
            let grandchild = fork(&child);
            drop_all(&grandchild, 0, 24, advise);
            expect(&grandchild, 0, 24, |_| 0);
            assert_eq!(t.load_word(at(10)), Ok(110));
            check_quiet(vm, [&t, &child, &grandchild]);
        }
    });
}

/// As above, of memory that is mapped twice (vm_remap, memory entries).
#[test]
fn d17_private_parts_of_memory_mapped_twice_are_dropped() {
    with(|vm| {
        let t = filled(vm);
        let other = Task::new(vm);
        let mut entry = share(&t, 8, 8);
        // Nobody maps it yet, but somebody may.
        drop_all(&t, 0, 24, Advise::DontNeed);
        expect(&t, 0, 8, |_| 0);
        expect(&t, 8, 8, |p| p + 100);
        expect(&t, 16, 8, |_| 0);
        let mut part = entry.window(2, 4, Take::Share, &mut may()).expect("memory");
        place(&t, 100, &mut part);
        place(&other, 0, &mut entry);
        drop_all(&t, 100, 4, Advise::DontNeed);
        drop_all(&other, 0, 8, Advise::DontNeed);
        expect(&other, 0, 8, |p| p + 108);
        expect(&t, 100, 4, |p| p + 10);
        // Moved, cut and joined it is the same memory.
        t.map.move_range(pages(10, 4), va(200), Leave::Zeroes, &mut may()).expect("move");
        drop_all(&t, 0, 24, Advise::DontNeed);
        expect(&t, 10, 4, |_| 0);
        drop_all(&t, 200, 4, Advise::DontNeed);
        expect(&t, 200, 4, |p| p - 90);
        drop((entry, part));
        check_quiet(vm, [&t, &other]);
    });
}

/// Contents that were put in place of shared ones are private.
#[test]
fn d17_what_replaces_shared_contents_is_dropped() {
    with(|vm| {
        let (t, other) = (filled(vm), Task::new(vm));
        place(&other, 8, &mut share(&t, 8, 8));
        t.map.copy_range(pages(0, 4), &t.map, va(10), &mut may()).expect("copy");
        drop_all(&t, 8, 8, Advise::DontNeed);
        expect(&t, 10, 4, |_| 0);
        expect(&t, 8, 2, |p| p + 100);
        expect(&t, 14, 2, |p| p + 100);
        expect(&other, 8, 8, |p| p + 100);
        check_quiet(vm, [&t, &other]);
    });
}

#[test]
fn d17_sharing_that_came_to_nothing_leaves_memory_private() {
    with(|vm| {
        let (t, other) = (filled(vm), Task::new(vm));
        place(&other, 0, &mut share(&t, 20, 4));
        let before = t.map.entry_count(&mut may());
        let unused = share(&t, 4, 18);
        t.map.unextract(pages(4, 18), unused, &mut may());
        assert_eq!(t.map.entry_count(&mut may()), before);
        drop_all(&t, 0, 24, Advise::DontNeed);
        expect(&t, 0, 20, |_| 0);
        expect(&t, 20, 4, |p| p + 100);
        // Not where somebody shared it meanwhile.
        fill(&t, 0, 20, 100);
        let unused = share(&t, 4, 8);
        place(&other, 100, &mut share(&t, 6, 4));
        t.map.unextract(pages(4, 8), unused, &mut may());
        drop_all(&t, 0, 20, Advise::DontNeed);
        expect(&t, 6, 4, |p| p + 100);
        expect(&other, 100, 4, |p| p + 6);
        check_quiet(vm, [&t, &other]);
    });
}

/// mremap(2): what a mapping grows by is no part of others' private memory.
#[test]
fn d17_memory_that_grows_behind_a_shared_part_is_private() {
    with(|vm| {
        let t = filled(vm);
        t.map.inherit(pages(8, 8), Inherit::Share, &mut may()).expect("inherit");
        let child = fork(&t);
        child.map.delete(pages(16, 8), &mut may()).expect("delete");
        child.map.extend(va(16), 8, &mut may()).expect("extend");
        expect(&child, 16, 8, |_| 0);
        fill(&child, 16, 8, 500);
        expect(&t, 16, 8, |p| p + 100);
        expect(&t, 8, 8, |p| p + 100);
        drop_all(&child, 8, 16, Advise::DontNeed);
        expect(&child, 8, 8, |p| p + 100);
        expect(&child, 16, 8, |_| 0);
        check_quiet(vm, [&t, &child]);
    });
}

/// Pages of a range that is large enough to be freed later.
const LARGE: u64 = 4100;

/// Memory of which only what is touched comes into memory.
fn insert_random(t: &Task<'_>, first: u64, n: u64) {
    let random = Attributes { advice: Advice::Random, ..RW };
    t.map.insert(pages(first, n), Backing::Anonymous, &random, &mut may()).expect("insert");
}
fn copy(t: &Task<'_>, from: u64, n: u64, to: u64) {
    t.map.copy_range(pages(from, n), &t.map, va(to), &mut may()).expect("copied");
}
fn resident(vm: &Vm<Machine>) -> u64 {
    vm.live()[0]
}

/// What a copy replaced may be freed later: nobody sees it meanwhile, and then it is gone.
#[test]
fn m66_what_a_copy_replaced_goes_later() {
    with(|vm| {
        let t = Task::new(vm);
        for base in [0, 10_000, 20_000] {
            insert_random(&t, base, LARGE + 10);
        }
        fill(&t, 3, 20, 1000);
        fill(&t, 10_003, 40, 2000);
        fill(&t, 10_000 + LARGE, 2, 3000);
        let before = resident(vm);
        // Not asked for: at once.
        copy(&t, 0, LARGE, 10_000);
        assert_eq!((vm.replaced_pages(), resident(vm)), (0, before - 40));
        expect(&t, 10_003, 20, |p| p - 10_000 + 1000);

        vm.set_replaced_limit(LARGE + 10);
        fill(&t, 20_003, 30, 4000);
        fill(&t, 20_000 + LARGE, 2, 5000);
        let before = resident(vm);
        copy(&t, 0, LARGE, 20_000);
        assert_eq!((vm.replaced_pages(), resident(vm)), (LARGE, before));
        expect(&t, 20_003, 20, |p| p - 20_000 + 1000);
        expect(&t, 20_023, 10, |_| 0);
        expect(&t, 20_000 + LARGE, 2, |p| p + 5000);
        // No more than the limit.
        insert_random(&t, 30_000, LARGE);
        fill(&t, 30_003, 5, 1);
        let before = resident(vm);
        copy(&t, 0, LARGE, 30_000);
        assert_eq!((vm.replaced_pages(), resident(vm)), (LARGE, before - 5));

        let before = resident(vm);
        assert!(vm.free_replaced(&mut may()) && !vm.free_replaced(&mut may()));
        assert_eq!((vm.replaced_pages(), resident(vm)), (0, before - 30));
        check_quiet(vm, [&t]);
        expect(&t, 20_000 + LARGE, 2, |p| p + 5000);
        vm.free_all_replaced(&mut may());
    });
}

/// New memory where replaced contents wait has none of them, and keeps its own when they go.
#[test]
fn z56_memory_that_is_new_is_not_what_a_copy_replaced() {
    with(|vm| {
        vm.set_replaced_limit(3 * LARGE);
        for end in [0, 10] {
            let t = Task::new(vm);
            insert_random(&t, 10_000, 50 + LARGE + end);
            fill(&t, 10_040, 10, 100);
            // A gap, then contents.
            fill(&t, 10_050 + 80, 20, 200);
            insert_random(&t, 0, LARGE);
            fill(&t, 0, 5, 300);
            copy(&t, 0, LARGE, 10_050);
            assert_eq!(vm.replaced_pages(), LARGE);
            t.map.delete(pages(10_050, LARGE + end), &mut may()).expect("deleted");
            // Joins what is before it, if it may; then more than the gap.
            insert_random(&t, 10_050, 60);
            fill(&t, 10_050, 30, 400);
            insert_random(&t, 10_110, 200);
            expect(&t, 10_110, 200, |_| 0);
            vm.free_all_replaced(&mut may());
            check_quiet(vm, [&t]);
            expect(&t, 10_040, 10, |p| p + 100);
            expect(&t, 10_050, 30, |p| p + 400);
            expect(&t, 10_080, 230, |_| 0);
            insert_random(&t, 10_310, 200);
            expect(&t, 10_310, 60, |_| 0);
        }
    });
}

/// A fork takes nothing along that waits to be freed; what waits outlives its map.
#[test]
fn m61_a_fork_and_a_map_that_ends_while_replaced_contents_wait() {
    with(|vm| {
        vm.set_replaced_limit(4 * LARGE);
        let t = Task::new(vm);
        insert_random(&t, 0, LARGE);
        fill(&t, 0, 10, 1000);
        // Of an object that goes on, of one that is nobody else's, and of one that is copied.
        for (to, n) in [(10_000, LARGE + 10), (20_000, LARGE), (20_000, LARGE)] {
            if to == 10_000 || t.load_word(at(to)).is_err() {
                insert_random(&t, to, n);
            }
            fill(&t, to, 10, 6000);
            copy(&t, 0, LARGE, to);
            let child = fork(&t);
            expect(&child, to, 10, |p| p - to + 1000);
            fill(&child, to, 10, 1);
            expect(&t, to, 10, |p| p - to + 1000);
            drop(child);
        }
        vm.free_all_replaced(&mut may());
        check_quiet(vm, [&t]);
        insert_random(&t, 30_000, 2 * LARGE + 10);
        fill(&t, 30_000, 10, 6000);
        fill(&t, 30_000 + LARGE, 10, 6000);
        let before = resident(vm);
        copy(&t, 0, LARGE, 30_000);
        copy(&t, 0, LARGE, 30_000 + LARGE);
        assert_eq!((vm.replaced_pages(), resident(vm)), (2 * LARGE, before));
        let child = fork(&t);
        assert_eq!(vm.replaced_pages(), 0, "a copy of the object would have it too");
        check_quiet(vm, [&t, &child]);
        drop(child);
        insert_random(&t, 50_000, LARGE);
        fill(&t, 50_000, 10, 7000);
        copy(&t, 0, LARGE, 50_000);
        drop(t);
        assert_eq!((vm.replaced_pages(), resident(vm)), (LARGE, 10));
        vm.free_all_replaced(&mut may());
    });
}

/// Where memory is short, what waits goes before anything is written.
#[test]
fn m66_replaced_contents_are_freed_before_pages_are_written() {
    with(|vm| {
        vm.set_replaced_limit(LARGE);
        let t = Task::new(vm);
        insert_random(&t, 0, LARGE);
        insert_random(&t, 10_000, LARGE);
        fill(&t, 10_000, 100, 1);
        copy(&t, 0, LARGE, 10_000);
        assert_eq!((vm.replaced_pages(), resident(vm)), (LARGE, 100));
        // Half the memory is what waits.
        fill(&t, 0, 150, 2);
        assert_eq!((vm.replaced_pages(), vm.statistics().swapouts), (0, 0));
        expect(&t, 0, 150, |p| p + 2);
        expect(&t, 10_000, 100, |_| 0);
    });
}

//! Issue 2, 6: the cost of copy-on-write does not depend on how many copies live, nor
//! on how many generations there were. Counted, not timed.

use machvm::Vm;
use machvm::map::{Attributes, Backing};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, Va, VaRange};
use machvm_model::hw::Arch;
use machvm_model::{Config, Machine, Point, Task, check_quiet};

const PAGES: u64 = 1200;
const COPIES: u64 = 256;
const BASE: u64 = 0x4000;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn at(page: u64) -> u64 {
    (BASE + page) * PAGE_SIZE
}

/// Requests for structures, frame numbers, frames and mappings; pages copied, faults.
fn work(vm: &Vm<Machine>) -> [u64; 7] {
    let i = vm.platform().inject();
    let s = vm.statistics();
    let of = |p| i.chances(p);
    [
        of(Point::Object),
        of(Point::Extent),
        of(Point::Zero),
        of(Point::Prepare),
        of(Point::Enter),
        s.cow_copies,
        s.faults,
    ]
}

/// Work of `f`.
fn cost(vm: &Vm<Machine>, f: impl FnOnce()) -> [u64; 7] {
    let before = work(vm);
    f();
    let after = work(vm);
    std::array::from_fn(|i| after[i] - before[i])
}

fn within(what: &str, n: u64, one: &[u64; 7], now: &[u64; 7]) {
    for (a, b) in one.iter().zip(now) {
        assert!(a.abs_diff(*b) * 20 <= *a, "{what} {n}: {now:?}, of the first {one:?}");
    }
}

fn both(test: impl Fn(&Vm<Machine>)) {
    let c = Config { frames: 6000, ..Config::default() };
    // Of page tables one kind: cost is not a matter of the format. A task has a few tables.
    let tables = c.on_tables(Arch::X86L4, true).calm().with_tables(4096);
    for c in [c, Config { sparse: false, ..c }, tables] {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
    }
}

fn root(vm: &Vm<Machine>) -> Task<'_> {
    let t = Task::new(vm);
    let r = VaRange::of_pages(Va::from_page(BASE), PAGES).expect("fits");
    t.map.insert(r, Backing::Anonymous, &Attributes::new(Prot::RW), &mut may()).expect("insert");
    (0..PAGES).for_each(|p| t.store_word(at(p), p).expect("store"));
    t
}
fn fork<'vm>(t: &Task<'vm>) -> Task<'vm> {
    Task { map: t.map.fork(t.map.vm().platform().pmap(), &mut may()).expect("fork") }
}

#[test]
fn living_children_256() {
    both(|vm| {
        let t = root(vm);
        let (mut children, mut first) = (vec![fork(&t)], None);
        for n in 1..COPIES {
            // The page that this turn dirties was shared with every child so far.
            let dirty = cost(vm, || t.store_word(at(n), 1000 + n).expect("store"));
            let copy = cost(vm, || children.push(fork(&t)));
            let child = children.last().expect("just made");
            let written = cost(vm, || child.store_word(at(600 + n), 2000 + n).expect("store"));
            let read = cost(vm, || assert_eq!(child.load_word(at(n)), Ok(1000 + n)));
            let now = [dirty, copy, written, read];
            if n == 1 {
                continue; // the child before did not read or write, those to come did
            }
            let one = first.get_or_insert(now);
            for (what, (a, b)) in
                ["dirty", "copy", "child writes", "child reads"].iter().zip(one.iter().zip(&now))
            {
                within(what, n, a, b);
            }
        }
        println!("one child: {:?}", first.expect("some"));
        check_quiet(vm, children.iter().chain([&t]));
        for (i, child) in children.iter().enumerate().step_by(17) {
            for p in [0, 1, i as u64, i as u64 + 1, 255, 700] {
                let want = if (1..=i as u64).contains(&p) { 1000 + p } else { p };
                let want = if i != 0 && p == 600 + i as u64 { 2000 + i as u64 } else { want };
                assert_eq!(child.load_word(at(p)), Ok(want), "page {p} of child {i}");
            }
        }
    });
}

#[test]
fn generations_256() {
    for keep in [false, true] {
        both(|vm| {
            let mut tasks = vec![root(vm)];
            let mut first = None;
            for n in 0..COPIES {
                let copy = cost(vm, || tasks.push(fork(tasks.last().expect("some"))));
                let t = tasks.last().expect("some");
                let dirty = cost(vm, || t.store_word(at(n), 1000 + n).expect("store"));
                let reread = cost(vm, || assert_eq!(t.load_word(at(n)), Ok(1000 + n)));
                if !keep {
                    tasks.remove(0);
                }
                // The first copy is of memory that was never shared.
                if n >= 1 {
                    let one = first.get_or_insert([copy, dirty, reread]);
                    within("copy", n, &one[0], &copy);
                    within("dirty", n, &one[1], &dirty);
                    within("reread", n, &one[2], &reread);
                }
                let live = vm.live();
                // Pages and anons: the root's and one for each generation that lives.
                let most = PAGES + if keep { 2 * n } else { 0 } + 20;
                assert!(live[0] <= most && live[1] <= most, "generation {n}: {live:?}");
            }
            check_quiet(vm, &tasks);
            let t = tasks.last().expect("some");
            for p in 0..PAGES {
                assert_eq!(t.load_word(at(p)), Ok(if p < COPIES { 1000 + p } else { p }), "page {p}");
            }
            check_quiet(vm, &tasks);
        });
    }
}

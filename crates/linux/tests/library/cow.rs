//! Children: isolation, sharing, and what copy-on-write costs.

use crate::{PAGE, Rng, load, store, vm};
use machvm_linux::{Inherit, Task, Vm};

#[test]
fn m61_m62_children_inherit_as_told() {
    let vm = vm();
    let task = vm.task().expect("a task");
    let a = task.allocate(4 * PAGE).expect("memory");
    (0..4).for_each(|i| store(&task, a + i * PAGE, 9));
    task.inherit(a, PAGE, Inherit::Share).expect("set");
    task.inherit(a + 2 * PAGE, PAGE, Inherit::None).expect("set");
    task.inherit(a + 3 * PAGE, PAGE, Inherit::Zero).expect("set");
    let child = task.fork().expect("a child");
    assert_eq!((load(&child, a), load(&child, a + PAGE), load(&child, a + 3 * PAGE)), (9, 9, 0));
    assert!(child.read(a + 2 * PAGE, &mut [0]).is_err());
    store(&child, a, 1);
    store(&child, a + PAGE, 2);
    store(&child, a + 3 * PAGE, 3);
    assert_eq!(
        (0..4).map(|i| load(&task, a + i * PAGE)).collect::<Vec<_>>(),
        [1, 9, 9, 9],
        "only the shared page changed"
    );
    store(&task, a, 4);
    assert_eq!(load(&child, a), 4);
}

/// Eight children; every one and the parent write at random, each checks its own view.
#[test]
fn children_and_parent_do_not_see_each_other() {
    const PAGES: usize = 200;
    let mut rng = Rng::new(8);
    let vm = vm();
    let parent = vm.task().expect("a task");
    let a = parent.allocate(PAGES * PAGE).expect("memory");
    (0..PAGES).filter(|i| i % 3 != 0).for_each(|i| store(&parent, a + i * PAGE, i as u64));
    let view: Vec<u64> = (0..PAGES).map(|i| if i % 3 != 0 { i as u64 } else { 0 }).collect();
    let mut tasks = vec![(parent, view)];
    for round in 0..8 {
        let (child, view) = (tasks[0].0.fork().expect("a child"), tasks[0].1.clone());
        tasks.push((child, view));
        for _ in 0..300 {
            let who = rng.below(tasks.len());
            let (i, value) = (rng.below(PAGES), rng.draw());
            let (task, view) = &mut tasks[who];
            store(task, a + i * PAGE, value);
            view[i] = value;
        }
        for (n, (task, view)) in tasks.iter().enumerate() {
            let wrong = (0..PAGES).find(|i| load(task, a + i * PAGE) != view[*i]);
            assert_eq!(wrong, None, "task {n} in round {round}");
        }
    }
    // In any order, the rest keeps its contents.
    while !tasks.is_empty() {
        tasks.swap_remove(rng.below(tasks.len()));
        for (task, view) in &tasks {
            assert!((0..PAGES).all(|i| load(task, a + i * PAGE) == view[i]));
        }
    }
    assert_eq!(vm.live(), [0; 6], "something is left over");
    assert_eq!(vm.statistics().expect("statistics").frames, 0);
}

/// What one dirtied page of a task with `PAGES` pages and `children` live children
/// costs, in counted work.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Cost {
    faults: f64,
    copies: f64,
    frames: f64,
}

const PAGES: usize = 512;

fn filled(vm: &Vm) -> (Task, usize) {
    let task = vm.task().expect("a task");
    let a = task.allocate(PAGES * PAGE).expect("memory");
    (0..PAGES).for_each(|i| store(&task, a + i * PAGE, i as u64 + 1));
    (task, a)
}

fn counts(vm: &Vm) -> [f64; 3] {
    let s = vm.statistics().expect("statistics");
    [s.core.faults as f64, s.core.cow_copies as f64, s.frames as f64]
}

fn per(n: usize, before: [f64; 3], after: [f64; 3]) -> Cost {
    let each = |i: usize| (after[i] - before[i]) / n as f64;
    Cost { faults: each(0), copies: each(1), frames: each(2) }
}

fn assert_close(got: Cost, one: Cost, what: &str) {
    for (got, one) in [(got.faults, one.faults), (got.copies, one.copies), (got.frames, one.frames)] {
        assert!((got - one).abs() <= 0.05 * one.max(1.0), "{what}: {got} against {one} with one child");
    }
}

/// The cost with one child at a time.
fn one_child() -> Cost {
    let vm = vm();
    let (task, a) = filled(&vm);
    let before = counts(&vm);
    let child = task.fork().expect("a child");
    for i in 0..64 {
        store(&task, a + i * 8 * PAGE, 0);
    }
    let cost = per(64, before, counts(&vm));
    drop(child);
    cost
}

#[test]
fn z50_256_live_children_cost_what_one_does() {
    let one = one_child();
    assert_eq!((one.copies, one.frames), (1.0, 1.0), "a page copied for each write");
    let vm = vm();
    let (task, a) = filled(&vm);
    let before = counts(&vm);
    let mut children = Vec::new();
    for n in 0..256 {
        // A different page before each copy; it is shared with the children before.
        store(&task, a + n * PAGE, 1000 + n as u64);
        children.push(task.fork().expect("a child"));
    }
    // The first page had no child to share with.
    assert_close(per(255, before, counts(&vm)), one, "256 live children");
    for (n, child) in children.iter().enumerate().step_by(17) {
        for i in 0..PAGES {
            let want = if i <= n { 1000 + i as u64 } else { i as u64 + 1 };
            assert_eq!(load(child, a + i * PAGE), want, "page {i} of child {n}");
        }
    }
    // The children go in a random order; what is left is right.
    let mut rng = Rng::new(256);
    while children.len() > 1 {
        children.swap_remove(rng.below(children.len()));
    }
    assert_eq!(load(&children[0], a + 300 * PAGE), 301);
    drop(children);
    (0..PAGES).for_each(|i| {
        assert_eq!(load(&task, a + i * PAGE), if i < 256 { 1000 + i as u64 } else { i as u64 + 1 })
    });
    // Nothing of the children is left: as many frames as pages.
    assert_eq!(vm.statistics().expect("statistics").frames, PAGES as u64);
    drop(task);
    assert_eq!((vm.live(), vm.statistics().expect("statistics").frames), ([0; 6], 0));
}

#[test]
fn z51_a_chain_of_256_generations_costs_what_one_child_does() {
    let one = one_child();
    let vm = vm();
    let (first, a) = filled(&vm);
    let mut task = first;
    let before = counts(&vm);
    let mut chain = Vec::new();
    for n in 0..256 {
        let child = task.fork().expect("a child");
        // Two tasks write in each generation: the parent, and a page further the child.
        store(&task, a + n * PAGE, 0x1_0000 + n as u64);
        chain.push(std::mem::replace(&mut task, child));
    }
    assert_close(per(256, before, counts(&vm)), one, "256 generations");
    // Generation g wrote page g and saw its ancestors' pages as they were at its birth.
    for (g, t) in chain.iter().enumerate().step_by(13) {
        for i in 0..PAGES {
            let want = if i == g { 0x1_0000 + g as u64 } else { i as u64 + 1 };
            assert_eq!(load(t, a + i * PAGE), want, "page {i} of generation {g}");
        }
    }
    drop(chain);
    assert!((0..PAGES).all(|i| load(&task, a + i * PAGE) == i as u64 + 1));
    // Whoever is left alone writes without copying.
    let copies = vm.statistics().expect("statistics").core.cow_copies;
    (0..PAGES).for_each(|i| store(&task, a + i * PAGE, 5));
    let now = vm.statistics().expect("statistics");
    println!("copies to become alone: {}", now.core.cow_copies - copies);
    assert_eq!(now.frames, PAGES as u64, "only the last generation's pages are left");
    drop(task);
    assert_eq!((vm.live(), vm.statistics().expect("statistics").frames), ([0; 6], 0));
}

/// Large copies over memory in use, on two threads: what they replace is freed by a thread of
/// the system while the tasks go on.
#[test]
fn m66_replaced_contents_never_come_back() {
    const LARGE: usize = 4096;
    let vm = vm();
    let rounds = |thread: u64| {
        let task = vm.task().expect("a task");
        let from = task.allocate(LARGE * PAGE).expect("memory");
        for round in 1..=5 {
            let value = |i: usize| thread << 48 | round << 32 | i as u64;
            let expect = |task: &Task, to: usize| {
                let read = |i: usize| load(task, to + i * PAGE);
                let wrong =
                    (0..LARGE).step_by(3).find(|i| read(*i) != if i % 7 == 0 { value(*i) } else { 0 });
                assert_eq!(wrong, None, "thread {thread}, round {round}");
            };
            let to = task.allocate((LARGE + 9) * PAGE).expect("memory");
            (0..LARGE).step_by(7).for_each(|i| store(&task, from + i * PAGE, value(i)));
            (0..LARGE + 9).step_by(2).for_each(|i| store(&task, to + i * PAGE, u64::MAX));
            task.copy(from, LARGE * PAGE, &task, to).expect("copied");
            let child = (round % 2 == 0).then(|| task.fork().expect("a child"));
            expect(&task, to);
            assert_eq!([0, 8].map(|i| load(&task, to + (LARGE + i) * PAGE)), [u64::MAX; 2]);
            // Over what was copied to.
            (0..LARGE).step_by(5).for_each(|i| store(&task, to + i * PAGE, 1));
            task.copy(from, LARGE * PAGE, &task, to).expect("copied");
            expect(&task, to);
            child.iter().for_each(|c| expect(c, to));
            task.deallocate(to, (LARGE + 9) * PAGE).expect("deallocated");
            let new = task.allocate(LARGE * PAGE).expect("memory");
            let old = (0..LARGE).step_by(11).find(|i| load(&task, new + i * PAGE) != 0);
            assert_eq!(old, None, "fresh memory, thread {thread}, round {round}");
            task.deallocate(new, LARGE * PAGE).expect("deallocated");
        }
    };
    std::thread::scope(|s| {
        for thread in 1..3 {
            let rounds = &rounds;
            s.spawn(move || rounds(thread));
        }
    });
    assert_eq!(vm.live(), [0; 6], "something is left over");
    assert_eq!(vm.statistics().expect("statistics").frames, 0);
}

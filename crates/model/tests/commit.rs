//! Commit policy (decision 20): what is reserved, refused and released. That the sum of all
//! charges is what is reserved (invariant 8) every whole-system check of every test asks.
//! `MACHVM_SEED=n` runs one seed again, `MACHVM_LONG=n` runs 20 n.

use std::collections::BTreeSet;

use machvm::map::{
    Attributes, Backing, CopyWhy, EntryFlags, FindError, ForkError, GrowError, Inherit, InsertError, Leave,
    MoveError, Need, Place, ProtectError, SetProt, StackShape, Take,
};
use machvm::{CommitPolicy, Vm};
use machvm_hal::{MaySleep, Prot, Va, VaRange};
use machvm_model::{Config, Machine, Rng, Task, check_quiet};

const BASE: u64 = 0x2000;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn va(page: u64) -> Va {
    Va::from_page(BASE + page)
}
fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(va(first), n).expect("fits")
}
const RW: Attributes = Attributes::new(Prot::RW);
const R: Attributes = Attributes::new(Prot::R);

/// In both placements, with room for `limit` pages.
fn strict(limit: u64, test: impl Fn(&Vm<Machine>)) {
    for sparse in [true, false] {
        let vm = Vm::new(Machine::new(Config { sparse, frames: 400, ..Config::default() })).expect("memory");
        vm.set_commit_policy(CommitPolicy::Strict { pages: limit });
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!((vm.live(), vm.committed()), ([0; 6], 0), "left over, sparse: {sparse}");
    }
}
fn insert(t: &Task<'_>, first: u64, n: u64, a: &Attributes) -> Result<(), InsertError> {
    t.map.insert(pages(first, n), Backing::Anonymous, a, &mut may())
}
fn fork<'vm>(t: &Task<'vm>) -> Result<Task<'vm>, ForkError> {
    let pmap = t.map.vm().platform().pmap();
    t.map.fork(pmap, &mut may()).map(|map| Task { map })
}
fn protect(t: &Task<'_>, first: u64, n: u64, p: Prot) -> Result<(), ProtectError> {
    t.map.protect(pages(first, n), &SetProt::prot(p), &mut may())
}

// vm_map_insert(9): swap is reserved for writable private memory.

#[test]
fn m11_writable_private_memory_is_charged() {
    strict(100, |vm| {
        let t = Task::new(vm);
        assert_eq!(insert(&t, 0, 60, &RW), Ok(()));
        assert_eq!(insert(&t, 60, 500, &R), Ok(()), "what may not be written is free");
        assert_eq!(insert(&t, 600, 41, &RW), Err(InsertError::NoMemory(va(600))));
        assert_eq!(vm.committed(), 60);
        // Joined to a neighbour, and on its own.
        assert_eq!((insert(&t, 600, 20, &RW), insert(&t, 620, 20, &RW)), (Ok(()), Ok(())));
        assert_eq!((vm.committed(), t.map.entry_count(&mut may())), (100, 3));
        let none = Attributes { flags: EntryFlags::NO_CHARGE, ..RW };
        assert_eq!(insert(&t, 700, 900, &none), Ok(()), "NO_CHARGE");
        assert_eq!(t.map.insert(pages(2000, 50), Backing::Guard, &RW, &mut may()), Ok(()));
        check_quiet(vm, [&t]);
        // Released exactly as it is unmapped, in pieces too (Z62).
        t.map.delete(pages(10, 5), &mut may()).expect("delete");
        assert_eq!(vm.committed(), 95);
        t.map.delete(pages(0, 610), &mut may()).expect("delete");
        assert_eq!(vm.committed(), 30);
        // In place of what is charged already; and a little too much, which changes nothing.
        let fixed = |first, n| t.map.fixed(pages(first, n), Backing::Anonymous, &RW, &mut may());
        assert_eq!((fixed(610, 100), vm.committed()), (Ok(()), 100));
        assert_eq!((fixed(610, 101), vm.committed()), (Err(InsertError::NoMemory(va(610))), 100));
        check_quiet(vm, [&t]);
    });
}

#[test]
fn m11_files_are_charged_where_they_are_copied() {
    strict(10, |vm| {
        let (id, _) = vm.platform().add_pager(vec![1; 20 << 12]);
        let t = Task::new(vm);
        let object = |write_back| vm.object_from_pager(20, id, 0, write_back, &mut may()).expect("object");
        let (o, at) = object(true);
        t.map.insert(pages(0, 20), Backing::Shared(o, at), &RW, &mut may()).expect("written back");
        assert_eq!(vm.committed(), 0);
        let (o, at) = object(false);
        let done = t.map.insert(pages(20, 20), Backing::Private(o, at), &RW, &mut may());
        assert_eq!(done, Err(InsertError::NoMemory(va(20))));
        t.map.insert(pages(20, 10), Backing::Private(o, at), &RW, &mut may()).expect("fits");
        assert_eq!(vm.committed(), 10);
        check_quiet(vm, [&t]);
    });
}

#[test]
fn z61_what_was_charged_before_the_refusal_stays() {
    strict(20, |vm| {
        let t = Task::new(vm);
        for (i, n) in [(0, 8), (8, 8), (16, 8)] {
            // Different, so that they are three entries.
            assert_eq!(insert(&t, i, n, &Attributes { tag: i, ..R }), Ok(()));
        }
        assert_eq!(protect(&t, 0, 24, Prot::RW), Err(ProtectError::NoMemory(va(16))));
        assert_eq!(vm.committed(), 16, "of the first two");
        check_quiet(vm, [&t]);
        let prot = |p| t.map.lookup(va(p), Prot::R, &mut may()).expect("mapped").attributes.prot;
        assert_eq!([prot(0), prot(8), prot(16)], [Prot::R; 3], "no protection changed");
        // They become writable without another charge, and keep it without the right.
        assert_eq!((protect(&t, 0, 16, Prot::RW), vm.committed()), (Ok(()), 16));
        assert_eq!((protect(&t, 0, 16, Prot::NONE), vm.committed()), (Ok(()), 16));
        // The middle of one: the cuts stay where one side is charged.
        assert_eq!((protect(&t, 18, 4, Prot::RW), vm.committed()), (Ok(()), 20));
        assert_eq!(protect(&t, 17, 6, Prot::RW), Err(ProtectError::NoMemory(va(17))));
        check_quiet(vm, [&t]);
        t.map.delete(pages(4, 16), &mut may()).expect("delete");
        assert_eq!(vm.committed(), 4 + 2);
        check_quiet(vm, [&t]);
    });
}

#[test]
fn z62_both_halves_share_one_account() {
    strict(50, |vm| {
        let t = Task::new(vm);
        assert_eq!(insert(&t, 0, 40, &RW), Ok(()));
        for i in 0..10 {
            assert_eq!(protect(&t, i * 4, 1, Prot::R), Ok(()));
            assert_eq!(vm.committed(), 40, "cut {i}");
        }
        t.map.delete(pages(3, 3), &mut may()).expect("delete");
        assert_eq!(vm.committed(), 37);
        assert_eq!((protect(&t, 0, 40, Prot::RW), vm.committed()), (Ok(()), 37));
        check_quiet(vm, [&t]);
    });
}

#[test]
fn m60_m62_children_are_charged_by_inheritance() {
    strict(100, |vm| {
        let t = Task::new(vm);
        assert_eq!(insert(&t, 0, 60, &RW), Ok(()));
        assert!(matches!(fork(&t).err(), Some(ForkError::NoMemory(_))));
        assert_eq!(vm.committed(), 60, "a fork that fails keeps nothing");
        check_quiet(vm, [&t]);
        let inherit = |first, n, i| t.map.inherit(pages(first, n), i, &mut may()).expect("inherit");
        inherit(0, 30, Inherit::None);
        inherit(30, 10, Inherit::Zero);
        let child = fork(&t).expect("30 of 40");
        assert_eq!(vm.committed(), 90);
        drop(child);
        assert_eq!(vm.committed(), 60);
        // Shared memory is charged once, as long as somebody has it.
        inherit(0, 60, Inherit::Share);
        let twin = fork(&t).expect("fork");
        assert_eq!((vm.committed(), fork(&twin).map(drop).is_ok()), (60, true));
        check_quiet(vm, [&t, &twin]);
        drop(t);
        assert_eq!(vm.committed(), 60);
        twin.map.protect(pages(0, 60), &SetProt::prot(Prot::R), &mut may()).expect("protect");
        twin.map.protect(pages(0, 60), &SetProt::prot(Prot::RW), &mut may()).expect("covered");
        assert_eq!(vm.committed(), 60);
        drop(twin);
        assert_eq!(vm.committed(), 0);
    });
}

#[test]
fn m19_stacks_are_charged_as_they_grow() {
    strict(40, |vm| {
        let t = Task::new(vm);
        t.map.set_limits(machvm::map::Limits { stack_step: 8 << 12, ..Default::default() }, &mut may());
        let shape = StackShape { pages: 100, initial: 10, guard: 1 };
        t.map.stack(Place::At(va(0)), shape, &RW, &mut may()).expect("stack");
        assert_eq!(vm.committed(), 10);
        t.map.growstack(va(89), &mut may()).expect("grows");
        assert_eq!(vm.committed(), 18);
        assert_eq!(t.map.growstack(va(10), &mut may()), Err(GrowError::Limit(va(10))));
        assert_eq!(vm.committed(), 18);
        check_quiet(vm, [&t]);
    });
}

#[test]
fn m65_m68_copies_are_charged_when_they_are_placed() {
    strict(50, |vm| {
        let t = Task::new(vm);
        assert_eq!(insert(&t, 0, 30, &RW), Ok(()));
        let mut copy = t.map.copyin(pages(0, 30), &mut may()).expect("copyin");
        assert_eq!(vm.committed(), 30, "nobody can write it yet");
        let refused = t.map.copyout(Place::At(va(100)), &mut copy, |a| a, &mut may());
        assert_eq!(refused, Err(FindError::Insert(InsertError::NoMemory(va(100)))));
        t.map.copyout(Place::At(va(100)), &mut copy, |_| R, &mut may()).expect("for reading");
        assert_eq!(vm.committed(), 30);
        assert_eq!(protect(&t, 100, 20, Prot::RW), Ok(()));
        assert_eq!(vm.committed(), 50);
        drop(copy);
        // Over what is charged: that is enough.
        let done = t.map.copy_range(pages(0, 20), &t.map, va(100), &mut may());
        assert_eq!((done.map_err(|e| e.why), vm.committed()), (Ok::<(), CopyWhy>(()), 50));
        check_quiet(vm, [&t]);
        // The same memory twice: for that the object is charged from now on.
        let need = Need { prot: Prot::R, max: Prot::R };
        let mut share = t.map.extract(pages(0, 10), Take::Share, need, &mut may()).expect("share").pieces;
        t.map.copyout(Place::At(va(200)), &mut share, |a| a, &mut may()).expect("no other charge");
        drop(share);
        t.map.delete(pages(0, 30), &mut may()).expect("delete");
        assert_eq!(vm.committed(), 30, "the shared part is mapped still");
        t.map.delete(pages(200, 10), &mut may()).expect("delete");
        assert_eq!(vm.committed(), 20);
        check_quiet(vm, [&t]);
    });
}

#[test]
fn zeroes_left_by_a_move_are_charged() {
    strict(30, |vm| {
        let t = Task::new(vm);
        assert_eq!(insert(&t, 0, 20, &RW), Ok(()));
        let left = |leave| t.map.move_range(pages(0, 20), va(100), leave, &mut may());
        assert_eq!(left(Leave::Zeroes), Err(MoveError::Insert(InsertError::NoMemory(va(0)))));
        assert_eq!((left(Leave::Hole), vm.committed()), (Ok(()), 20));
        assert_eq!(t.map.move_range(pages(100, 10), va(0), Leave::Zeroes, &mut may()), Ok(()));
        assert_eq!(vm.committed(), 30);
        check_quiet(vm, [&t]);
    });
}

#[test]
fn overcommit_counts_and_refuses_nothing() {
    strict(10, |vm| {
        vm.set_commit_policy(CommitPolicy::Overcommit);
        let t = Task::new(vm);
        assert_eq!(insert(&t, 0, 1 << 20, &RW), Ok(()));
        assert_eq!(vm.committed(), 1 << 20);
        // A limit below what is reserved refuses what is new.
        vm.set_commit_policy(CommitPolicy::Strict { pages: 10 });
        assert!(insert(&t, 1 << 21, 1, &RW).is_err());
    });
}

// Random operations against a set of charged pages.

const WINDOW: u64 = 60;
const LIMIT: u64 = 120;

type Charged = BTreeSet<u64>;

struct World<'vm> {
    tasks: Vec<(Task<'vm>, Charged)>,
    rng: Rng,
}

impl World<'_> {
    fn total(&self) -> u64 {
        self.tasks.iter().map(|(_, c)| c.len() as u64).sum()
    }

    fn step(&mut self, vm: &Vm<Machine>) {
        let i = self.rng.below(self.tasks.len() as u64) as usize;
        let first = self.rng.below(WINDOW);
        let n = 1 + self.rng.below((WINDOW - first).min(25));
        let (r, all) = (pages(first, n), first..first + n);
        let write = self.rng.one_in(2);
        let a = if write { RW } else { R };
        let total = self.total();
        let what = self.rng.below(10);
        if what == 9 && self.tasks.len() < 4 {
            let (t, c) = &self.tasks[i];
            let fits = total + c.len() as u64 <= LIMIT;
            match fork(t) {
                Ok(child) => {
                    let theirs = c.clone();
                    self.tasks.push((child, theirs));
                    assert!(fits);
                }
                Err(e) => assert!(!fits, "{e:?}"),
            }
            return;
        }
        let (t, c) = &mut self.tasks[i];
        let here = all.clone().filter(|p| c.contains(p)).count() as u64;
        match what {
            0..3 => {
                let fits = !write || total - here + n <= LIMIT;
                let done = t.map.fixed(r, Backing::Anonymous, &a, &mut may());
                assert_eq!(done.is_ok(), fits, "{done:?}");
                if fits {
                    c.retain(|p| !all.contains(p));
                    c.extend(all.filter(|_| write));
                }
            }
            3..6 => {
                let mapped = |p: &u64| t.map.lookup(va(*p), Prot::R, &mut may()).is_ok();
                let new: Vec<u64> = all.clone().filter(|p| write && mapped(p) && !c.contains(p)).collect();
                let fits = total + new.len() as u64 <= LIMIT;
                let done = t.map.protect(r, &SetProt::prot(a.prot), &mut may());
                assert_eq!(done.is_ok(), fits, "{done:?}");
                if fits {
                    c.extend(new);
                } else {
                    // Some of it is charged now (Z61): no more than there is room for.
                    assert!((total..=LIMIT).contains(&vm.committed()));
                    t.map.delete(r, &mut may()).expect("delete");
                    c.retain(|p| !all.contains(p));
                }
            }
            6..8 => {
                t.map.delete(r, &mut may()).expect("delete");
                c.retain(|p| !all.contains(p));
            }
            8 if self.tasks.len() > 1 => drop(self.tasks.swap_remove(i)),
            _ => {}
        }
    }
}

#[test]
fn z61_random_accounting() {
    let var = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let last = var("MACHVM_LONG").map_or(10, |n| 20 * n);
    let seeds = var("MACHVM_SEED").map_or(1..=last, |s| s..=s);
    for seed in seeds {
        println!("MACHVM_SEED={seed}");
        strict(LIMIT, |vm| {
            let mut w = World { tasks: vec![(Task::new(vm), Charged::new())], rng: Rng::new(seed) };
            for _ in 0..300 {
                w.step(vm);
                assert_eq!(vm.committed(), w.total());
                check_quiet(vm, w.tasks.iter().map(|(t, _)| t));
            }
        });
    }
}

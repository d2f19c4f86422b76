//! A machine, its tasks, and the oracle that goes along with every operation.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::sync::Arc;

use machvm::map::{
    Advise, Attributes, Backing, CopyWhy, Holes, Inherit, InsertError, Leave, MapCopy, MoveError, Need,
    Place, ProtectError, SetProt, Side, Take, Wiring,
};
use machvm::pageout::Replacement;
use machvm::{FaultError, Vm};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, Va, VaRange};
use machvm_model::{Contents, Machine, Oracle, OraclePage, Rng, Task, WORDS, check_holding, check_quiet};

/// First page of the window in which tests map: two pages below a 2 MiB boundary.
pub const FIRST: u64 = 0x1000 - 2;

pub fn may() -> MaySleep {
    MaySleep::claim()
}
pub fn va(page: u64) -> Va {
    Va::from_page(FIRST + page)
}
pub fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(va(first), n).expect("fits")
}
pub fn at(page: u64) -> u64 {
    va(page).get()
}
/// Where word `i` of a page is.
pub fn word_at(page: u64, i: usize) -> u64 {
    page * PAGE_SIZE + i as u64 * (PAGE_SIZE / WORDS as u64)
}

/// The seeds to run: the one of `MACHVM_SEED`, else as many as is usual, or with
/// `MACHVM_LONG=n` `n * long`.
pub fn seeds_or(usual: u64, long: u64) -> Vec<u64> {
    let var = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    match var("MACHVM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=var("MACHVM_LONG").map_or(usual, |n| n * long)).collect(),
    }
}

/// The seeds of a soak: as [`seeds_or`], or with `MACHVM_SOAK=s` one after the other for s seconds.
pub fn seeds_of_soak(usual: u64, long: u64) -> Box<dyn Iterator<Item = u64>> {
    let seconds = std::env::var("MACHVM_SOAK").ok().and_then(|s| s.parse().ok());
    match seconds.map(std::time::Duration::from_secs) {
        Some(duration) => {
            let begun = std::time::Instant::now();
            Box::new((1..).take_while(move |_| begun.elapsed() < duration))
        }
        None => Box::new(seeds_or(usual, long).into_iter()),
    }
}

/// The policy of a seed: neighbours have different ones.
pub fn policy_of(seed: u64) -> Replacement {
    Replacement::ALL[(seed / 2 % 2) as usize]
}

/// What a random test does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// First page of the window, counted from [`FIRST`], and pages in it.
    pub base: u64,
    pub window: u64,
    /// The first so many tasks are shared with other worlds and stay.
    pub keep: usize,
    /// Memory is shared: with children, by mapping it twice, through memory entries.
    pub share: bool,
    pub tasks: usize,
    /// Pages wired at once in all tasks.
    pub wired: u64,
}

/// Pages of the file that worlds map.
pub const FILE: u64 = 64;

/// Word `slot` of a page of the file.
fn file_page(page: u64) -> [u64; WORDS] {
    std::array::from_fn(|slot| 0xf11e_0000 + page * 16 + slot as u64)
}
/// The file's bytes.
pub fn file_bytes() -> Vec<u8> {
    let mut data = vec![0u8; (FILE * PAGE_SIZE) as usize];
    for page in 0..FILE {
        for (slot, word) in file_page(page).iter().enumerate() {
            data[word_at(page, slot) as usize..][..8].copy_from_slice(&word.to_le_bytes());
        }
    }
    data
}

/// A memory entry: the pieces, what is in them, and what its mappings are.
pub struct Held<'vm> {
    pieces: MapCopy<'vm, Machine>,
    pages: Vec<OraclePage>,
    take: Take,
}

pub struct World<'vm> {
    pub vm: &'vm Vm<Machine>,
    pub tasks: Vec<(Arc<Task<'vm>>, Oracle)>,
    pub held: Vec<Held<'vm>>,
    pub rng: Rng,
    pub plan: Plan,
    /// What file mappings map.
    pub file: machvm::PagerId,
    pub next: u64,
    /// Operations that change a map.
    pub map_ops: u64,
    /// The last operations, newest last.
    pub log: Vec<String>,
}

const PROTS: [Prot; 6] = [Prot::RW, Prot::RW, Prot::RW, Prot::R, Prot::NONE, Prot::W];

impl<'vm> World<'vm> {
    pub fn new(vm: &'vm Vm<Machine>, plan: Plan, seed: u64) -> Self {
        let tasks = vec![(Arc::new(Task::new(vm)), Oracle::default())];
        let file = vm.platform().add_pager(file_bytes()).0;
        World {
            vm,
            tasks,
            held: vec![],
            file,
            rng: Rng::new(seed),
            plan,
            next: 1,
            map_ops: 0,
            log: Vec::new(),
        }
    }

    fn some_range(&mut self) -> VaRange {
        let r = &mut self.rng;
        let most = if r.one_in(10) { self.plan.window } else { 24 };
        let n = 1 + r.below(most);
        let first = r.below(self.plan.window);
        pages(self.plan.base + first, n.min(self.plan.window - first))
    }

    /// Where a range as long as `r` fits.
    fn some_start(&mut self, r: VaRange) -> Va {
        va(self.plan.base + self.rng.below(self.plan.window - r.pages() + 1))
    }

    fn note(&mut self, what: String) {
        self.log.push(what);
        if self.log.len() > 40 {
            self.log.remove(0);
        }
    }

    /// One random operation, its result against the oracle's.
    pub fn step(&mut self) {
        let i = self.rng.below(self.tasks.len() as u64) as usize;
        let range = self.some_range();
        let what = self.rng.below(if self.plan.share { 110 } else { 100 });
        self.map_ops += u64::from(!(15..65).contains(&what) && !(95..99).contains(&what));
        match what {
            0..9 => self.insert(i, range),
            9..12 => self.insert_file(i, range),
            12..15 => self.fixed(i, range),
            15..45 => self.store(i, range),
            45..65 => self.load(i, range),
            65..71 => self.protect(i, range),
            71..75 => self.delete(i, range),
            75..79 => self.drop_contents(i, range),
            79..83 => self.fork(i),
            83..86 => self.inherit(i, range),
            86..90 => self.copy(i, range),
            90..93 => self.move_range(i, range),
            93..95 => self.wire(i, range),
            95..97 => self.page_out(),
            97 => self.forget(i, range),
            98 => self.check_protection(i, range),
            99 => self.extend(i, range),
            100..103 => self.drop_contents(i, range),
            103..107 => self.remap(i, range),
            _ => self.memory_entry(i, range),
        }
    }

    pub fn insert(&mut self, i: usize, r: VaRange) {
        let prot = *self.rng.pick(&PROTS);
        self.note(format!("task {i}: insert {r:?} {prot:?}"));
        let (t, o) = &mut self.tasks[i];
        let done = t.map.insert(r, Backing::Anonymous, &Attributes::new(prot), &mut may());
        if o.any(r) {
            assert!(matches!(done, Err(InsertError::Occupied(at)) if r.contains(at)), "{done:?}");
        } else {
            assert_eq!(done, Ok(()));
            o.map(r, prot, Prot::ALL);
        }
    }

    fn insert_file(&mut self, i: usize, r: VaRange) {
        let r = VaRange::of_pages(r.start(), r.pages().min(FILE)).expect("fits");
        let first = self.rng.below(FILE - r.pages() + 1);
        let prot = *self.rng.pick(&PROTS);
        self.note(format!("task {i}: map {r:?} {prot:?} to the file's page {first}"));
        let made = self.vm.object_from_pager(r.pages(), self.file, first * PAGE_SIZE, false, &mut may());
        let (object, index) = made.expect("object");
        let (t, o) = &mut self.tasks[i];
        match t.map.insert(r, Backing::Private(object, index), &Attributes::new(prot), &mut may()) {
            Ok(()) => {
                assert!(!o.any(r));
                o.map(r, prot, Prot::ALL);
                for (n, (_, p)) in o.range_mut(r).enumerate() {
                    p.file = Some(file_page(first + n as u64));
                    p.reset();
                }
            }
            Err(e) => {
                assert!(matches!(e, InsertError::Occupied(_)) && o.any(r), "{e:?}");
                self.vm.object_deallocate(object, &mut may());
            }
        }
    }

    fn fixed(&mut self, i: usize, r: VaRange) {
        self.note(format!("task {i}: fixed {r:?}"));
        let (t, o) = &mut self.tasks[i];
        let done = t.map.fixed(r, Backing::Anonymous, &Attributes::new(Prot::RW), &mut may());
        assert_eq!(done, Ok(()));
        o.map(r, Prot::RW, Prot::ALL);
    }

    /// Fresh memory over the range, all of it written.
    pub fn refill(&mut self, i: usize, r: VaRange) {
        self.fixed(i, r);
        self.note(format!("task {i}: fill {r:?}"));
        for va in r.iter() {
            self.next += 1;
            self.store_page(i, va, 0, self.next);
        }
    }

    pub fn store(&mut self, i: usize, r: VaRange) {
        self.note(format!("task {i}: store {r:?}"));
        let sparse = self.rng.one_in(4);
        for va in r.iter() {
            if sparse && !self.rng.one_in(5) {
                continue;
            }
            let (slot, v) = (self.rng.below(WORDS as u64) as usize, self.next | self.plan.base << 40);
            self.next += 1;
            self.store_page(i, va, slot, v);
        }
    }

    pub fn store_page(&mut self, i: usize, va: Va, slot: usize, v: u64) {
        let (t, o) = &mut self.tasks[i];
        let done = t.store_word(word_at(va.page(), slot), v);
        match o.pages.get(&va.page()) {
            None => assert_eq!(done, Err(FaultError::NoMapping(va))),
            Some(p) if p.prot.contains(Prot::W) => {
                assert_eq!(done, Ok(()));
                p.contents.borrow_mut()[slot] = v;
            }
            Some(_) => assert_eq!(done, Err(FaultError::Protection(va))),
        }
    }

    pub fn load(&mut self, i: usize, r: VaRange) {
        self.note(format!("task {i}: load {r:?}"));
        for va in r.iter() {
            self.load_page(i, va);
        }
    }

    pub fn load_page(&mut self, i: usize, va: Va) {
        let (t, o) = &self.tasks[i];
        let mut page = [0u8; PAGE_SIZE as usize];
        let done = t.load(va.get(), &mut page);
        match o.pages.get(&va.page()) {
            None => assert_eq!(done, Err(FaultError::NoMapping(va))),
            Some(p) if !p.prot.is_empty() => {
                assert_eq!(done, Ok(()), "load of {va:?} in task {i}");
                check_page(&page, &p.contents.borrow(), i, va);
            }
            Some(_) => assert_eq!(done, Err(FaultError::Protection(va))),
        }
    }

    fn protect(&mut self, i: usize, r: VaRange) {
        let prot = *self.rng.pick(&PROTS);
        let holes = if self.rng.one_in(2) { Holes::Skip } else { Holes::Refuse };
        self.note(format!("task {i}: protect {r:?} {prot:?} {holes:?}"));
        let (t, o) = &mut self.tasks[i];
        let set = SetProt { holes, ..SetProt::prot(prot) };
        let done = t.map.protect(r, &set, &mut may());
        if holes == Holes::Refuse && !o.all(r) {
            assert!(matches!(done, Err(ProtectError::Hole(_))), "{done:?}");
        } else {
            assert_eq!(done, Ok(()));
            o.range_mut(r).for_each(|(_, p)| p.prot = prot);
        }
    }

    fn delete(&mut self, i: usize, r: VaRange) {
        self.note(format!("task {i}: delete {r:?}"));
        let (t, o) = &mut self.tasks[i];
        assert_eq!(t.map.delete(r, &mut may()), Ok(()));
        o.unmap(r);
    }

    fn drop_contents(&mut self, i: usize, r: VaRange) {
        // Other worlds fork this task too, so that it is not known what its children share.
        let unclear = self.plan.keep != 0 && self.tasks[i].1.range_mut(r).any(|(_, p)| p.shared);
        if unclear {
            return;
        }
        let advise = if self.rng.one_in(2) { Advise::DontNeed } else { Advise::Free };
        self.note(format!("task {i}: {advise:?} {r:?}"));
        let (t, o) = &mut self.tasks[i];
        match t.map.madvise(r, advise, &mut may()) {
            Ok(hole) => {
                assert_eq!(hole.is_some(), !o.all(r));
                let files = advise == Advise::DontNeed;
                o.range_mut(r).filter(|(_, p)| files || p.file.is_none()).for_each(|(_, p)| p.reset());
            }
            Err(e) => assert!(matches!(e, machvm::map::AdviseError::Wired(_)), "{e:?}"),
        }
    }

    pub fn fork(&mut self, i: usize) {
        let to = self.rng.below(self.plan.tasks as u64) as usize;
        if to == i || to < self.plan.keep {
            return;
        }
        self.note(format!("fork {i} -> {to}"));
        let (t, o) = &mut self.tasks[i];
        let map = t.map.fork(self.vm.platform().pmap(), &mut may()).expect("fork");
        let child = (Arc::new(Task { map }), o.fork());
        if to < self.tasks.len() {
            self.tasks[to] = child;
        } else {
            self.tasks.push(child);
        }
    }

    fn inherit(&mut self, i: usize, r: VaRange) {
        let all = [Inherit::Copy, Inherit::None, Inherit::Zero, Inherit::Share];
        let inherit = all[self.rng.below(if self.plan.share { 4 } else { 3 }) as usize];
        self.note(format!("task {i}: inherit {r:?} {inherit:?}"));
        let (t, o) = &mut self.tasks[i];
        assert_eq!(t.map.inherit(r, inherit, &mut may()), Ok(()));
        let marked = inherit == Inherit::Share && self.plan.keep != 0;
        for (_, p) in o.range_mut(r) {
            p.inherit = inherit;
            p.shared |= marked; // by the fork of another world, at any moment
        }
    }

    fn copy(&mut self, i: usize, src: VaRange) {
        let j = self.rng.below(self.tasks.len() as u64) as usize;
        let dst = self.some_start(src);
        let to = VaRange::of_pages(dst, src.pages()).expect("fits");
        self.note(format!("copy {src:?} of {i} to {dst:?} of {j}"));
        let done = self.tasks[i].0.map.copy_range(src, &self.tasks[j].0.map, dst, &mut may());
        let may_be = |o: &Oracle, r: VaRange, p: Prot| {
            o.all(r) && r.iter().all(|va| o.pages[&va.page()].prot.contains(p))
        };
        let (from_ok, to_ok) =
            (may_be(&self.tasks[i].1, src, Prot::R), may_be(&self.tasks[j].1, to, Prot::W));
        match done {
            Ok(()) => {
                assert!(from_ok && to_ok, "copied although {from_ok} {to_ok}");
                let page = |va: Va| {
                    let p = &self.tasks[i].1.pages[&va.page()];
                    (*p.contents.borrow(), p.file)
                };
                let data: Vec<_> = src.iter().map(page).collect();
                for (va, data) in to.iter().zip(data) {
                    let p = self.tasks[j].1.pages.get_mut(&va.page()).expect("all mapped");
                    // Other pages are put in place of the old ones: who shared those
                    // keeps them.
                    p.contents = Contents::default();
                    (*p.contents.borrow_mut(), p.file) = data;
                    p.shared = false;
                }
            }
            Err(e) if e.side == Side::Source => assert!(!from_ok, "{e:?}"),
            Err(e) => assert!(!to_ok || e.why == CopyWhy::Wired, "{e:?}"),
        }
    }

    /// The pieces of a range, and what is in them; the same memory, or a copy.
    fn extract(&mut self, i: usize, src: VaRange, take: Take) -> Option<Held<'vm>> {
        let (t, o) = &mut self.tasks[i];
        match t.map.extract(src, take, Need { prot: Prot::NONE, max: Prot::NONE }, &mut may()) {
            Ok(taken) => {
                let page = |(_, p): (&u64, &mut OraclePage)| match take {
                    Take::Share => p.share(),
                    Take::Copy => p.copy(),
                };
                let pages: Vec<_> = o.range_mut(src).map(page).collect();
                assert_eq!(pages.len() as u64, src.pages(), "extracted a hole");
                Some(Held { pieces: taken.pieces, pages, take })
            }
            Err(e) => {
                assert!(e.why == CopyWhy::Hole && !o.all(src), "{e:?}");
                None
            }
        }
    }

    /// Puts pieces where something may be.
    fn place(&mut self, mut h: Held<'vm>, j: usize, dst: Va) {
        let to = VaRange::of_pages(dst, h.pieces.pages()).expect("fits");
        let (t, o) = &mut self.tasks[j];
        let over = self.rng.one_in(3);
        let place = if over { Place::Over(dst) } else { Place::At(dst) };
        match t.map.copyout(place, &mut h.pieces, |a| a, &mut may()) {
            Ok(at) => {
                assert!(at == dst && (over || !o.any(to)));
                o.pages.extend(to.iter().map(|va| va.page()).zip(h.pages));
            }
            Err(e) => assert!(!over && o.any(to), "{e:?}"),
        }
    }

    /// Maps memory, or a copy of it, once more.
    fn remap(&mut self, i: usize, src: VaRange) {
        let j = self.rng.below(self.tasks.len() as u64) as usize;
        let take = if self.rng.one_in(4) { Take::Copy } else { Take::Share };
        let dst = self.some_start(src);
        self.note(format!("remap {src:?} of {i} at {dst:?} of {j}: {take:?}"));
        if let Some(h) = self.extract(i, src, take) {
            self.place(h, j, dst);
        }
    }

    /// Makes a memory entry, or maps a part of one.
    fn memory_entry(&mut self, i: usize, src: VaRange) {
        // Chains that live are checked by the world that has them; other worlds check too.
        if self.plan.keep != 0 {
            return;
        }
        if self.held.len() < 2 {
            let take = if self.rng.one_in(4) { Take::Copy } else { Take::Share };
            self.note(format!("memory entry on {src:?} of {i}: {take:?}"));
            let made = self.extract(i, src, take);
            self.held.extend(made);
            return;
        }
        let k = self.rng.below(2) as usize;
        let all = self.held[k].pages.len() as u64;
        let first = self.rng.below(all);
        let n = 1 + self.rng.below(all - first);
        let take = if self.rng.one_in(4) { Take::Copy } else { self.held[k].take };
        let dst = self.some_start(VaRange::of_pages(va(0), n).expect("fits"));
        self.note(format!("pages {first}+{n} of memory entry {k} at {dst:?} of {i}: {take:?}"));
        let h = &mut self.held[k];
        let pieces = h.pieces.window(first, n, take, &mut may()).expect("memory");
        let part = &mut h.pages[first as usize..(first + n) as usize];
        let pages = match take {
            Take::Share => part.iter_mut().map(OraclePage::share).collect(),
            Take::Copy => part.iter().map(OraclePage::copy).collect(),
        };
        self.place(Held { pieces, pages, take }, i, dst);
        if self.rng.one_in(4) {
            self.note(format!("memory entry {k} goes"));
            self.held.swap_remove(k);
        }
    }

    fn move_range(&mut self, i: usize, src: VaRange) {
        let dst = self.some_start(src);
        let to = VaRange::of_pages(dst, src.pages()).expect("fits");
        let leave = if self.rng.one_in(3) { Leave::Zeroes } else { Leave::Hole };
        self.note(format!("task {i}: move {src:?} to {dst:?} {leave:?}"));
        let (t, o) = &mut self.tasks[i];
        match t.map.move_range(src, dst, leave, &mut may()) {
            Ok(()) => {
                assert!(o.all(src) && !o.any(to) && src.intersect(to).is_none());
                for (a, b) in src.iter().zip(to.iter()) {
                    let page = o.pages.remove(&a.page()).expect("mapped");
                    if leave == Leave::Zeroes {
                        let contents = Contents::default();
                        let zero = OraclePage { contents, file: None, shared: false, ..page.clone() };
                        o.pages.insert(a.page(), zero);
                    }
                    o.pages.insert(b.page(), page);
                }
            }
            Err(MoveError::Overlap(_)) => assert!(src.intersect(to).is_some()),
            Err(MoveError::Hole(_)) => assert!(!o.all(src)),
            Err(MoveError::Insert(InsertError::Occupied(_))) => assert!(o.any(to)),
            Err(e) => panic!("{e:?}"),
        }
    }

    fn wire(&mut self, i: usize, r: VaRange) {
        if r.pages() > self.plan.wired {
            return;
        }
        let on = self.rng.one_in(3);
        self.note(format!("task {i}: {} {r:?}", if on { "wire" } else { "unwire" }));
        let wired: u64 =
            self.tasks.iter().map(|(t, _)| wired_pages(t, pages(self.plan.base, self.plan.window))).sum();
        let t = &self.tasks[i].0;
        if on && wired + r.pages() <= self.plan.wired {
            assert_eq!(t.map.wire(r, Wiring::User, Holes::Skip, &mut may()), Ok(()));
        } else {
            let window = pages(self.plan.base, self.plan.window);
            assert_eq!(t.map.unwire(window, Wiring::User, Holes::Skip, &mut may()), Ok(()));
        }
    }

    fn page_out(&mut self) {
        let n = 1 + self.rng.below(40);
        self.note(format!("pageout {n}"));
        self.vm.pageout(n, &mut may());
    }

    fn forget(&mut self, i: usize, r: VaRange) {
        self.note(format!("task {i}: forget {r:?}"));
        let t = &self.tasks[i].0;
        r.iter().for_each(|va| t.map.pmap().forget(self.vm.page_array(), va));
    }

    fn check_protection(&mut self, i: usize, r: VaRange) {
        let prot = *self.rng.pick(&PROTS);
        let (t, o) = &self.tasks[i];
        let want = o.all(r) && r.iter().all(|va| o.pages[&va.page()].prot.contains(prot));
        assert_eq!(t.map.check_protection(r.start(), r.end(), prot, &mut may()), want);
    }

    fn extend(&mut self, i: usize, r: VaRange) {
        if r.start() == va(self.plan.base) {
            return;
        }
        let (t, o) = &mut self.tasks[i];
        let below = o.pages.get(&(r.start().page() - 1)).cloned();
        if below.as_ref().is_some_and(|p| p.file.is_some()) {
            return; // the file goes on, perhaps beyond its end
        }
        match (t.map.extend(r.start(), r.pages(), &mut may()), below) {
            (Ok(()), Some(below)) => {
                assert!(!o.any(r));
                o.map(r, below.prot, below.max);
                o.range_mut(r).for_each(|(_, p)| p.inherit = below.inherit);
            }
            (Ok(()), None) => panic!("extended nothing"),
            (Err(_), below) => assert!(below.is_none() || o.any(r)),
        }
    }

    pub fn note_round(&mut self, n: u32) {
        self.note(format!("verify after {n}"));
    }

    /// Every page of every task against the oracle. Reads through the MMU, so it
    /// faults and pages.
    pub fn verify(&mut self) {
        self.verify_contents();
        self.check();
    }

    pub fn verify_contents(&mut self) {
        for i in 0..self.tasks.len() {
            for va in pages(self.plan.base, self.plan.window).iter() {
                self.load_page(i, va);
            }
        }
    }

    pub fn check(&self) {
        let tasks = self.tasks.iter().map(|(t, _)| &**t);
        if self.held.is_empty() { check_quiet(self.vm, tasks) } else { check_holding(self.vm, tasks) }
    }
}

fn wired_pages(t: &Task<'_>, window: VaRange) -> u64 {
    let mut n = 0;
    t.map.for_each_entry(
        |e| {
            if let (true, Some(r)) = (e.wired != 0, e.range.intersect(window)) {
                n += r.pages();
            }
        },
        &mut may(),
    );
    n
}

pub fn check_page(page: &[u8], want: &[u64; WORDS], i: usize, va: Va) {
    let step = PAGE_SIZE as usize / WORDS;
    for (slot, part) in page.chunks(step).enumerate() {
        let got = u64::from_le_bytes(part[..8].try_into().expect("8 bytes"));
        assert_eq!(got, want[slot], "word {slot} of {va:?} in task {i}");
        assert!(part[8..].iter().all(|b| *b == 0), "rubbish in {va:?} of task {i}");
    }
}

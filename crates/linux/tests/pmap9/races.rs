//! Random work: one thread against a model of what must be known, and programs that
//! write while their page is cleaned, taken and given back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use machvm_hal::pmap9::{Advice, Pmap9, PmapFlags, PmapMachine};
use machvm_hal::{PageNo, Prot, RawAddr, Va, VaRange};
use machvm_model::conformance::{Fixture, Touch};
use machvm_model::seed_from_env;

use super::access::access;
use super::fixture::{LinuxFixture, Space, everything, may};

struct Random(u64);
impl Random {
    fn new() -> Self {
        let seed = seed_from_env(1);
        println!("seed {seed}");
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
}

const PAGES: u64 = 6;
const SLOTS: u64 = 10;
const RIGHTS: [Prot; 4] = [Prot::R, Prot::RW, Prot::R.union(Prot::X), Prot::ALL];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mapping {
    page: u64,
    rights: Prot,
    wired: bool,
    /// Entered or used for a write, and not cleared since: what Linux would allow.
    open: bool,
}

#[derive(Clone, Copy, Default, Debug)]
struct Known {
    word: u64,
    modified: bool,
    referenced: bool,
}

/// What must be so.
struct Model {
    maps: BTreeMap<(usize, u64), Mapping>,
    pages: [Known; PAGES as usize],
}

impl Model {
    /// A mapping goes, or loses write access. A wired one that was open has written,
    /// as far as anyone can tell.
    fn close(&mut self, m: Mapping) {
        let page = &mut self.pages[m.page as usize];
        page.modified |= m.open;
        page.referenced |= m.wired;
    }
    fn remove(&mut self, which: impl Fn(usize, u64, Mapping) -> bool) {
        let gone: Vec<_> = self.maps.iter().filter(|(k, m)| which(k.0, k.1, **m)).map(|(k, _)| *k).collect();
        for key in gone {
            let m = self.maps.remove(&key).expect("there");
            self.close(m);
        }
    }
}

struct World {
    f: LinuxFixture,
    spaces: Vec<Space>,
    model: Model,
    random: Random,
}

impl World {
    fn page(&self, n: u64) -> PageNo {
        self.f.page(n as usize)
    }
    fn va(&self, slot: u64) -> Va {
        self.f.at(0, slot as usize)
    }
    fn range(&mut self) -> (u64, u64, VaRange) {
        let from = self.random.below(SLOTS);
        let to = from + 1 + self.random.below(SLOTS - from);
        (from, to, VaRange::of_pages(self.va(from), to - from).expect("a range"))
    }

    fn enter(&mut self, k: usize) {
        let (slot, page) = (self.random.below(SLOTS), self.random.below(PAGES));
        let rights = RIGHTS[self.random.below(4) as usize];
        let (wired, write) = (self.random.below(4) == 0, self.random.chance() && rights.contains(Prot::W));
        let access = if write { Prot::RW } else { Prot::R };
        let mut flags = PmapFlags::PMAP_CANFAIL;
        flags.set(PmapFlags::PMAP_WIRED, wired);
        let (va, frame) = (self.va(slot), self.page(page).into());
        let done = self.spaces[k].pmap_enter(va, frame, rights, flags.accessed_by(access), &mut may());
        assert_eq!(done, Ok(()));
        let old = self.model.maps.remove(&(k, slot));
        let open = old.is_some_and(|o| o.page == page && o.open) && rights.contains(Prot::W) || write;
        old.into_iter().for_each(|o| self.model.close(o));
        self.model.maps.insert((k, slot), Mapping { page, rights, wired, open });
        let known = &mut self.model.pages[page as usize];
        known.referenced = true;
        known.modified |= write;
    }

    /// An access, as a program and its kernel make it.
    fn touch(&mut self, k: usize) {
        let slot = self.random.below(SLOTS);
        let word = self.random.below(1 << 40);
        let what = [Touch::Load, Touch::Store(word), Touch::Fetch][self.random.below(3) as usize];
        let (cpu, at) = (self.random.below(4) as u16, RawAddr(self.va(slot).get()));
        let pm = &self.spaces[k];
        let mut got = self.f.run(cpu, pm, at, what);
        let m = self.model.maps.get(&(k, slot)).copied();
        let allowed = m.is_some_and(|m| m.rights.contains(what.access()));
        if got.is_none() {
            let wired = m.filter(|m| m.wired && allowed);
            let expected = wired.is_none_or(|m| what.access() == Prot::W && !m.open);
            assert!(expected, "{what:?} faulted on {m:?}");
            assert_eq!(pm.pmap_fault(at, what.access()), allowed, "{what:?} of {m:?}");
            got = self.f.run(cpu, pm, at, what);
        }
        assert_eq!(got.is_some(), allowed, "{what:?} of {m:?}");
        let Some(m) = self.model.maps.get_mut(&(k, slot)).filter(|_| allowed) else { return };
        let known = &mut self.model.pages[m.page as usize];
        known.referenced = true;
        match what {
            Touch::Load => assert_eq!(got, Some(known.word)),
            Touch::Store(word) => {
                known.word = word;
                known.modified = true;
                m.open = true;
            }
            Touch::Fetch => {}
        }
    }

    fn by_address(&mut self, k: usize) {
        let (from, to, range) = self.range();
        let inside = |s: u64| (from..to).contains(&s);
        let pm = &self.spaces[k];
        match self.random.below(6) {
            0 => {
                pm.pmap_remove(range);
                self.model.remove(|space, slot, _| space == k && inside(slot));
            }
            1 => {
                let prot = RIGHTS[self.random.below(4) as usize];
                pm.pmap_protect(range, prot);
                let model = &mut self.model;
                for (_, m) in model.maps.iter_mut().filter(|(key, _)| key.0 == k && inside(key.1)) {
                    m.rights &= prot;
                    if !m.rights.contains(Prot::W) && m.open {
                        m.open = false;
                        model.pages[m.page as usize].modified = true;
                    }
                }
            }
            2 => {
                pm.pmap_unwire(range);
                for (_, m) in self.model.maps.iter_mut().filter(|(key, _)| key.0 == k && inside(key.1)) {
                    // Since it was wired it counted as used.
                    self.model.pages[m.page as usize].referenced |= m.wired;
                    m.wired = false;
                }
            }
            3 => {
                pm.pmap_remove_pages(&mut may());
                self.model.remove(|space, _, m| space == k && !m.wired);
            }
            4 => {
                pm.pmap_collect(&mut may());
                self.model.remove(|space, _, m| space == k && !m.wired);
            }
            _ => {
                pm.pmap_advise(range, Advice::DontNeed, &mut may());
                let mut forgotten = Vec::new();
                for (_, m) in self.model.maps.iter_mut().filter(|(key, _)| key.0 == k && inside(key.1)) {
                    if !m.wired {
                        self.model.pages[m.page as usize].modified |= m.open;
                        m.open = false;
                        forgotten.push(m.page);
                    }
                }
                // Which of the uses were made through these is not in the model.
                forgotten.iter().for_each(|p| self.model.pages[*p as usize].referenced = false);
            }
        }
    }

    fn by_page(&mut self) {
        let n = self.random.below(PAGES);
        let (page, m) = (self.page(n), self.f.machine());
        let maps = &mut self.model.maps;
        let known = &mut self.model.pages[n as usize];
        match self.random.below(5) {
            0 => {
                m.remove_page_mappings(page, &mut may());
                self.model.remove(|_, _, m| m.page == n);
            }
            1 => {
                m.pmap_remove_write(page, &mut may());
                for (_, m) in maps.iter_mut().filter(|(_, m)| m.page == n) {
                    known.modified |= m.open;
                    m.open = false;
                    m.rights -= Prot::W;
                }
            }
            2 => {
                let pinned = maps.values().any(|m| m.page == n && m.open && m.wired);
                let was = m.pmap_clear_modify(page, &mut may());
                assert_eq!(was, known.modified || maps.values().any(|m| m.page == n && m.open));
                maps.values_mut().filter(|m| m.page == n && !m.wired).for_each(|m| m.open = false);
                known.modified = false;
                assert_eq!(m.pmap_is_modified(page), pinned);
            }
            3 => {
                let was = m.pmap_clear_reference(page, &mut may());
                assert!(was || !known.referenced);
                for m in maps.values_mut().filter(|m| m.page == n && !m.wired) {
                    known.modified |= m.open;
                    m.open = false;
                }
                known.referenced = maps.values().any(|m| m.page == n && m.wired);
                assert_eq!(m.pmap_is_referenced(page), known.referenced);
            }
            _ => {
                let count = m.pmap_ts_referenced(page, &mut may());
                assert!(count > 0 || !known.referenced);
                // At most five are cleared, which ones is not in the model.
                let mine = maps.values_mut().filter(|m| m.page == n);
                let all = mine.map(|m| known.modified |= m.open).count() < 5;
                if all {
                    maps.values_mut().filter(|m| m.page == n && !m.wired).for_each(|m| m.open = false);
                    known.referenced = maps.values().any(|m| m.page == n && m.wired);
                } else {
                    known.referenced = false;
                }
            }
        }
    }

    fn check(&self) {
        let m = self.f.machine();
        for (k, pm) in self.spaces.iter().enumerate() {
            let mine = || self.model.maps.iter().filter(move |(key, _)| key.0 == k);
            let counts = (mine().count() as u64, mine().filter(|(_, m)| m.wired).count() as u64);
            assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), counts);
            for slot in 0..SLOTS {
                let there = self.model.maps.get(&(k, slot)).and_then(|m| self.f.physical(self.page(m.page)));
                assert_eq!(pm.pmap_extract(RawAddr(self.va(slot).get())), there);
            }
        }
        for n in 0..PAGES {
            let (page, known) = (self.page(n), self.model.pages[n as usize]);
            let of_page = || self.model.maps.values().filter(|m| m.page == n);
            assert_eq!(m.pmap_page_is_mapped(page), of_page().next().is_some());
            assert_eq!(m.pmap_page_is_write_mapped(page), of_page().any(|m| m.rights.contains(Prot::W)));
            assert_eq!(m.pmap_page_wired_mappings(page), of_page().filter(|m| m.wired).count() as u64);
            let modified = known.modified || of_page().any(|m| m.open);
            assert_eq!(m.pmap_is_modified(page), modified, "page {n}: {known:?}");
            assert!(m.pmap_is_referenced(page) || !known.referenced, "page {n}: {known:?}");
            assert_eq!(self.f.peek(page, 0), known.word);
        }
    }
}

/// Everything the model says is so after every step.
#[test]
fn random_work_against_a_model() {
    let f = LinuxFixture::new();
    let spaces = (0..3).map(|_| f.machine().pmap_create().expect("memory")).collect();
    let model = Model { maps: BTreeMap::new(), pages: Default::default() };
    let mut w = World { f, spaces, model, random: Random::new() };
    for _ in 0..6_000 {
        let k = w.random.below(3) as usize;
        match w.random.below(10) {
            0..=3 => w.enter(k),
            4..=6 => w.touch(k),
            7 => w.by_address(k),
            _ => w.by_page(),
        }
        w.check();
    }
    for pm in w.spaces.drain(..) {
        pm.pmap_remove(everything());
        pm.pmap_destroy(&mut may());
    }
    assert_eq!(w.f.machine().pv().vmas().0, 0);
}

/// Counts up through one address, with the faults that are only about noting it.
fn count(pm: &Space, at: RawAddr, done: &AtomicBool) -> u64 {
    let host = pm.host(at).expect("an address").0;
    let mut written = 0;
    while !done.load(Ordering::Relaxed) {
        if access(host, Touch::Store(written + 1)).is_some() {
            written += 1;
        } else if !pm.pmap_fault(at, Prot::W) {
            std::thread::yield_now();
        }
    }
    written
}

/// Two programs write; a page-out takes their right to, asks whether they wrote, and
/// compares. A write that is not told of is lost.
#[test]
fn pm23_no_write_goes_unnoticed_while_others_write() {
    const ROUNDS: u64 = 3_000;
    let f = LinuxFixture::new();
    let mut random = Random::new();
    let spaces = [0, 1].map(|_| f.machine().pmap_create().expect("memory"));
    let (m, page, mem) = (f.machine(), f.page(0), &f.mem);
    let at = |n: u64| RawAddr(f.at(0, 0).get() + 8 * n);
    let (va, frame) = (f.at(0, 0), f.physical(page).expect("a frame").pfn());
    let words = || {
        use machvm_hal::PhysMem;
        [0, 1].map(|n| {
            let mut word = [0; 8];
            mem.read(frame, 8 * n, &mut word);
            u64::from_le_bytes(word)
        })
    };
    let flags = PmapFlags::PMAP_CANFAIL.accessed_by(Prot::R);
    let give = |pm: &Space| assert_eq!(pm.pmap_enter(va, page.into(), Prot::RW, flags, &mut may()), Ok(()));
    let (done, noticed) = (AtomicBool::new(false), AtomicU64::new(0));
    let (a, b) = (at(0), at(1));
    std::thread::scope(|s| {
        let (done, spaces) = (&done, &spaces);
        let counters =
            [s.spawn(move || count(&spaces[0], a, done)), s.spawn(move || count(&spaces[1], b, done))];
        let mut copy = words();
        let result = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            for round in 0..ROUNDS {
                spaces.iter().for_each(give);
                for _ in 0..random.below(3) {
                    match random.below(4) {
                        0 => drop(m.pmap_clear_reference(page, &mut may())),
                        1 => drop(m.pmap_ts_referenced(page, &mut may())),
                        2 => spaces[0].pmap_advise(VaRange::page(va), Advice::DontNeed, &mut may()),
                        _ => std::thread::yield_now(),
                    }
                }
                match random.below(3) {
                    0 => m.pmap_remove_write(page, &mut may()),
                    1 => m.remove_page_mappings(page, &mut may()),
                    _ => spaces.iter().for_each(|pm| pm.pmap_protect(VaRange::page(va), Prot::R)),
                }
                let (modified, now) = (m.pmap_clear_modify(page, &mut may()), words());
                assert!(
                    modified || now == copy,
                    "round {round}: {copy:?} became {now:?} and nobody noted it"
                );
                assert_eq!(words(), now, "round {round}: written without the right");
                assert!(!m.pmap_is_modified(page));
                noticed.fetch_add(u64::from(modified), Ordering::Relaxed);
                copy = now;
            }
        }));
        done.store(true, Ordering::Relaxed);
        let written = counters.map(|c| c.join().expect("a program"));
        if let Err(e) = result {
            std::panic::resume_unwind(e);
        }
        assert_eq!(words(), written);
    });
    assert_ne!(noticed.into_inner(), 0, "the programs did not write");
    for pm in spaces {
        pm.pmap_remove(everything());
        pm.pmap_destroy(&mut may());
    }
}

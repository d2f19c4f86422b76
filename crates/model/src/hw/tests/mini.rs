//! A small pmap with mistakes, over the flush sequences of `machvm-arch`: the machine finds
//! each on every format, and nothing without.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use machvm_arch::{Asid, Space, Tlb};
use machvm_hal::{CpuSet, Pfn, RawAddr, Va, VaRange};
use machvm_pmap::pte::{Aarch64, Sv39, Sv48, Sv57, X86L4, X86L5};

use super::{pointer, user_leaf};
use crate::hw::walk::Arch;
use crate::hw::{Config, Hw, HwFormat, HwIsa, Rights};
use crate::rng::Rng;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    NoFlushOnProtect,
    OnlyHere,
    FrameFreedFirst,
    TableFreedWithoutWalks,
    InPlace,
    NumberReused,
    WrongPage,
    NoBefore,
    NoAfter,
    NotWaitedFor,
}

const BUGS: [Bug; 10] = [
    Bug::NoFlushOnProtect,
    Bug::OnlyHere,
    Bug::FrameFreedFirst,
    Bug::TableFreedWithoutWalks,
    Bug::InPlace,
    Bug::NumberReused,
    Bug::WrongPage,
    Bug::NoBefore,
    Bug::NoAfter,
    Bug::NotWaitedFor,
];

/// What CPUs are asked to flush.
#[derive(Default)]
struct Mail {
    what: Mutex<Option<(u16, Option<VaRange>, bool)>>,
    done: AtomicU64,
}

/// A root, its number, and what is mapped: frame and writable.
type MiniSpace = (u64, u16, BTreeMap<u64, (u64, bool)>);

struct Mini<F: HwFormat> {
    hw: Arc<Hw>,
    tlb: Arc<F::Tlb>,
    mail: Arc<Mail>,
    bug: Option<Bug>,
    rng: Rng,
    spaces: Vec<MiniSpace>,
    on: Vec<usize>,
    free: Vec<u64>,
}

const CPUS: u16 = 3;
/// Of two leaf tables, far apart.
const PAGES: [u64; 6] = [0x400, 0x401, 0x5ff, 0x8000, 0x8001, 0x8002];

impl<F: HwFormat> Mini<F> {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let config = Config { cpus: CPUS, rate: 2, frames: 64, tables: 32, ..Config::new(F::ARCH, seed) };
        let hw = Hw::new(config);
        let tlb = Arc::new(F::tlb(HwIsa::new(hw.clone()), &config));
        let mail = Arc::new(Mail::default());
        let loaded = Arc::new([const { AtomicU64::new(0) }; CPUS as usize]);
        hw.set_ipi_handler({
            let (mail, tlb, loaded) = (mail.clone(), tlb.clone(), loaded.clone());
            move |cpu| {
                let what = *mail.what.lock().unwrap();
                if let Some((asid, range, walks)) = what {
                    let current = loaded[usize::from(cpu.0)].load(SeqCst) == u64::from(asid);
                    flush::<F>(&tlb, bug, asid, current, range, walks);
                }
                mail.done.fetch_or(1 << cpu.0, SeqCst);
            }
        });
        let mut m = Mini {
            rng: Rng::new(seed),
            spaces: Vec::new(),
            on: vec![0; usize::from(CPUS)],
            free: (0..64).map(|i| config.first_frame() + i).collect(),
            hw,
            tlb,
            mail,
            bug,
        };
        for asid in 1..=3 {
            let root = m.hw.here(|s, cpu| s.table_alloc(cpu)).expect("enough");
            let asid = if bug == Some(Bug::NumberReused) { 1 } else { asid };
            m.spaces.push((root, asid, BTreeMap::new()));
        }
        for cpu in 0..CPUS {
            m.load(cpu, 0);
        }
        m
    }
    fn load(&mut self, cpu: u16, space: usize) {
        let (root, asid, _) = self.spaces[space];
        // A flush at every load, as after a flush that was missed meanwhile; the mistake
        // trusts the number.
        let flush = self.bug != Some(Bug::NumberReused);
        self.hw.on_cpu(cpu, || self.tlb.switch(Pfn(root), Asid(asid), flush));
        self.on[usize::from(cpu)] = space;
    }

    fn put(&self, table: u64, index: usize, raw: u64) {
        self.hw.here_then_interrupts(|s, cpu| s.table_swap(cpu, table, index, raw));
    }
    fn path(&self, root: u64, page: u64, make: bool) -> Option<Vec<u64>> {
        let mut path = vec![root];
        for level in (2..=F::ARCH.levels()).rev() {
            let table = *path.last()?;
            let i = Arch::index(page << 12, level);
            let raw = self.hw.here(|s, cpu| s.table_load(cpu, table, i));
            let next = match self.hw.here(|s, _| s.mmu.decode(raw, level)) {
                crate::hw::Entry::Next(n) => n.table,
                _ if make => {
                    let t = self.hw.here(|s, cpu| s.table_alloc(cpu))?;
                    self.put(table, i, pointer(F::ARCH, t));
                    t
                }
                _ => return None,
            };
            path.push(next);
        }
        Some(path)
    }

    /// Everywhere, by interrupts where the machine does not broadcast.
    fn flush(&mut self, space: usize, range: Option<VaRange>, walks: bool) {
        let asid = self.spaces[space].1;
        let me = self.hw.cpu();
        let only_here = self.bug == Some(Bug::OnlyHere);
        let others = CpuSet(((1 << CPUS) - 1) & !(1 << me));
        if !F::Tlb::BROADCAST && !only_here {
            *self.mail.what.lock().unwrap() = Some((asid, range, walks));
            self.mail.done.store(0, SeqCst);
            self.hw.send_ipi(others);
        }
        let current = self.on[usize::from(me)] == space;
        if F::Tlb::BROADCAST && only_here {
            self.tlb.spurious(Space::User { asid: Asid(asid), current }, start(range));
            return;
        }
        flush::<F>(&self.tlb, self.bug, asid, current, range, walks);
        if !F::Tlb::BROADCAST && !only_here {
            while self.mail.done.load(SeqCst) != others.0 {
                if self.bug == Some(Bug::NotWaitedFor) {
                    break;
                }
                self.hw.relax();
            }
        }
    }
    fn flushed(&self, space: usize) {
        let whole = VaRange::of_pages(Va::from_page(1), 1 << 20).expect("fits");
        self.hw.check_flushed(Some(Pfn(self.spaces[space].0)), whole, u64::MAX);
    }

    fn enter(&mut self, space: usize, page: u64) {
        if self.spaces[space].2.contains_key(&page) {
            if self.bug != Some(Bug::InPlace) {
                return;
            }
            let old = self.spaces[space].2[&page].0;
            self.free.insert(0, old);
        }
        let Some(frame) = self.free.pop() else { return };
        let Some(path) = self.path(self.spaces[space].0, page, true) else { return };
        self.hw.claim(Pfn(frame));
        let leaf = path[path.len() - 1];
        self.put(leaf, Arch::index(page << 12, 1), user_leaf(F::ARCH, frame, true));
        let range = VaRange::page(Va::from_page(page));
        self.tlb.publish(Space::User { asid: Asid(self.spaces[space].1), current: true }, range, true);
        self.spaces[space].2.insert(page, (frame, true));
    }

    fn protect(&mut self, space: usize, page: u64) {
        let Some((frame, true)) = self.spaces[space].2.get(&page).copied() else { return };
        let Some(path) = self.path(self.spaces[space].0, page, false) else { return };
        let leaf = path[path.len() - 1];
        self.put(leaf, Arch::index(page << 12, 1), user_leaf(F::ARCH, frame, false));
        self.spaces[space].2.insert(page, (frame, false));
        if self.bug != Some(Bug::NoFlushOnProtect) {
            self.flush(space, Some(VaRange::page(Va::from_page(page))), false);
        }
        self.flushed(space);
    }

    fn remove(&mut self, space: usize, page: u64) {
        let Some((frame, _)) = self.spaces[space].2.remove(&page) else { return };
        let Some(path) = self.path(self.spaces[space].0, page, false) else { return };
        let (leaf, above) = (path[path.len() - 1], path[path.len() - 2]);
        self.put(leaf, Arch::index(page << 12, 1), 0);
        if self.bug == Some(Bug::FrameFreedFirst) {
            self.hw.release(Pfn(frame));
        }
        let empty = !self.spaces[space].2.keys().any(|p| p >> 9 == page >> 9);
        if empty {
            self.put(above, Arch::index(page << 12, 2), 0);
        }
        let walks = empty && self.bug != Some(Bug::TableFreedWithoutWalks);
        self.flush(space, Some(VaRange::page(Va::from_page(page))), walks);
        self.flushed(space);
        if self.bug != Some(Bug::FrameFreedFirst) {
            self.hw.release(Pfn(frame));
        }
        self.free.push(frame);
        if empty {
            self.hw.here(|s, cpu| s.table_free(cpu, leaf));
        }
    }

    fn step(&mut self) {
        let space = self.rng.below(3) as usize;
        let page = *self.rng.pick(&PAGES);
        let cpu = self.rng.below(u64::from(CPUS)) as u16;
        let hw = self.hw.clone();
        match self.rng.below(8) {
            0 => self.load(cpu, space),
            1..4 => hw.on_cpu(cpu, || self.enter(space, page)),
            4 | 5 => hw.on_cpu(cpu, || self.protect(space, page)),
            _ => hw.on_cpu(cpu, || self.remove(space, page)),
        }
        let (root, _, pages) = &self.spaces[space];
        let want = pages
            .get(&page)
            .map(|(frame, write)| (Pfn(*frame), if *write { Rights::UR | Rights::UW } else { Rights::UR }));
        self.hw.check_agrees(Pfn(*root), page << 12, want, Rights::UR | Rights::UW);
        self.hw.check_quiet();
    }
}

fn start(range: Option<VaRange>) -> Va {
    range.map_or(Va::ZERO, VaRange::start)
}

fn flush<F: HwFormat>(
    tlb: &F::Tlb,
    bug: Option<Bug>,
    asid: u16,
    current: bool,
    range: Option<VaRange>,
    walks: bool,
) {
    let space = Space::User { asid: Asid(asid), current };
    if bug != Some(Bug::NoBefore) {
        tlb.before();
    }
    match range {
        Some(r) if bug == Some(Bug::WrongPage) => {
            let next = Va::containing(RawAddr(r.start().get() + 4096));
            tlb.flush_range(space, VaRange::page(next), walks);
        }
        Some(r) => tlb.flush_range(space, r, walks),
        None => tlb.flush_space(space),
    }
    if bug != Some(Bug::NoAfter) {
        tlb.after();
    }
}

/// Steps until something is found.
fn run<F: HwFormat>(seed: u64, bug: Option<Bug>, steps: u32) -> Option<u32> {
    let mut m = Mini::<F>::new(seed, bug);
    for step in 0..steps {
        m.step();
        if m.hw.found() > 0 {
            assert!(bug.is_some(), "seed {seed}, step {step}: {}", m.hw.explain());
            return Some(step);
        }
    }
    None
}

fn every_format(f: impl Fn(Arch, &dyn Fn(u64, Option<Bug>, u32) -> Option<u32>)) {
    f(Arch::X86L4, &run::<X86L4>);
    f(Arch::X86L5, &run::<X86L5>);
    f(Arch::Aarch64, &run::<Aarch64>);
    f(Arch::Sv39, &run::<Sv39>);
    f(Arch::Sv48, &run::<Sv48>);
    f(Arch::Sv57, &run::<Sv57>);
}

#[test]
fn without_a_mistake_nothing_is_found() {
    every_format(|_, run| {
        for seed in 0..20 {
            run(seed, None, 400);
        }
    });
}

#[test]
fn every_mistake_is_found_on_every_format_that_can_have_it() {
    every_format(|arch, run| {
        for bug in BUGS {
            let skip = match bug {
                // Nothing to leave out there.
                Bug::NoBefore | Bug::NoAfter => !arch.is_arm(),
                // INVLPG takes the tables with it; INVPCID those on the way.
                Bug::TableFreedWithoutWalks => arch.is_x86(),
                // No interrupts.
                Bug::NotWaitedFor => arch.is_arm(),
                _ => false,
            };
            if !skip {
                let found = (0..4).filter_map(|seed| run(seed, Some(bug), 2000)).count();
                assert_eq!(found, 4, "{bug:?} on {arch:?}");
            }
        }
    });
}

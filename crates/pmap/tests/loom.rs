//! Model checks of the shootdown protocols; `LOCKING.md` names these tests. They take
//! the files that hold the protocols, not the crate: a whole system is too much to check.
//!
//! Page tables are relaxed words here, a walk is a relaxed load, and a TLB is what a CPU
//! has loaded and goes on using until it flushes.
#![cfg(loom)]

#[path = "../src/active.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod active;
#[path = "../src/asid.rs"]
mod asid;
#[path = "../src/mailbox.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod mailbox;

use active::ActiveSet;
use asid::{AsidPool, Claimer, number};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use loom::thread;
use machvm_hal::{CpuId, CpuSet};
use mailbox::{Mail, Mailbox, Request};

/// Bounds the preemptions of each schedule where the full space is too large to finish.
fn bounded(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(preemptions);
    b.check(f);
}

const OLD: u64 = 1;
const NEW: u64 = 2;

// ------------------------------------------------------------------ mailbox

/// One CPU, and what two pmaps have there.
struct OneCpu {
    tables: [AtomicU64; 2],
    tlb: [AtomicU64; 2],
    mail: Mailbox<1>,
}

impl OneCpu {
    fn new() -> Arc<Self> {
        Arc::new(OneCpu {
            tables: [AtomicU64::new(OLD), AtomicU64::new(OLD)],
            tlb: [AtomicU64::new(OLD), AtomicU64::new(OLD)],
            mail: Mailbox::new(),
        })
    }
    fn serve(&self) {
        // After the flush the CPU walks again at once.
        let walk = |i: usize| self.tlb[i].store(self.tables[i].load(Relaxed), Relaxed);
        self.mail.serve(|round| {
            round.each(|mail| match mail {
                Mail::Everything => (0..2).for_each(walk),
                Mail::One(r) => walk(r.tag as usize),
            });
        });
    }
    fn post(&self, i: u32) {
        self.tables[i as usize].store(NEW, Relaxed);
        self.mail.put(Request { tag: i, range: None, walks: false });
        self.mail.ring();
    }
    fn shoot(&self, i: u32) {
        self.post(i);
        let ring = self.mail.rung();
        while !self.mail.is_done(ring) {
            thread::yield_now();
        }
        assert_eq!(self.tlb[i as usize].load(Relaxed), NEW, "acknowledged and not flushed");
    }
}

#[test]
fn mailbox_acknowledges_what_is_flushed() {
    loom::model(|| {
        let m = OneCpu::new();
        let cpu = {
            let m = m.clone();
            thread::spawn(move || {
                while !m.mail.is_done(1) {
                    m.serve();
                    thread::yield_now();
                }
            })
        };
        m.shoot(0);
        cpu.join().unwrap();
    });
}

/// Two requests, one slot.
#[test]
fn mailbox_overflow_loses_nothing() {
    bounded(3, || {
        let m = OneCpu::new();
        let poster = |i: u32| {
            let m = m.clone();
            thread::spawn(move || {
                m.post(i);
                let ring = m.mail.rung();
                if m.mail.is_done(ring) {
                    assert_eq!(m.tlb[i as usize].load(Relaxed), NEW, "acknowledged and not flushed");
                }
            })
        };
        let both = [poster(0), poster(1)];
        m.serve();
        for poster in both {
            poster.join().unwrap();
        }
        m.serve();
        assert!(m.mail.is_done(2));
        assert_eq!([0, 1].map(|i: usize| m.tlb[i].load(Relaxed)), [NEW, NEW]);
    });
}

/// A slot is used again, while its first contents may still be on their way.
#[test]
fn mailbox_slots_are_reused() {
    bounded(3, || {
        let m = OneCpu::new();
        let cpu = {
            let m = m.clone();
            thread::spawn(move || {
                while !m.mail.is_done(2) {
                    m.serve();
                    thread::yield_now();
                }
            })
        };
        m.post(0);
        m.shoot(1);
        cpu.join().unwrap();
        assert_eq!(m.tlb[0].load(Relaxed), NEW);
    });
}

/// The interrupt comes while its CPU serves already.
#[test]
fn mailbox_interrupt_against_serving() {
    loom::model(|| {
        let m = OneCpu::new();
        m.post(0);
        let waiting = {
            let m = m.clone();
            thread::spawn(move || m.serve())
        };
        m.post(1);
        m.serve();
        waiting.join().unwrap();
        assert!(m.mail.is_done(2), "both thought that the other would");
        assert_eq!([0, 1].map(|i: usize| m.tlb[i].load(Relaxed)), [NEW, NEW]);
    });
}

// --------------------------------------------------------------- active sets

const C0: CpuId = CpuId(0);
const C1: CpuId = CpuId(1);
const ONLINE: CpuSet = CpuSet(0b11);

#[test]
fn active_first_load_against_invalidate() {
    loom::model(|| {
        let m = Arc::new((ActiveSet::new(), AtomicU64::new(OLD)));
        let cpu = {
            let m = m.clone();
            thread::spawn(move || {
                m.0.enter(C0);
                assert!(!m.0.is_stale(C0) || m.1.load(Relaxed) == NEW);
                m.1.load(Relaxed)
            })
        };
        m.1.store(NEW, Relaxed);
        let asked = m.0.reach(ONLINE);
        assert!(cpu.join().unwrap() == NEW || asked == CpuSet(1), "walked the old table, asked {asked:?}");
    });
}

/// The CPU left the pmap, with translations, and loads it again.
#[test]
fn active_second_load_against_invalidate() {
    loom::model(|| {
        let m = Arc::new((ActiveSet::new(), AtomicU64::new(OLD)));
        let mut tlb = None;
        m.0.enter(C0);
        assert!(!m.0.is_stale(C0));
        tlb.get_or_insert(m.1.load(Relaxed));
        m.0.leave(C0);
        let cpu = {
            let m = m.clone();
            thread::spawn(move || {
                m.0.enter(C0);
                if m.0.is_stale(C0) {
                    tlb = None;
                }
                *tlb.get_or_insert_with(|| m.1.load(Relaxed))
            })
        };
        m.1.store(NEW, Relaxed);
        let asked = m.0.reach(ONLINE);
        assert!(cpu.join().unwrap() == NEW || asked == CpuSet(1), "uses what it had, asked {asked:?}");
    });
}

/// It has the pmap loaded, leaves and comes back. Another CPU is marked, so there is a
/// second look.
#[test]
fn active_leave_and_load_against_invalidate() {
    loom::model(|| {
        let m = Arc::new((ActiveSet::new(), AtomicU64::new(OLD)));
        for cpu in [C0, C1] {
            m.0.enter(cpu);
            assert!(!m.0.is_stale(cpu));
        }
        m.0.leave(C1);
        let mut tlb = Some(OLD);
        let cpu = {
            let m = m.clone();
            thread::spawn(move || {
                m.0.leave(C0);
                m.0.enter(C0);
                if m.0.is_stale(C0) {
                    tlb = None;
                }
                *tlb.get_or_insert_with(|| m.1.load(Relaxed))
            })
        };
        m.1.store(NEW, Relaxed);
        let asked = m.0.reach(ONLINE);
        assert!(cpu.join().unwrap() == NEW || asked == CpuSet(1), "uses what it had, asked {asked:?}");
    });
}

// -------------------------------------------------------------------- numbers

const PMAPS: usize = 4;
const NUMBERS: usize = 4;

/// Two CPUs with tagged TLBs, and pmaps.
struct Numbered {
    pool: AsidPool<2>,
    broadcast: bool,
    contexts: [AtomicU64; PMAPS],
    /// What each CPU walks: pmap + 1, << 8 | number.
    hardware: [AtomicU64; 2],
    /// Whose translations (pmap + 1) each CPU has under each number.
    tlb: [[AtomicU64; NUMBERS]; 2],
}

struct On<'a>(&'a Numbered, CpuId);

impl Claimer for On<'_> {
    fn flush_all(&self) {
        let m = self.0;
        for cpu in 0..2 {
            if !m.broadcast && cpu != self.1.0 as usize {
                continue;
            }
            m.tlb[cpu].iter().for_each(|t| t.store(0, Relaxed));
            // And it walks on.
            let hw = m.hardware[cpu].load(Relaxed);
            m.tlb[cpu][hw as usize & 0xff].store(hw >> 8, Relaxed);
        }
    }
    fn wait(&self) {
        thread::yield_now();
    }
    fn forget(&self) {}
}

impl Numbered {
    fn new(broadcast: bool) -> Arc<Self> {
        Arc::new(Numbered {
            pool: AsidPool::new(NUMBERS as u32, broadcast),
            broadcast,
            contexts: std::array::from_fn(|_| AtomicU64::new(0)),
            hardware: std::array::from_fn(|_| AtomicU64::new(0)),
            tlb: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        })
    }
    fn number_of(&self, pmap: usize) -> u64 {
        u64::from(number(self.contexts[pmap].load(Relaxed)))
    }
    /// `cpu` loads the pmap, and has translations of it at once.
    fn load(&self, cpu: CpuId, pmap: usize) {
        let (c, owner) = (cpu.0 as usize, pmap as u64 + 1);
        let n = u64::from(self.pool.claim(cpu, &self.contexts[pmap], &On(self, cpu)));
        assert_ne!(n, 0, "there are numbers for all");
        let had = self.tlb[c][n as usize].load(Relaxed);
        assert!(had == 0 || had == owner, "{cpu:?} has translations of {} under the {n} of {owner}", had);
        self.hardware[c].store(owner << 8 | n, Relaxed);
        self.tlb[c][n as usize].store(owner, Relaxed);
        self.pool.settle(cpu);
        assert_eq!(self.number_of(pmap), n, "the number is the pmap's as long as it is loaded");
    }
    /// Nobody else's hardware holds the number of this pmap.
    fn alone(&self, cpu: CpuId, pmap: usize) {
        let hw = self.hardware[1 - cpu.0 as usize].load(Relaxed);
        let (owner, n) = (hw >> 8, hw & 0xff);
        assert!(n != self.number_of(pmap) || owner == pmap as u64 + 1, "{owner} is loaded under {n} too");
    }
}

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

/// Numbers 1 to 3 are A's, B's and C's; A is loaded on CPU 0 and C on CPU 1. Both have
/// had B.
fn all_in_use(broadcast: bool) -> Arc<Numbered> {
    let m = Numbered::new(broadcast);
    for (cpu, pmap) in [(C0, A), (C1, B), (C0, B), (C0, A), (C1, C)] {
        m.load(cpu, pmap);
    }
    m
}

/// CPU 0 switches within the generation while CPU 1 rolls it over.
fn roll_over_against_switch(broadcast: bool) {
    let m = all_in_use(broadcast);
    let other = {
        let m = m.clone();
        thread::spawn(move || {
            m.load(C1, D);
            m.alone(C1, D);
        })
    };
    m.load(C0, B);
    m.alone(C0, B);
    other.join().unwrap();
    assert_eq!(m.hardware[0].load(Relaxed), (B as u64 + 1) << 8 | m.number_of(B), "loaded, so it kept it");
    // Whoever had D's number first is forgotten before D comes here.
    m.load(C0, D);
}

#[test]
fn asid_roll_over_against_switch() {
    bounded(3, || roll_over_against_switch(false));
}

#[test]
fn asid_roll_over_against_switch_with_broadcast() {
    bounded(3, || roll_over_against_switch(true));
}

/// Both find no number left.
#[test]
fn asid_two_roll_overs() {
    bounded(3, || {
        let m = all_in_use(false);
        m.load(C1, D); // rolls over: A and C are kept, B's is D's
        let other = {
            let m = m.clone();
            thread::spawn(move || {
                m.load(C1, B);
                m.alone(C1, B);
            })
        };
        m.load(C0, C);
        m.alone(C0, C);
        other.join().unwrap();
        m.load(C1, C);
        m.load(C0, B);
    });
}

#[test]
fn asid_idle_against_roll_over() {
    bounded(3, || {
        let m = all_in_use(false);
        let other = {
            let m = m.clone();
            thread::spawn(move || {
                m.load(C1, D);
                m.alone(C1, D);
            })
        };
        m.hardware[0].store(0, Relaxed);
        m.pool.idle(C0);
        m.load(C0, A);
        m.alone(C0, A);
        other.join().unwrap();
        m.load(C0, D);
    });
}

/// What CPU 0 has loaded, and never loads again, stays its number on CPU 1 too.
#[test]
fn asid_loaded_is_kept() {
    loom::model(|| {
        let m = all_in_use(false);
        let n = m.number_of(A);
        // D, and then B, find no number left.
        for pmap in [D, A, D, B, A] {
            m.load(C1, pmap);
            m.alone(C1, pmap);
            assert!(pmap != A || m.number_of(A) == n, "CPU 0 has it loaded under {n}");
        }
        assert!(m.contexts[A].load(Relaxed) >> 16 > 2, "two roll-overs");
    });
}

// ------------------------------------------------------- numbers and active sets

/// A pmap as a system has it.
struct Pm {
    pool: AsidPool<2>,
    context: AtomicU64,
    set: ActiveSet,
    table: AtomicU64,
}

/// What one load asked for.
#[derive(Default)]
struct Loading<'a> {
    /// Whose number changes; `None`: nobody's that matters.
    set: Option<&'a ActiveSet>,
    flushed: std::cell::Cell<bool>,
}

impl Claimer for Loading<'_> {
    fn flush_all(&self) {
        self.flushed.set(true);
    }
    fn wait(&self) {
        thread::yield_now();
    }
    fn forget(&self) {
        if let Some(set) = self.set {
            set.forget();
        }
    }
}

impl Pm {
    /// What the CPU uses afterwards, and under which number. `had`: what it had before.
    fn load(&self, cpu: CpuId, had: Option<(u16, u64)>) -> (u16, u64) {
        let how = Loading { set: Some(&self.set), ..Loading::default() };
        self.set.enter(cpu);
        let n = self.pool.claim(cpu, &self.context, &how);
        let flush = self.set.is_stale(cpu) || how.flushed.get();
        match had {
            Some((of, seen)) if of == n && !flush => (n, seen),
            _ => (n, self.table.load(Relaxed)),
        }
    }
    /// The CPU loads a pmap that was never loaded, and leaves it.
    fn load_other(&self, cpu: CpuId) -> u16 {
        let n = self.pool.claim(cpu, &AtomicU64::new(0), &Loading::default());
        self.pool.settle(cpu);
        self.pool.idle(cpu);
        n
    }
}

/// CPU 0 had a pmap and left it, and its number is another's by now.
fn rolled_over() -> (Arc<Pm>, (u16, u64)) {
    let pm = Arc::new(Pm {
        pool: AsidPool::new(5, false),
        context: AtomicU64::new(0),
        set: ActiveSet::new(),
        table: AtomicU64::new(OLD),
    });
    let had = pm.load(C0, None);
    pm.pool.settle(C0);
    pm.pool.idle(C0);
    pm.set.leave(C0);
    while pm.load_other(C1) != had.0 {}
    (pm, had)
}

/// It loads it under a new number.
#[test]
fn asid_renumbering_against_invalidate() {
    loom::model(|| {
        let (pm, had) = rolled_over();
        let cpu = {
            let pm = pm.clone();
            thread::spawn(move || pm.load(C0, Some(had)))
        };
        pm.table.store(NEW, Relaxed);
        let asked = pm.set.reach(ONLINE);
        let (_, seen) = cpu.join().unwrap();
        assert!(seen == NEW || asked == CpuSet(1), "walked the old table, asked {asked:?}");
    });
}

/// Two CPUs load it. One gives it a new number and drops what is remembered of the old;
/// the other enters itself after that.
#[test]
fn asid_forgetting_against_invalidate() {
    bounded(3, || {
        let (pm, _) = rolled_over();
        // It has been through the lock, and flushed: the next time it takes no lock.
        pm.load_other(C0);
        let load = |cpu| {
            let pm = pm.clone();
            thread::spawn(move || pm.load(cpu, None))
        };
        let both = [load(C0), load(C1)];
        pm.table.store(NEW, Relaxed);
        let asked = pm.set.reach(ONLINE);
        for (cpu, loaded) in both.into_iter().enumerate() {
            let (_, seen) = loaded.join().unwrap();
            let told = asked.0 >> cpu & 1 != 0;
            assert!(seen == NEW || told, "CPU {cpu} walked the old table, asked {asked:?}");
        }
    });
}

/// With broadcast, who takes rights away flushes the number that it finds.
#[test]
fn asid_number_against_broadcast() {
    loom::model(|| {
        let pm = Arc::new(Pm {
            pool: AsidPool::new(NUMBERS as u32, true),
            context: AtomicU64::new(0),
            set: ActiveSet::new(),
            table: AtomicU64::new(OLD),
        });
        let cpu = {
            let pm = pm.clone();
            thread::spawn(move || pm.load(C0, None))
        };
        pm.table.store(NEW, Relaxed);
        let flushed = (pm.set.everyone() != CpuSet(0)).then(|| number(pm.context.load(Relaxed)));
        let (n, seen) = cpu.join().unwrap();
        assert!(seen == NEW || flushed == Some(n), "walked the old table under {n}, flushed {flushed:?}");
    });
}

//! On a machine whose CPUs remember whatever they can (`fake`).

mod fake;

use std::format;
use std::string::String;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::vec::Vec;

use fake::{CPUS, PAGES, Rig, be, in_switch, in_wait, interrupts};
use machvm_hal::{Invalidations, Va, VaRange};

use crate::seed::Bug;
use crate::system::PmapId;

/// With numbers to waste, without invalidation of others.
fn local() -> Rig<false> {
    Rig::new(4096, None)
}

impl<const B: bool> Rig<B> {
    fn on(&self, cpu: usize, id: PmapId) {
        self.0.activate(id, be(cpu));
    }
    fn off(&self, cpu: usize, id: PmapId) {
        self.0.deactivate(id, be(cpu));
    }
    fn count(&self, of: impl Fn(&fake::Counts) -> &AtomicU64) -> u64 {
        of(&self.machine().counts).swap(0, SeqCst)
    }
    fn root(&self, id: PmapId) -> machvm_hal::Pfn {
        self.0.pmap(id).root()
    }
}

#[test]
fn a_shootdown_reaches_every_cpu_that_has_it_loaded_and_no_other() {
    let r = local();
    let (p, q) = (r.pmap(), r.pmap());
    (0..3).for_each(|c| r.on(c, p));
    r.on(3, q);
    be(0);
    r.change(p, 1);
    assert_eq!(r.count(|c| &c.ipis), 2);
    be(3); // from a CPU that never had it
    r.change(p, 2);
    assert_eq!(r.count(|c| &c.ipis), 3);
    r.change(r.0.kernel_id(), 0);
    assert_eq!(r.count(|c| &c.ipis), 3, "the kernel's are everywhere");
    r.assert_clean();
}

#[test]
fn a_cpu_that_left_is_not_interrupted_and_flushes_when_it_comes_back() {
    let r = local();
    let p = r.pmap();
    r.on(1, p);
    r.off(1, p);
    r.on(0, p);
    r.change(p, 3);
    assert_eq!(r.count(|c| &c.ipis), 0);
    assert_eq!(r.remembered(r.root(p)), 2 * PAGES as usize, "CPU 1 still has the old one");
    r.on(1, p);
    assert_eq!(r.read(3), Some(4));
    // Once: the mark is gone.
    r.off(1, p);
    r.write(p, 0, 0);
    r.on(1, p);
    assert_eq!(r.read(0), Some(2), "nothing was taken away since, so nothing is forgotten");
    r.assert_clean();
}

#[test]
fn pm44_activate_leaves_the_one_before_and_deactivate_comes_too_late() {
    let r = local();
    let (p, q) = (r.pmap(), r.pmap());
    let active = |id| r.0.pmap(id).cpus.active().0;
    r.on(2, p);
    assert_eq!((active(p), r.hardware().0), (0b100, r.root(p)));
    r.on(2, q);
    assert_eq!((active(p), active(q), r.hardware().0), (0, 0b100, r.root(q)));
    r.off(2, p);
    assert_eq!((active(q), r.hardware().0), (0b100, r.root(q)), "p is long gone");
    r.off(2, q);
    assert_eq!((active(q), r.hardware()), (0, (r.root(r.0.kernel_id()), 0)));
    r.on(2, p);
    r.on(2, r.0.kernel_id());
    assert_eq!((active(p), r.hardware()), (0, (r.root(r.0.kernel_id()), 0)));
    r.assert_clean();
}

#[test]
fn a_destroyed_pmap_is_remembered_nowhere() {
    let r = local();
    let p = r.pmap();
    let root = r.root(p);
    for c in [1, 3, 0] {
        r.on(c, p);
        r.off(c, p);
    }
    assert_eq!(r.remembered(root), 3 * PAGES as usize);
    r.destroy(p);
    assert_eq!(r.count(|c| &c.ipis), 2, "CPU 2 never had it");
    assert_eq!(r.remembered(root), 0);
    // A gather that comes after names nobody, or whoever got the structure.
    r.shoot(&[(p.raw(), VaRange::page(Va::ZERO)), (77, VaRange::page(Va::ZERO))]);
    let again = r.pmap();
    assert_eq!(again, p);
    r.on(1, again);
    be(0);
    r.shoot(&[r.range(again, 0, 1)]);
    r.assert_clean();
}

#[test]
fn z142_taken_away_in_the_middle_of_a_switch() {
    for (asids, before) in [(4096, true), (4096, false), (8, true), (1, true), (1, false), (2, false)] {
        let r = Rig::<false>::new(asids, None);
        let (p, q) = (r.pmap(), r.pmap());
        if before {
            r.on(0, p);
            r.off(0, p);
        }
        r.on(0, q);
        let r2 = r.clone();
        in_switch(move || {
            // CPU 0 has said that it loads p, and has q.
            be(1);
            r2.change(p, 0);
            r2.change(q, 0);
            be(0);
        });
        r.on(0, p);
        assert_eq!(r.read(0), Some(4), "{asids} numbers");
        let r2 = r.clone();
        in_switch(move || {
            be(1);
            r2.change(p, 1);
            be(0);
        });
        r.off(0, p);
        r.on(0, p);
        assert_eq!(r.read(1), Some(4), "{asids} numbers");
        r.assert_clean();
    }
}

#[test]
fn many_ranges_of_a_pmap_are_its_space_and_many_requests_are_everything() {
    let r = local();
    let all: Vec<_> = (0..6).map(|_| r.pmap()).collect();
    r.on(1, all[0]);
    be(0);
    let own = |n: u64| -> Vec<_> { (0..n).map(|p| r.range(all[0], p, 1)).collect() };
    r.shoot(&own(4));
    assert_eq!([r.count(|c| &c.pages), r.count(|c| &c.spaces)], [4, 0]);
    r.shoot(&own(5));
    assert_eq!([r.count(|c| &c.pages), r.count(|c| &c.spaces)], [0, 1]);
    let long = VaRange::of_pages(Va::ZERO, 40).unwrap();
    r.shoot(&[(all[0].raw(), long)]);
    assert_eq!([r.count(|c| &c.pages), r.count(|c| &c.spaces)], [40, 0]);
    r.shoot(&[(all[0].raw(), long), (all[0].raw(), long)]);
    assert_eq!([r.count(|c| &c.pages), r.count(|c| &c.spaces)], [0, 1]);
    // A CPU that changes pmaps while requests pile up: five fill four slots.
    let kernel = r.range(r.0.kernel_id(), 0, 1);
    let mut five = own(4);
    five.push(kernel);
    for (tag, _) in &five {
        let id = PmapId::from_raw(*tag).unwrap();
        r.bump(id, 0);
    }
    r.shoot(&five);
    assert_eq!(r.count(|c| &c.alls), 1);
    r.check(r.0.kernel_id(), 0, 4);
    r.check(all[0], 0, 10);
    r.assert_clean();
}

#[test]
fn everything_is_everything() {
    fn run<const B: bool>() {
        let r = Rig::<B>::new(256, None);
        let (p, q) = (r.pmap(), r.pmap());
        r.on(0, p);
        r.on(1, q);
        r.off(1, q);
        r.on(2, q);
        let values = [p, q, r.0.kernel_id()].map(|id| (id, r.bump(id, 5)));
        r.0.shoot(&Invalidations { ranges: &[], all: true, walks: true });
        values.iter().for_each(|(id, v)| r.check(*id, 5, *v));
        r.on(1, q);
        assert_eq!(r.read(5), Some(4));
        r.assert_clean();
    }
    run::<false>();
    run::<true>();
}

#[test]
fn numbers_run_out_and_are_used_again_after_a_flush() {
    fn run<const B: bool>() {
        let r = Rig::<B>::new(6, None);
        let all: Vec<_> = (0..8).map(|_| r.pmap()).collect();
        r.on(3, all[0]);
        let number = r.hardware().1;
        for round in 0..20 {
            for (i, id) in all.iter().enumerate().skip(1) {
                r.on(i % 3, *id);
                assert_eq!(r.read(0), Some(2 + 2 * round));
                r.change(*id, 0);
                assert_ne!(r.hardware().1, number, "it is loaded on CPU 3");
            }
            be(3);
            r.change(all[0], 0);
            assert_eq!(r.read(0), Some(4 + 2 * round));
        }
        assert_eq!(r.0.pmap(all[0]).asid().0, number, "kept through every generation");
        let alls = r.count(|c| &c.alls);
        assert!((10..300).contains(&alls), "{alls}: once a CPU and generation");
        r.assert_clean();
    }
    run::<false>();
    run::<true>();
}

#[test]
fn without_numbers_every_switch_flushes() {
    // 1: there are none. 2: one, for four CPUs.
    for asids in [1, 2] {
        let r = Rig::<false>::new(asids, None);
        let all: Vec<_> = (0..5).map(|_| r.pmap()).collect();
        for round in 0..4 {
            for (i, id) in all.iter().enumerate() {
                r.on(i % CPUS, *id);
                assert_eq!(r.read(0), Some(2 + 2 * round));
                r.change(*id, 0);
                r.off(i % CPUS, *id);
                assert_eq!(r.under(0), 0, "the kernel's root is under 0 too");
            }
            (0..CPUS).for_each(|c| r.on(c, all[c]));
            (0..CPUS).for_each(|c| r.on(c, all[c + 1]));
        }
        r.assert_clean();
    }
}

/// A CPU answers until all are through, even when its thread panics.
struct Answering<'a, const B: bool>(&'a Rig<B>, &'a AtomicU32);

impl<const B: bool> Drop for Answering<'_, B> {
    fn drop(&mut self) {
        self.1.fetch_sub(1, SeqCst);
        while self.1.load(SeqCst) != 0 {
            self.0.0.shootdown_interrupt();
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_shootdown_inside_a_shootdown() {
    let r = local();
    let p = r.pmap();
    (0..CPUS).for_each(|c| r.on(c, p));
    r.threads(true);
    let stop = AtomicU32::new(0);
    std::thread::scope(|s| {
        for c in 1..CPUS {
            let (r, stop) = (r.clone(), &stop);
            s.spawn(move || {
                be(c);
                r.handler();
                while stop.load(SeqCst) == 0 {
                    r.machine().poll();
                    std::thread::yield_now();
                }
            });
        }
        be(0);
        let r2 = r.clone();
        in_wait(move || r2.change(p, 2)); // an interrupt that takes a mapping away
        r.change(p, 1);
        stop.store(1, SeqCst);
    });
    r.check(p, 2, 4);
    r.assert_clean();
}

#[test]
fn two_cpus_that_shoot_each_other_with_interrupts_off() {
    let r = local();
    let p = r.pmap();
    (0..2).for_each(|c| r.on(c, p));
    r.threads(true);
    let left = AtomicU32::new(2);
    std::thread::scope(|s| {
        for c in 0..2 {
            let (r, left) = (r.clone(), &left);
            s.spawn(move || {
                be(c);
                r.handler();
                interrupts(false);
                let _until = Answering(&r, left);
                (0..300).for_each(|_| r.change(p, c as u64));
            });
        }
    });
    r.assert_clean();
}

struct Rng(u64);
impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ z >> 27) % n
    }
}

/// What a page has at least, for everybody who looks after it was changed.
type Floor = Vec<[AtomicU64; PAGES as usize]>;

/// One CPU's life: loads pmaps, looks, changes pages, makes and destroys a pmap.
fn live<const B: bool>(r: &Rig<B>, cpu: usize, all: &[PmapId], floor: &Floor, rng: &mut Rng, steps: u32) {
    let mut loaded: Option<usize> = None;
    for _ in 0..steps {
        let (which, page) = (rng.below(all.len() as u64) as usize, rng.below(PAGES));
        match rng.below(16) {
            0..5 => {
                r.on(cpu, all[which]);
                loaded = Some(which);
            }
            5 => {
                if let Some(at) = loaded.take() {
                    r.off(cpu, all[at]);
                }
            }
            6..9 => {
                if let Some(at) = loaded {
                    let least = floor[at][page as usize].load(SeqCst);
                    let seen = r.read(page).unwrap();
                    assert!(seen >= least, "CPU {cpu} reads {seen} after {least} was everywhere");
                }
            }
            9..12 => {
                let value = r.bump(all[which], page);
                r.shoot(&[r.range(all[which], page, 1)]);
                r.check(all[which], page, value);
                floor[which][page as usize].fetch_max(value, SeqCst);
            }
            12 => {
                // Several pmaps, many ranges, with interrupts off.
                interrupts(false);
                let what: Vec<_> = (0..1 + rng.below(9))
                    .map(|_| (rng.below(all.len() as u64) as usize, rng.below(PAGES)))
                    .map(|(w, page)| (w, page, r.bump(all[w], page)))
                    .collect();
                let ranges: Vec<_> = what.iter().map(|(w, page, _)| r.range(all[*w], *page, 1)).collect();
                r.shoot(&ranges);
                for (w, page, value) in what {
                    r.check(all[w], page, value);
                    floor[w][page as usize].fetch_max(value, SeqCst);
                }
                interrupts(true);
            }
            13 => r.change(r.0.kernel_id(), page),
            14 if rng.below(4) == 0 => {
                let value = r.bump(all[which], page);
                r.0.shoot(&Invalidations { ranges: &[], all: true, walks: false });
                r.check(all[which], page, value);
            }
            14 => r.machine().poll(),
            _ => {
                let own = r.pmap();
                r.on(cpu, own);
                assert_eq!(r.read(page), Some(2));
                r.off(cpu, own);
                loaded = None;
                r.destroy(own);
            }
        }
    }
    if let Some(at) = loaded {
        r.off(cpu, all[at]);
    }
}

fn stress<const B: bool>(asids: u32, seed: u64, steps: u32) {
    let r = Rig::<B>::new(asids, None);
    r.threads(true);
    let all: Vec<_> = (0..7).map(|_| r.pmap()).collect();
    let floor: Floor = all.iter().map(|_| Default::default()).collect();
    let left = AtomicU32::new(CPUS as u32);
    std::thread::scope(|s| {
        for cpu in 0..CPUS {
            let (r, all, floor, left) = (r.clone(), &all, &floor, &left);
            s.spawn(move || {
                be(cpu);
                r.handler();
                let mut rng = Rng(seed << 8 | cpu as u64);
                let _until = Answering(&r, left);
                live(&r, cpu, all, floor, &mut rng, steps);
            });
        }
    });
    let found = r.violations();
    assert!(found.is_empty(), "{asids} numbers, broadcast {B}, seed {seed}: {found:#?}");
    r.threads(false);
    all.iter().for_each(|id| r.destroy(*id));
}

/// `MACHVM_SEED` replays the rolls (not the schedule).
fn seeds() -> Vec<u64> {
    match std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(one) => [one].into(),
        None if std::env::var_os("MACHVM_LONG").is_some() => (0..40).collect(),
        None => [1].into(),
    }
}

#[test]
fn z142_four_cpus_without_broadcast() {
    for seed in seeds() {
        [1, 2, 5, 8, 4096].into_iter().for_each(|asids| stress::<false>(asids, seed, 10_000));
    }
}

#[test]
fn z142_four_cpus_with_broadcast() {
    for seed in seeds() {
        [2, 6, 256].into_iter().for_each(|asids| stress::<true>(asids, seed, 10_000));
    }
}

/// What the checks say about a machine with this mistake, and about one without.
fn found(run: impl Fn(Option<Bug>) -> Vec<String>, bug: Bug) {
    assert_eq!(run(None), Vec::<String>::new());
    assert_ne!(run(Some(bug)), Vec::<String>::new(), "{bug:?} is not noticed");
}

fn local_flush<const B: bool>(bug: Option<Bug>) -> Vec<String> {
    let r = Rig::<B>::new(256, bug);
    let p = r.pmap();
    (0..2).for_each(|c| r.on(c, p));
    r.change(p, 0);
    r.violations()
}

#[test]
fn seeded_local_flush_only_is_noticed() {
    found(local_flush::<false>, Bug::LocalFlushOnly);
    found(local_flush::<true>, Bug::LocalFlushOnly);
}

fn numbers_again<const B: bool>(bug: Option<Bug>) -> Vec<String> {
    let r = Rig::<B>::new(4096, bug);
    let all: Vec<_> = (0..10).map(|_| r.pmap()).collect();
    all.iter().for_each(|id| r.on(0, *id));
    r.violations()
}

#[test]
fn seeded_numbers_used_again_without_a_flush_are_noticed() {
    found(numbers_again::<false>, Bug::AsidReusedWithoutFlush);
    found(numbers_again::<true>, Bug::AsidReusedWithoutFlush);
}

#[test]
fn seeded_cpus_read_before_the_tables_are_written_are_noticed() {
    let run = |bug| {
        let r = Rig::<false>::new(4096, bug);
        let p = r.pmap();
        r.on(0, p);
        r.change(p, 0);
        r.on(1, p);
        be(0);
        r.change(p, 0);
        r.violations()
    };
    found(run, Bug::CpusReadEarly);
}

#[test]
fn the_fake_says_what_it_finds() {
    let r = local();
    let p = r.pmap();
    r.on(0, p);
    let value = r.bump(p, 4);
    r.check(p, 4, value);
    assert_eq!(r.violations(), [format!("CPU 0 has 2 of {p:?} page 4, which is 4")]);
}

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::vec::Vec;

use super::{Memory, Rng, sorted, std, with_seeds};
use crate::object::Object;
use crate::page::contig::Contig;
use crate::page::reserv::{RUN, Wish};
use machvm_arena::Handle;
use machvm_hal::Pfn;

/// Frames of `n` runs, and a few on both sides that belong to no whole one.
fn runs(n: u64) -> Memory {
    Memory::new(RUN - 56, n * RUN + 99)
}

#[test]
fn r01_a_window_gets_an_aligned_run() {
    let m = runs(2);
    let o = m.object();
    let all: Vec<u64> = (0..RUN).map(|p| m.near(o, 7 * RUN + p).expect("frames")).collect();
    assert_eq!(all[0] % RUN, 0);
    assert!(all.windows(2).all(|w| w[1] == w[0] + 1), "frames in the order of pages");
    m.check(RUN);
}

#[test]
fn r02_a_page_comes_from_the_reservation_of_its_window() {
    let m = runs(3);
    let (a, b) = (m.object(), m.object());
    let first = m.near(a, 100).expect("a frame");
    let other = m.near(b, 100).expect("a frame");
    let next = m.near(a, RUN + 100).expect("a frame");
    assert!([first, other, next].iter().all(|f| f % RUN == 100), "at the place of the page");
    assert_eq!(sorted(&[first / RUN, other / RUN, next / RUN]).len(), 3, "by object and window");
    assert_eq!(m.near(a, 3), Some(first - 97), "in any order");
    // No run is left: single frames, which belong to no reservation.
    let single = m.near(b, 5 * RUN).expect("a frame");
    assert!(!(RUN..4 * RUN).contains(&single), "{single:#x} was set aside");
    m.check(5);
}

#[test]
fn r02_no_reservation_where_the_window_is_not_fresh() {
    let m = runs(2);
    let o = m.object();
    let f = m.lock().take_near(Wish { object: o, place: 5 }, || false).expect("a frame");
    assert!(!(RUN..3 * RUN).contains(&f), "out of the smallest block");
    assert_eq!(m.lock().pool.reserv_stats().made, 0);
    // Nobody is asked when there is a reservation.
    let g = m.near(o, 6).expect("a frame");
    let h = m.lock().take_near(Wish { object: o, place: 5 }, || panic!("asked")).expect("a frame");
    assert_eq!((g % RUN, h), (6, g - 1));
    m.check(3);
}

#[test]
fn r02_a_page_whose_place_is_taken_gets_another_frame() {
    let m = runs(2);
    let o = m.object();
    let f = m.near(o, 9).expect("a frame");
    let copy = m.near(o, 9).expect("a frame");
    assert_ne!(f, copy);
    assert!(!(RUN..3 * RUN).contains(&copy), "no other page's place");
    m.check(2);
}

#[test]
fn r03_full_and_empty() {
    let m = runs(2);
    let o = m.object();
    let all: Vec<u64> = (0..RUN).rev().map(|p| m.near(o, p).expect("frames")).collect();
    let base = all[RUN as usize - 1];
    assert!(base == RUN || base == 2 * RUN);
    let index = base / RUN + 1; // run 0 holds the first 56 frames
    let is_full = || m.runs.lookup(index as u32).is_some_and(|r| r.is_full());
    assert!(is_full());
    m.lock().put(base + 17);
    assert!(!is_full());
    m.check(RUN - 1);
    assert_eq!(m.near(o, 17), Some(base + 17), "it is still set aside");
    assert!(is_full());
    all.iter().for_each(|f| m.lock().put(*f));
    assert_eq!(m.lock().pool.reserv_stats().active, 0, "the last page gave the run back");
    m.check(0);
    assert!(m.lock().pool.buddy.has(9));
}

#[test]
fn r05_the_oldest_partial_reservation_is_broken_when_frames_run_short() {
    let m = Memory::new(0, 3 * RUN);
    let (a, b) = (m.object(), m.object());
    let (x, y, z) = (m.near(a, 0), m.near(b, 0), m.near(a, RUN));
    let (x, y, z) = (x.expect("a frame"), y.expect("a frame"), z.expect("a frame"));
    // The first was populated again, so the second is the oldest.
    assert_eq!(m.near(a, 1), Some(x + 1));
    assert_eq!(m.lock().pool.buddy.free_frames(), 0, "everything is set aside");
    let f = m.near(b, 7 * RUN).expect("unused frames are not lost");
    assert_eq!(f / RUN, y / RUN, "out of the oldest");
    assert_eq!(m.lock().pool.reserv_stats().broken, 1);
    m.check(5);
    // Its page goes on as a single one, the others are as they were.
    assert_ne!(m.near(b, 1), Some(y + 1));
    assert_eq!(m.near(a, RUN + 1), Some(z + 1));
    m.lock().put(y);
    m.check(6);
    let rest = core::iter::from_fn(|| m.lock().take_any()).count() as u64;
    assert_eq!(rest, 3 * RUN - 6, "every frame can be had");
    m.check(3 * RUN);
}

#[test]
fn r05_an_object_that_ends_gives_up_what_it_set_aside() {
    let m = runs(4);
    let (a, b) = (m.object(), m.object());
    let kept = m.near(a, 3).expect("a frame");
    (0..RUN).for_each(|p| {
        m.near(a, RUN + p).expect("a frame");
    });
    m.near(b, 3).expect("a frame");
    m.lock().break_all(a);
    m.check(RUN + 2);
    assert!(m.objects.get(a).reservs.get().is_none());
    let s = m.lock().pool.reserv_stats();
    assert_eq!((s.active, s.broken), (2, 1), "the full one and the other object's stay");
    // What a copy still has is a single page.
    m.lock().put(kept);
    m.check(RUN + 1);
}

#[test]
fn r06_a_full_run_whose_object_is_gone_is_taken_over() {
    let m = runs(3);
    let (a, b) = (m.object(), m.object());
    let base = m.near(a, 2 * RUN).expect("a frame");
    (1..RUN).for_each(|p| assert_eq!(m.near(a, 2 * RUN + p), Some(base + p)));
    m.lock().rename(base + 5, Wish { object: b, place: 5 * RUN + 5 });
    assert!(m.objects.get(b).reservs.get().is_none(), "its object lives");
    m.lock().break_all(a);
    m.lock().rename(base + 5, Wish { object: b, place: 5 * RUN + 6 });
    assert!(m.objects.get(b).reservs.get().is_none(), "the page is not at its place there");
    m.lock().rename(base + 5, Wish { object: b, place: 5 * RUN + 5 });
    m.check(RUN);
    m.lock().put(base + 9);
    assert_eq!(m.near(b, 5 * RUN + 9), Some(base + 9));
    m.check(RUN);
    // Nobody took this one over: its first free frame breaks it.
    m.lock().break_all(b);
    m.lock().put(base + 9);
    assert_eq!(m.lock().pool.reserv_stats().active, 0);
    m.check(RUN - 1);
}

#[test]
fn r06_rename_of_a_single_frame_does_nothing() {
    let m = runs(1);
    let o = m.object();
    let f = m.lock().take_any().expect("a frame");
    m.lock().rename(f, Wish { object: o, place: f });
    m.check(1);
    assert!(m.objects.get(o).reservs.get().is_none());
}

/// Object, and window or page in it.
type Key = (u32, u64);

/// What the reservations must be, without a list, a tree or a bit in it.
#[derive(Default)]
struct Flat {
    /// Page or the embedder's, by frame.
    used: BTreeMap<u64, Option<Key>>,
    /// Active ones by base: owner, and the frames populated.
    runs: BTreeMap<u64, (Option<Key>, BTreeSet<u64>)>,
    /// Bases of partial ones, oldest first.
    queue: Vec<u64>,
}

impl Flat {
    fn of(&self, owner: Key) -> Option<u64> {
        self.runs.iter().find(|(_, (o, _))| *o == Some(owner)).map(|(base, _)| *base)
    }
    fn set_aside(&self, f: u64) -> bool {
        self.runs.contains_key(&(f & !(RUN - 1)))
    }
    fn is_free(&self, m: &Memory, f: u64) -> bool {
        (m.first..m.first + m.frames).contains(&f) && !self.used.contains_key(&f) && !self.set_aside(f)
    }
    fn any_free_run(&self, m: &Memory) -> bool {
        let bases = (m.first.next_multiple_of(RUN)..m.first + m.frames).step_by(RUN as usize);
        bases.into_iter().any(|b| (b..b + RUN).all(|f| self.is_free(m, f)))
    }
    fn break_run(&mut self, base: u64) {
        self.runs.remove(&base);
        self.queue.retain(|b| *b != base);
    }
    fn populate(&mut self, base: u64, f: u64) {
        let (_, set) = self.runs.get_mut(&base).expect("active");
        assert!(set.insert(f));
        let full = set.len() as u64 == RUN;
        self.queue.retain(|b| *b != base);
        if !full {
            self.queue.push(base);
        }
    }
    fn put(&mut self, f: u64) {
        self.used.remove(&f).expect("in use");
        let base = f & !(RUN - 1);
        let Some((owner, set)) = self.runs.get_mut(&base) else { return };
        if set.len() as u64 == RUN {
            self.queue.push(base);
        }
        assert!(set.remove(&f));
        if set.is_empty() || owner.is_none() {
            self.break_run(base);
        }
    }
    /// A frame that came off the free lists.
    fn take_any(&mut self, m: &Memory, f: u64, what: Option<(u32, u64)>) {
        if !(m.first..m.first + m.frames).any(|f| self.is_free(m, f)) {
            self.break_run(self.queue[0]);
        }
        assert!(self.is_free(m, f), "{f:#x} is not free");
        self.used.insert(f, what);
    }
    fn near(&mut self, m: &Memory, f: u64, owner: u32, place: u64, fresh: bool) {
        let key = (owner, place / RUN);
        let base = self.of(key).or_else(|| {
            (fresh && self.any_free_run(m)).then(|| {
                let base = f & !(RUN - 1);
                assert!((base..base + RUN).all(|f| self.is_free(m, f)), "a free run");
                self.runs.insert(base, (Some(key), BTreeSet::new()));
                base
            })
        });
        match base.map(|b| (b, b + place % RUN)).filter(|(_, own)| !self.used.contains_key(own)) {
            Some((base, own)) => {
                assert_eq!(f, own, "the frame at the place of the page");
                self.used.insert(f, Some((owner, place)));
                self.populate(base, f);
            }
            None => self.take_any(m, f, Some((owner, place))),
        }
    }
    fn check(&self, m: &Memory) {
        let system = m.lock().pool.system;
        m.check(self.used.len() as u64 - system);
        let unused = m.unused();
        assert_eq!(unused.len() as u64, m.frames - self.used.len() as u64);
        assert!(unused.iter().all(|f| !self.used.contains_key(f)));
        assert_eq!(m.lock().pool.reserv_stats().active, self.runs.len() as u64);
    }
}

fn random(mut rng: Rng) {
    let (whole, more) = (rng.below(5), rng.below(500));
    let m = Memory::new(rng.below(2 * RUN), whole * RUN + more + 1);
    let mut flat = Flat::default();
    let mut objects: Vec<Handle<Object>> = (0..3).map(|_| m.object()).collect();
    let mut system: Vec<(u64, u64)> = Vec::new();
    let limit = m.frames;
    for _ in 0..400 {
        let left = limit - flat.used.len() as u64;
        match rng.below(16) {
            // A stretch of pages of one window.
            0..=6 => {
                let (o, fresh) = (rng.pick(&objects), !rng.one_in(8));
                let from = rng.below(3) * RUN + rng.below(RUN);
                let n = rng.pick(&[1, 1, 16, 90, 512]);
                for place in (from..from + n).take(left as usize) {
                    if flat.used.values().any(|u| *u == Some((o.get(), place))) && !rng.one_in(50) {
                        continue; // it has a page, so a second one is a copy
                    }
                    let got = m.lock().take_near(Wish { object: o, place }, || fresh);
                    let f = got.expect("frames are left");
                    flat.near(&m, f, o.get(), place, fresh);
                }
            }
            7 | 8 => {
                for _ in 0..rng.below(40).min(left) {
                    let f = m.lock().take_any().expect("frames are left");
                    flat.take_any(&m, f, None);
                    // The oracle knows it as a page of nobody.
                }
            }
            9..=12 => {
                let pages: Vec<u64> = flat.used.keys().copied().collect();
                let free: Vec<u64> = pages
                    .into_iter()
                    .filter(|f| !system.iter().any(|(s, n)| (*s..s + n).contains(f)))
                    .collect();
                let n = rng.pick(&[1, 30, 600]).min(free.len() as u64);
                let from = rng.below(free.len() as u64 - n + 1) as usize;
                for f in &free[from..from + n as usize] {
                    m.lock().put(*f);
                    flat.put(*f);
                }
            }
            13 => {
                let i = rng.below(3) as usize;
                let o = core::mem::replace(&mut objects[i], m.object());
                m.lock().break_all(o);
                let mine: Vec<u64> = flat
                    .runs
                    .iter()
                    .filter(|(_, r)| r.0.is_some_and(|k| k.0 == o.get()))
                    .map(|(b, _)| *b)
                    .collect();
                for base in mine {
                    if flat.runs[&base].1.len() as u64 == RUN {
                        flat.runs.get_mut(&base).expect("active").0 = None;
                    } else {
                        flat.break_run(base);
                    }
                }
            }
            14 => {
                let (o, window) = (rng.pick(&objects), rng.below(3));
                let full = flat.runs.iter().find(|(_, r)| r.0.is_none()).map(|(b, _)| *b);
                let frame = full.unwrap_or(m.first) + rng.below(RUN).min(m.frames - 1);
                let place = window * RUN + if rng.one_in(4) { rng.below(RUN) } else { frame % RUN };
                m.lock().rename(frame, Wish { object: o, place });
                if let Some(base) = full
                    && place % RUN == frame % RUN
                    && flat.of((o.get(), window)).is_none()
                {
                    flat.runs.get_mut(&base).expect("active").0 = Some((o.get(), window));
                }
            }
            _ => {
                if rng.one_in(2)
                    && let Some((start, n)) = system.pop()
                {
                    assert_eq!(m.lock().free_system(start, n), Ok(()));
                    (start..start + n).for_each(|f| flat.put(f));
                } else {
                    let want =
                        Contig { align: rng.pick(&[1, 1, 8, 64]), ..Contig::anywhere(1 + rng.below(300)) };
                    let want = Contig { low: Pfn(m.first), high: Pfn(m.first + m.frames), ..want };
                    if let Some(start) = m.contig(&want) {
                        for base in (start & !(RUN - 1)..start + want.frames).step_by(RUN as usize) {
                            flat.break_run(base);
                        }
                        for f in start..start + want.frames {
                            assert!(flat.is_free(&m, f));
                            flat.used.insert(f, None);
                        }
                        system.push((start, want.frames));
                    }
                }
            }
        }
        flat.check(&m);
    }
}

#[test]
fn r01_to_r07_random_against_a_flat_memory() {
    with_seeds(12, random);
}

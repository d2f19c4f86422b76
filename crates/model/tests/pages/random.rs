//! Random calls on pages of a few objects that copies relate, against a flat model.

use machvm::Vm;
use machvm::object::{Object, RemoveFlags};
use machvm::page::{Contig, GrabFlags, Loose, PageAdvice, PlaceError, Request, StayError, XBusy};
use machvm_arena::Handle;
use machvm_hal::Pindex;
use machvm_model::{Config, Machine, Rng, check_quiet};

use crate::*;

/// Pages of an object that are used.
const N: u64 = 12;

/// What the first word of each page is.
type Words = [u64; N as usize];

struct World<'vm> {
    vm: &'vm Vm<Machine>,
    rng: Rng,
    /// The first index; the same in every object.
    base: u64,
    objects: Vec<(Handle<Object>, Words)>,
    loose: Vec<(Loose<'vm, Machine>, u64)>,
    next: u64,
    log: Vec<String>,
}

impl<'vm> World<'vm> {
    fn new(vm: &'vm Vm<Machine>, seed: u64) -> Self {
        let objects: Vec<_> = (0..3).map(|_| object(vm, N)).collect();
        let base = objects[0].1;
        assert!(objects.iter().all(|o| o.1 == base));
        let objects = objects.into_iter().map(|(o, _)| (o, [0; N as usize])).collect();
        World { vm, rng: Rng::new(seed), base, objects, loose: Vec::new(), next: 1, log: Vec::new() }
    }
    fn index(&self, n: usize) -> Pindex {
        Pindex(self.base + n as u64)
    }
    /// Some object and a page of it.
    fn some(&mut self) -> (usize, usize) {
        (self.rng.below(self.objects.len() as u64) as usize, self.rng.below(N) as usize)
    }
    fn resident(&self, o: usize, n: usize) -> Option<XBusy<'vm, Machine>> {
        self.vm.vm_page_tryxbusy(self.objects[o].0, self.index(n), &mut may()).ok()
    }
    fn look(&mut self, o: usize, n: usize) {
        let (h, i) = (self.objects[o].0, self.index(n));
        let s = self.vm.vm_page_grab_shared(h, i, GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(s), self.objects[o].1[n], "object {o} page {n}");
    }
    /// These calls page nothing out; when there is no page for a copy, nothing changes.
    fn did<T, X>(&self, done: Result<T, (StayError, X)>) -> Option<T> {
        match done {
            Ok(t) => Some(t),
            Err((e, _)) => {
                assert_eq!(e, StayError::NoMemory);
                assert!(self.vm.live()[0] + 4 >= self.vm.statistics().frame_limit, "there was memory");
                None
            }
        }
    }
    /// Another object takes the place of one.
    fn put(&mut self, o: usize, h: Handle<Object>, words: Words) {
        end(self.vm, self.objects[o].0);
        self.objects[o] = (h, words);
    }

    fn step(&mut self) {
        let ((o, n), (p, m)) = (self.some(), self.some());
        let pages = 1 + self.rng.below(N - n as u64);
        let what = self.rng.below(14);
        self.log.push(format!("{what}: {o}.{n} {p}.{m} {pages}"));
        let (vm, h, i) = (self.vm, self.objects[o].0, self.index(n));
        match what {
            0..=2 => {
                let mut x = vm.vm_page_grab(h, i, GrabFlags::ZERO, &mut may()).expect("page");
                assert_eq!(word_of!(x), self.objects[o].1[n]);
                x.write(0, &self.next.to_le_bytes(), &mut may()).expect("write");
                self.objects[o].1[n] = self.next;
                self.next += 1;
            }
            3 => {
                if let Some(x) = self.resident(o, n)
                    && self.did(x.free(&mut may())).is_some()
                {
                    self.objects[o].1[n] = 0;
                }
            }
            4 => {
                if let Some(x) = self.resident(o, n)
                    && let Some(l) = self.did(x.remove(&mut may()))
                {
                    let word = std::mem::take(&mut self.objects[o].1[n]);
                    assert_eq!(word_of!(l), word);
                    self.loose.push((l, word));
                }
                self.loose.truncate(4);
            }
            5 => self.insert(o, n),
            6 => self.rename((o, n), (p, m)),
            7 => self.replace(o, n),
            8 => {
                let copy = vm.vm_object_shadow(h, &mut may()).expect("shadow");
                let words = self.objects[o].1;
                self.put(p, copy, words);
            }
            9 if o != p => {
                let new = vm.vm_object_split(h, i, pages, &mut may()).expect("split");
                let mut words = [0; N as usize];
                let range = n..n + pages as usize;
                words[range.clone()].copy_from_slice(&self.objects[o].1[range.clone()]);
                self.objects[o].1[range].fill(0);
                self.put(p, new, words);
            }
            10 => {
                let done = vm.vm_object_page_remove(h, i, pages, RemoveFlags::empty(), &mut may());
                assert_eq!(done, Ok(0));
                self.objects[o].1[n..n + pages as usize].fill(0);
            }
            11 => drop(vm.pageout(pages, &mut may())),
            12 => match m % 4 {
                0 => vm.vm_object_madvise(h, i, pages, PageAdvice::DontNeed, &mut may()),
                1 => vm.vm_object_page_noreuse(h, i, pages, &mut may()),
                2 => vm.vm_object_populate(h, i, pages, &mut may()).expect("memory"),
                _ => {
                    let run = Contig { align: 2, ..Contig::anywhere(4) };
                    vm.vm_page_reclaim_contig(&run, &mut may());
                }
            },
            _ => self.look(o, n),
        }
    }

    fn insert(&mut self, o: usize, n: usize) {
        let (l, word) = self.loose.pop().unwrap_or_else(|| {
            let mut l = self.vm.vm_page_alloc_noobj(Request::NORMAL.zeroed(), &mut may()).expect("page");
            self.next += 1;
            l.write(0, &self.next.to_le_bytes()).expect("write");
            (l, self.next)
        });
        match self.vm.vm_page_insert(l, self.objects[o].0, self.index(n), &mut may()) {
            Ok(x) => {
                drop(x);
                assert_eq!(self.objects[o].1[n], 0, "contents were there");
                self.objects[o].1[n] = word;
            }
            Err((e, l)) => {
                assert_eq!(e, PlaceError::Present);
                self.loose.push((l, word));
            }
        }
    }

    fn rename(&mut self, (o, n): (usize, usize), (p, m): (usize, usize)) {
        let Some(x) = self.resident(o, n) else { return };
        match x.rename(self.objects[p].0, self.index(m), &mut may()) {
            Ok(x) => {
                drop(x);
                assert_eq!(self.objects[p].1[m], 0, "contents were there");
                self.objects[p].1[m] = std::mem::take(&mut self.objects[o].1[n]);
            }
            Err((e, x)) => {
                let full = e == StayError::NoMemory;
                assert!(full || e == StayError::Place(PlaceError::Present), "{e:?}");
                assert_eq!(x.place(), (self.objects[o].0, self.index(n)));
            }
        }
    }

    fn replace(&mut self, o: usize, n: usize) {
        let (Some(x), Some((l, word))) = (self.resident(o, n), self.loose.pop()) else { return };
        match x.replace(l, &mut may()) {
            Ok(_) => self.objects[o].1[n] = word,
            Err((e, (_, l))) => {
                assert_eq!(e, StayError::NoMemory);
                self.loose.push((l, word));
            }
        }
    }

    fn finish(mut self) {
        for o in 0..self.objects.len() {
            (0..N as usize).for_each(|n| self.look(o, n));
        }
        self.loose.clear();
        self.vm.check_pages().expect("sound");
        let vm = self.vm;
        self.objects.drain(..).for_each(|(o, _)| end(vm, o));
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let first = self.log.len().saturating_sub(30);
            println!("the last calls: {:#?}", &self.log[first..]);
        }
    }
}

#[test]
fn p02_to_p13_o09_o12_o15_random_against_a_flat_model() {
    let long = std::env::var("MACHVM_LONG").ok().and_then(|s| s.parse::<u64>().ok());
    let first = machvm_model::seed_from_env(1);
    for seed in first..first + 20 * long.unwrap_or(1) {
        for sparse in [true, false] {
            let c = Config { frames: 24 + (seed % 3) as u32 * 20, sparse, seed, ..Config::default() };
            println!("MACHVM_SEED={seed} {c:?}");
            let vm = Vm::new(Machine::new(c)).expect("memory");
            let mut w = World::new(&vm, seed);
            (0..1500).for_each(|_| w.step());
            w.finish();
            check_quiet(&vm, []);
            assert_eq!(vm.live(), [0; 6]);
            assert_eq!(vm.platform().mem_swap().map(|s| s.kept()), Some(0));
        }
    }
}

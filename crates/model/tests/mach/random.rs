//! Random calls against flat memory. `MACHVM_SEED=n` runs one seed again,
//! `MACHVM_LONG=n` that many; `MACHVM_EACH` looks at all memory after each call.

use std::collections::BTreeMap;

use machvm::map::Advise;
use machvm::task::{RawFlags, RawProt, VmFlags};
use machvm_hal::Prot;
use machvm_model::{Config, Rng};

use crate::*;

/// Pages of the window in which everything happens.
const PAGES: u64 = 40;

/// These seeds found something once, when nothing was dropped.
const FOUND: [u64; 3] = [239, 2168, 2745];

/// A page as it must be.
#[derive(Clone)]
struct Page {
    bytes: Vec<u8>,
    prot: Prot,
    /// Others see its stores: the number of the set that they form.
    share: Option<u64>,
}

/// A task as it must be, by page.
type Flat = BTreeMap<u64, Page>;

struct Run<'vm> {
    vm: &'vm Vm<Machine>,
    tasks: Vec<(Program<'vm>, Flat)>,
    seed: u64,
    rng: Rng,
    shares: u64,
    log: Vec<String>,
}

fn pages_of(addr: u64, len: u64) -> std::ops::Range<u64> {
    addr / P..(addr + len).div_ceil(P)
}
fn all(f: &Flat, addr: u64, len: u64, need: Prot) -> bool {
    pages_of(addr, len).all(|p| f.get(&p).is_some_and(|x| x.prot.contains(need)))
}
fn get(f: &Flat, addr: u64, len: u64) -> Vec<u8> {
    (addr..addr + len).map(|b| f[&(b / P)].bytes[(b % P) as usize]).collect()
}

impl<'vm> Run<'vm> {
    fn new(vm: &'vm Vm<Machine>, seed: u64) -> Self {
        let tasks = (0..3).map(|_| (program(vm), Flat::new())).collect();
        Run { vm, tasks, seed, rng: Rng::new(seed), shares: 0, log: Vec::new() }
    }
    fn note(&mut self, what: String) {
        self.log.push(what);
    }
    /// Bytes somewhere in the window: aligned, or not.
    fn span(&mut self) -> (u64, u64) {
        let r = &mut self.rng;
        let mut addr = BASE + r.below(PAGES * P);
        let mut len = 1 + if r.one_in(3) { r.below(64) } else { r.below(12 * P) };
        if r.one_in(2) {
            (addr, len) = (addr & !(P - 1), len.next_multiple_of(P));
        }
        (addr, len)
    }
    fn whole(&mut self) -> (u64, u64) {
        let (addr, len) = self.span();
        (addr & !(P - 1), len.next_multiple_of(P))
    }
    /// Where bytes of `len` at `like` could go: often at the same offset.
    fn other(&mut self, like: u64) -> u64 {
        let page = BASE + self.rng.below(PAGES) * P;
        match self.rng.below(3) {
            0 => page + self.rng.below(P),
            1 => page,
            _ => page + like % P,
        }
    }
    /// Puts bytes where they belong, also for those who share the pages.
    fn put(&mut self, i: usize, addr: u64, data: &[u8]) {
        for (k, byte) in data.iter().enumerate() {
            let at = addr + k as u64;
            let (page, off) = (at / P, (at % P) as usize);
            let share = self.tasks[i].1[&page].share;
            match share {
                None => self.tasks[i].1.get_mut(&page).expect("mapped").bytes[off] = *byte,
                Some(s) => {
                    let same = self.tasks.iter_mut().flat_map(|(_, f)| f.values_mut());
                    same.filter(|x| x.share == Some(s)).for_each(|x| x.bytes[off] = *byte);
                }
            }
        }
    }
    fn store(&mut self, i: usize) {
        let (addr, len) = self.span();
        let data: Vec<u8> = (0..len.min(300)).map(|_| self.rng.bits() as u8).collect();
        if all(&self.tasks[i].1, addr, data.len() as u64, Prot::W) {
            self.note(format!("{i}: store {addr:#x}+{:#x}", data.len()));
            self.tasks[i].0.store(addr, &data).expect("writable");
            self.put(i, addr, &data);
        }
    }
    fn allocate(&mut self, i: usize) {
        let (addr, len) = self.whole();
        let over = self.rng.one_in(3);
        let flags = if over { RawFlags(VmFlags::OVERWRITE.bits()) } else { FIXED };
        self.note(format!("{i}: allocate {addr:#x}+{len:#x}, over: {over}"));
        let done = xnu(&self.tasks[i].0).vm_allocate(a(addr), n(len), flags, &mut may());
        let f = &mut self.tasks[i].1;
        let free = pages_of(addr, len).all(|p| !f.contains_key(&p));
        assert_eq!(done.is_ok(), free || over, "{done:?}");
        if done.is_ok() {
            let zero = Page { bytes: vec![0; P as usize], prot: Prot::RW, share: None };
            pages_of(addr, len).for_each(|p| drop(f.insert(p, zero.clone())));
        }
    }
    fn deallocate(&mut self, i: usize) {
        let (addr, len) = self.span();
        self.note(format!("{i}: deallocate {addr:#x}+{len:#x}"));
        assert_eq!(xnu(&self.tasks[i].0).vm_deallocate(a(addr), n(len), &mut may()), Ok(()));
        self.tasks[i].1.retain(|p, _| !pages_of(addr, len).contains(p));
    }
    fn protect(&mut self, i: usize) {
        let (addr, len) = self.span();
        let to = *self.rng.pick(&[Prot::RW, Prot::RW, Prot::R, Prot::NONE, Prot::ALL]);
        self.note(format!("{i}: protect {addr:#x}+{len:#x} {to:?}"));
        let done = xnu(&self.tasks[i].0).vm_protect(a(addr), n(len), false, to.into(), &mut may());
        let f = &mut self.tasks[i].1;
        assert_eq!(done.is_ok(), all(f, addr, len, Prot::NONE), "{done:?}");
        if done.is_ok() {
            f.range_mut(pages_of(addr, len)).for_each(|(_, x)| x.prot = to);
        }
    }
    fn copy(&mut self, i: usize) {
        let (src, len) = self.span();
        let dst = self.other(src);
        self.note(format!("{i}: copy {src:#x}+{len:#x} to {dst:#x}"));
        let done = xnu(&self.tasks[i].0).vm_copy(a(src), n(len), a(dst), &mut may());
        let f = &self.tasks[i].1;
        assert_eq!(done.is_ok(), all(f, src, len, Prot::R) && all(f, dst, len, Prot::W), "{done:?}");
        if done.is_ok() {
            let data = get(f, src, len);
            self.put(i, dst, &data);
        }
    }
    /// `vm_write`, `vm_read_overwrite`: the same in two directions.
    fn transfer(&mut self, i: usize, j: usize) {
        let (src, len) = self.span();
        let dst = self.other(src);
        let write = self.rng.one_in(2);
        self.note(format!("{src:#x}+{len:#x} of {i} to {dst:#x} of {j}, write: {write}"));
        let (from, to) = (xnu(&self.tasks[i].0), xnu(&self.tasks[j].0));
        let ok = if write {
            to.vm_write(a(dst), &from, a(src), n(len), &mut may()).is_ok()
        } else {
            from.vm_read_overwrite(a(src), n(len), &to, a(dst), &mut may()).is_ok()
        };
        let may_be = all(&self.tasks[i].1, src, len, Prot::R) && all(&self.tasks[j].1, dst, len, Prot::W);
        assert_eq!(ok, may_be);
        if ok {
            let data = get(&self.tasks[i].1, src, len);
            self.put(j, dst, &data);
        }
    }
    fn read(&mut self, i: usize, j: usize) {
        let (src, len) = self.span();
        self.note(format!("read {src:#x}+{len:#x} of {i} for {j}"));
        let done = xnu(&self.tasks[i].0).vm_read(a(src), n(len), &xnu(&self.tasks[j].0), &mut may());
        assert_eq!(done.is_ok(), all(&self.tasks[i].1, src, len, Prot::R), "{done:?}");
        if let Ok(at) = done {
            assert!(bytes(&self.tasks[j].0, at, len) == get(&self.tasks[i].1, src, len), "read");
            assert_eq!(xnu(&self.tasks[j].0).vm_deallocate(a(at), n(len), &mut may()), Ok(()));
        }
    }
    fn remap(&mut self, i: usize, j: usize) {
        let (src, len) = self.whole();
        let (dst, copy) = (self.other(0) & !(P - 1), self.rng.one_in(2));
        self.note(format!("remap {src:#x}+{len:#x} of {i} at {dst:#x} of {j}, copy: {copy}"));
        let over = RawFlags(VmFlags::OVERWRITE.bits());
        let (from, to) = (xnu(&self.tasks[i].0), xnu(&self.tasks[j].0));
        let done = to.vm_remap(a(dst), n(len), 0, over, &from, a(src), copy, COPY, &mut may());
        assert_eq!(done.is_ok(), all(&self.tasks[i].1, src, len, Prot::NONE), "{done:?}");
        if done.is_err() {
            return;
        }
        let mut pages = Vec::new();
        for p in pages_of(src, len) {
            if !copy && self.tasks[i].1[&p].share.is_none() {
                self.shares += 1;
                self.tasks[i].1.get_mut(&p).expect("mapped").share = Some(self.shares);
            }
            let page = self.tasks[i].1[&p].clone();
            pages.push(Page { share: if copy { None } else { page.share }, ..page });
        }
        for (k, page) in pages.into_iter().enumerate() {
            self.tasks[j].1.insert(dst / P + k as u64, page);
        }
    }
    fn fork(&mut self, i: usize, j: usize) {
        if i == j {
            return;
        }
        self.note(format!("fork {i} to {j}"));
        let child = fork(&self.tasks[i].0);
        let copy = |(p, x): (&u64, &Page)| (*p, Page { share: None, ..x.clone() });
        self.tasks[j] = (child, self.tasks[i].1.iter().map(copy).collect());
    }
    fn wire(&mut self, i: usize) {
        let (addr, len) = self.span();
        let len = len.min(3 * P);
        self.note(format!("{i}: wire {addr:#x}+{len:#x} and back"));
        let t = xnu(&self.tasks[i].0);
        let done = t.vm_wire(a(addr), n(len), RawProt(1), true, &mut may());
        assert_eq!(done.is_ok(), all(&self.tasks[i].1, addr, len, Prot::R), "{done:?}");
        if done.is_ok() {
            assert_eq!(t.vm_wire(a(addr), n(len), RawProt(0), true, &mut may()), Ok(()));
        }
    }

    /// madvise(2) of pages that nobody ever saw: they are zero then. What others saw once may
    /// be private again, which is not known here.
    fn dont_need(&mut self, i: usize) {
        let (addr, len) = self.whole();
        let f = &self.tasks[i].1;
        let private = |p: &u64| f.get(p).is_some_and(|x| x.share.is_none());
        let first = pages_of(addr, len).find(private).unwrap_or(addr / P);
        let run: Vec<u64> = (first..(addr + len) / P).take_while(private).collect();
        if run.is_empty() {
            return;
        }
        self.note(format!("{i}: don't need {} pages at {:#x}", run.len(), first * P));
        let r = range(first * P, run.len() as u64);
        assert_eq!(self.tasks[i].0.map.madvise(r, Advise::DontNeed, &mut may()), Ok(None));
        for p in run {
            self.tasks[i].1.get_mut(&p).expect("mapped").bytes.fill(0);
        }
    }

    fn step(&mut self) {
        let (i, j) = (self.rng.below(3) as usize, self.rng.below(3) as usize);
        let drops = !FOUND.contains(&self.seed);
        match self.rng.below(if drops { 104 } else { 100 }) {
            100.. => self.dont_need(i),
            0..12 => self.allocate(i),
            12..32 => self.store(i),
            32..36 => self.deallocate(i),
            36..42 => self.protect(i),
            42..62 => self.copy(i),
            62..76 => self.transfer(i, j),
            76..84 => self.read(i, j),
            84..91 => self.remap(i, j),
            91..93 => self.fork(i, j),
            93..96 => self.wire(i),
            _ => {
                self.note("pageout".into());
                self.vm.pageout(1 + self.rng.below(30), &mut may());
            }
        }
    }

    fn verify(&self) {
        for (i, (p, f)) in self.tasks.iter().enumerate() {
            for page in BASE / P..BASE / P + PAGES + 12 {
                let mut b = vec![0; P as usize];
                match (p.load(page * P, &mut b), f.get(&page)) {
                    (Ok(()), Some(x)) => {
                        assert!(!x.prot.is_empty(), "task {i}, page {page:#x} has no rights");
                        assert!(b == x.bytes, "task {i}, page {page:#x}");
                    }
                    (Err(_), Some(x)) => assert!(x.prot.is_empty(), "task {i}, page {page:#x} is readable"),
                    (Err(_), None) => {}
                    (Ok(()), None) => panic!("task {i}, page {page:#x} is mapped"),
                }
            }
        }
        check_quiet(self.vm, self.tasks.iter().map(|(p, _)| p));
    }
}

fn random(sparse: bool, frames: u32) {
    let seed = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let many = std::env::var("MACHVM_LONG").ok().and_then(|s| s.parse::<u64>().ok()).unwrap_or(10);
    let found = if seed.is_some() { &[][..] } else { &FOUND };
    for seed in seed.map_or(1..=many, |s| s..=s).chain(found.iter().copied()) {
        let vm = Vm::new(Machine::new(Config { sparse, frames, seed, forget: 7, ..Config::default() }));
        let vm = vm.expect("memory");
        let each = std::env::var_os("MACHVM_EACH").is_some();
        let mut run = Run::new(&vm, seed);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for k in 0..300 {
                run.step();
                if k % 20 == 19 || each {
                    run.verify();
                }
            }
        }));
        if let Err(panic) = done {
            println!("MACHVM_SEED={seed}, sparse: {sparse}, {frames} frames: after");
            run.log.iter().rev().take(30).rev().for_each(|l| println!("  {l}"));
            std::mem::forget(run);
            std::panic::resume_unwind(panic);
        }
        drop(run);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over after seed {seed}");
    }
}

#[test]
fn random_calls_sparse() {
    random(true, 1000);
}
#[test]
fn random_calls_dense() {
    random(false, 1000);
}
#[test]
fn random_calls_sparse_paging() {
    random(true, 48);
}
#[test]
fn random_calls_dense_paging() {
    random(false, 48);
}

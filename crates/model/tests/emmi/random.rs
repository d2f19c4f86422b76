//! Pagers at their worst, against what memory must look like: slow, out of order, twice,
//! unasked, refusing, flushing whenever they like.

use std::collections::VecDeque;

use machvm_hal::{LockRequest, Return};
use machvm_model::Rng;

use super::*;

/// Pages in use.
const N: u64 = 24;
/// Pages below are written. A pager that sends such a page unasked may be overtaken by the
/// page's return, and sends stale data then: its own mistake, which wild pagers do not make.
const WRITTEN: u64 = 18;

#[derive(Default)]
struct Store {
    data: Vec<u8>,
    wanted: VecDeque<u64>,
    control: Option<ControlId>,
    ended: bool,
}

/// A pager with data of its own, which answers from another thread. Page n is one byte.
struct Wild {
    store: Mutex<Store>,
}

impl Wild {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no panic")
    }

    /// One thing of the kind that pagers do.
    fn act(&self, vm: &Vm<Machine>, rng: &mut Rng) {
        let (next, control) = {
            let mut s = self.lock();
            let n = s.wanted.len() as u64;
            let next = if n == 0 { None } else { s.wanted.remove(rng.below(n) as usize) };
            (next, s.control)
        };
        let (Some(c), m) = (control, &mut may()) else { return };
        if let Some(page) = next {
            match rng.below(8) {
                0 => {
                    let _ = vm.data_error(c, off(page), off(1), PagerError::Io, m);
                }
                _ => self.supply(vm, c, page, rng),
            }
            if page >= WRITTEN && rng.one_in(2) {
                self.supply(vm, c, page, rng); // twice
            }
            return;
        }
        let page = rng.below(N);
        let lock = match rng.below(4) {
            0 => None,
            1 => Some(Prot::W),
            _ => Some(Prot::NONE),
        };
        let ret = if rng.one_in(2) { Return::All } else { Return::Dirty };
        let r =
            LockRequest { offset: off(page), bytes: off(1 + rng.below(8)), ret, flush: rng.one_in(2), lock };
        match rng.below(6) {
            0 | 1 => {
                let _ = vm.lock_request(c, &r, m);
            }
            2 => self.supply(vm, c, WRITTEN + page % (N - WRITTEN), rng), // unasked
            3 => {
                let _ = vm.data_error(c, off(WRITTEN), off(N - WRITTEN), PagerError::Io, m);
            }
            _ => {}
        }
    }

    fn supply(&self, vm: &Vm<Machine>, c: ControlId, page: u64, rng: &mut Rng) {
        let data = full(self.lock().data[page as usize]);
        let lock = if rng.one_in(4) { Prot::W } else { Prot::NONE };
        let how = if rng.one_in(4) { Supply::Precious } else { Supply::Clean };
        let _ = vm.data_supply(c, off(page), &data, lock, how, &mut may());
    }
}

impl Pager for Wild {
    fn page_in(&self, req: PageIn<'_>) {
        let first = req.offset() / PAGE_SIZE;
        let n = req.pages() as u64;
        if req.detach().is_ok() {
            self.lock().wanted.extend(first..first + n);
        }
    }
    fn page_out(&self, offset: u64, data: &[u8; PAGE]) -> Result<(), PagerError> {
        assert!(data.iter().all(|b| *b == data[0]), "torn");
        self.lock().data[(offset / PAGE_SIZE) as usize] = data[0];
        Ok(())
    }
    fn init(&self, object: ControlId, _: u64) -> Option<Attributes> {
        self.lock().control = Some(object);
        Some(Attributes::default())
    }
    fn data_unlock(&self, _: ControlId, _: u64, _: u64, _: Prot) {}
    fn terminated(&self, _: ControlId) {
        self.lock().ended = true;
    }
}

fn seeds(n: u64) -> std::ops::Range<u64> {
    match std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..n,
    }
}

/// What a program wrote last is what it reads, whatever its pager does; errors are told, and
/// never wrong bytes. `MACHVM_SEED=n` plays one seed again.
#[test]
fn e05_to_e16_wild_pagers_and_programs() {
    for seed in seeds(40) {
        for sparse in [true, false] {
            play(seed, sparse);
        }
    }
}

fn play(seed: u64, sparse: bool) {
    println!("MACHVM_SEED={seed} sparse={sparse}");
    let vm = Vm::new(Machine::new(Config { seed, sparse, frames: 64, forget: 40, ..Config::default() }));
    let vm = vm.expect("memory");
    let data = (0..64).collect();
    let wild: &'static Wild =
        Box::leak(Box::new(Wild { store: Mutex::new(Store { data, ..Store::default() }) }));
    let id = vm.platform().add_any_pager(wild);
    let t = Task::new(&vm);
    let o = vm.memory_object(id, off(N), &mut may()).expect("memory");
    t.map
        .insert(pages(0, N), Backing::Shared(o, Pindex(0)), &Rights::new(Prot::RW), &mut may())
        .expect("insert");
    let programs = Mutex::new(2);
    let host = machvm::Platform::host(vm.platform());
    host.set_preemption(3);
    let program = |k: u64| -> Box<dyn FnOnce() + Send + '_> {
        let (t, programs) = (&t, &programs);
        Box::new(move || {
            // Each has its own half.
            let mut mine: Vec<u8> = (0..N as u8).collect();
            let mut rng = Rng::new(seed ^ k);
            for n in 0..80u64 {
                let page = rng.below(N / 2) * 2 + k;
                if page < WRITTEN && rng.one_in(2) {
                    let byte = (n as u8) | 0x80;
                    if t.store(at(page), &full(byte)).is_ok() {
                        mine[page as usize] = byte;
                    }
                } else {
                    let mut b = full(0);
                    if t.load(at(page), &mut b).is_ok() {
                        assert!(b.iter().all(|x| *x == mine[page as usize]), "seed {seed}: page {page}");
                    }
                }
                if rng.one_in(20) {
                    t.map.vm().pageout(8, &mut may());
                }
            }
            *programs.lock().expect("no panic") -= 1;
        })
    };
    let pager = || -> Box<dyn FnOnce() + Send + '_> {
        let (vm, programs) = (&vm, &programs);
        Box::new(move || {
            let mut rng = Rng::new(seed ^ 0x77);
            while *programs.lock().expect("no panic") != 0 {
                wild.act(vm, &mut rng);
                machvm::Platform::host(vm.platform()).preempt();
            }
        })
    };
    host.run_scheduled(vec![program(0), program(1), pager()]);
    vm.data_error(wild.lock().control.expect("init"), 0, off(N), PagerError::Io, &mut may()).expect("alive");
    check_quiet(&vm, [&t]);
    drop(t);
    assert!(wild.lock().ended);
    check_quiet(&vm, []);
    assert_eq!(vm.live(), [0; 6], "seed {seed} sparse {sparse}");
}

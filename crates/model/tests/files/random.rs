//! A file under everything at once, against a plain vector of bytes.

use machvm::FaultError;
use machvm::map::SyncHow;
use machvm_model::Rng;

use super::*;

const MOST: u64 = 40;

struct Run<'a> {
    m: Mapped<'a>,
    tasks: [Task<'a>; 2],
    /// What both must see.
    want: Vec<u8>,
    rng: Rng,
}

impl Run<'_> {
    fn store(&mut self) {
        if self.want.is_empty() {
            return;
        }
        let from = self.rng.below(self.want.len() as u64) as usize;
        let n = (1 + self.rng.below(3 * PAGE as u64) as usize).min(self.want.len() - from);
        let byte = self.rng.below(255) as u8 + 1;
        let t = &self.tasks[self.rng.below(2) as usize];
        t.store(at(0) + from as u64, &vec![byte; n]).expect("inside");
        self.want[from..from + n].fill(byte);
    }
    fn load(&mut self) {
        let p = self.rng.below(MOST);
        let t = &self.tasks[self.rng.below(2) as usize];
        let from = p as usize * PAGE;
        if from >= self.want.len() {
            assert_eq!(t.load(at(p), &mut [0]), Err(FaultError::Beyond(va(p))));
            return;
        }
        let mut want = self.want[from..self.want.len().min(from + PAGE)].to_vec();
        want.resize(PAGE, 0);
        assert!(page(t, p) == want, "page {p}");
    }
    fn resize(&mut self) {
        let bytes = self.rng.below(MOST * PAGE_SIZE + 1);
        let bytes = if self.rng.one_in(3) { bytes & !(PAGE_SIZE - 1) } else { bytes };
        assert_eq!(self.m.set_size(bytes), 0);
        self.want.resize(bytes as usize, 0);
    }
    fn sync(&mut self) {
        let first = self.rng.below(MOST);
        let n = 1 + self.rng.below(MOST - first);
        let how = SyncHow::from_bits_truncate(self.rng.below(4) as u32);
        let t = &self.tasks[self.rng.below(2) as usize];
        t.map.sync_as(pages(first, n), how, &mut may()).expect("sync");
        let range = first as usize * PAGE..((first + n) as usize * PAGE).min(self.want.len());
        if range.start < range.end {
            assert!(self.m.file.bytes()[range.clone()] == self.want[range], "the file has it");
        }
    }
    fn step(&mut self) {
        match self.rng.below(100) {
            0..40 => self.store(),
            40..75 => self.load(),
            75..85 => self.resize(),
            85..93 => self.sync(),
            93..97 => {
                self.m.vm.pageout(1 + self.rng.below(20), &mut may());
            }
            _ => check_quiet(self.m.vm, &self.tasks),
        }
    }
}

/// Seeds: `MACHVM_SEED` repeats one.
#[test]
fn g13_random_stores_sizes_and_page_outs() {
    let one = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    for seed in one.map_or(1..=3, |s| s..=s) {
        println!("MACHVM_SEED={seed}");
        for c in (Config { frames: 24, seed, ..Config::default() }).every_kind() {
            let vm = Vm::new(Machine::new(c)).expect("memory");
            let want = content(17 * PAGE + 5);
            let m = Mapped::new(&vm, &want);
            let tasks = [m.task(MOST), m.task(MOST)];
            let mut run = Run { m, tasks, want, rng: Rng::new(seed) };
            (0..400).for_each(|_| run.step());
            run.tasks[0].map.sync(pages(0, MOST), false, &mut may()).expect("sync");
            assert!(run.m.file.bytes() == run.want, "the file, seed {seed}, {c:?}");
            drop(run);
            check_quiet(&vm, []);
            assert_eq!(vm.live(), [0; 6], "left over");
        }
    }
}

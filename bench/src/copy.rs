//! Table 2: copying a gigabyte.

use std::time::Instant;

use machvm_linux::{Config, Vm};

use crate::faults::PAGE;
use crate::row;
use crate::table::{self, goal, median};

const BYTES: usize = 1 << 30;
const PAGES: usize = BYTES / PAGE;
const ROUNDS: usize = 5;

/// Milliseconds of one `vm_copy` with every `step`th page resident (0: none), and the
/// fraction that was.
fn once(vm: &Vm, step: usize) -> (f64, f64) {
    let task = vm.task().expect("a task");
    let from = task.allocate(BYTES).expect("addresses");
    let to = task.allocate(BYTES).expect("addresses");
    if step != 0 {
        for i in (0..PAGES).step_by(step) {
            // SAFETY: a page of the task.
            unsafe { task.as_ptr(from + i * PAGE).write_volatile(1) };
        }
    }
    let resident = task.mapped_pages() as f64 / PAGES as f64;
    let begun = Instant::now();
    task.copy(from, BYTES, &task, to).expect("copied");
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    if step != 0 {
        // The copy is one: a page of it is right, and it is isolated.
        // SAFETY: pages of the task.
        unsafe {
            task.as_ptr(from).write_volatile(2);
            assert_eq!(task.as_ptr(to).read_volatile(), 1);
        }
    }
    (ms, resident)
}

pub(crate) fn run() {
    let mut rows = vec![row!["vm_copy of 1 GiB", "resident", "ms", "ns a resident page", "goal"]];
    for (name, step, most) in
        [("nothing touched", 0, 1.0), ("every 64th page", 64, f64::NAN), ("every page", 1, 10.0)]
    {
        let vm = Vm::new(Config { window: 4 << 30, ..Config::default() }).expect("a VM");
        let all: Vec<(f64, f64)> = (0..ROUNDS).map(|_| once(&vm, step)).collect();
        let ms = median(&mut all.iter().map(|(ms, _)| *ms).collect::<Vec<_>>());
        let resident = all[0].1;
        let each =
            if resident > 0.0 { format!("{:.0}", ms * 1e6 / (resident * PAGES as f64)) } else { "-".into() };
        let goal = if most.is_nan() { "-".into() } else { format!("ms {}", goal(ms, most)) };
        rows.push(row![name, format!("{:.1} %", resident * 100.0), format!("{ms:.3}"), each, goal]);
    }
    table::print(
        "2. Copy (medians of 5, each in a new task; Linux write-protects at 27-40 ns a page)",
        &rows,
    );
}

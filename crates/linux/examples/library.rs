//! A task with more data than memory, and a child by copy-on-write.
//!
//! `cargo run --release -p machvm-linux --example library`

use machvm_linux::{Config, Error, Prot, Vm};

const PAGE: usize = 4096;
const PAGES: usize = (64 << 20) / PAGE;

fn main() -> Result<(), Error> {
    let vm = Vm::new(Config { memory: Some(16 << 20), ..Config::default() })?;
    let task = vm.task()?;
    let addr = task.allocate(PAGES * PAGE)?;
    println!("64 MiB at {addr:#x} of the task, {:p} of this process; 16 MiB of memory", task.as_ptr(addr));

    let word = |page: usize| task.as_ptr(addr + page * PAGE).cast::<u64>();
    // SAFETY: memory of the task, for as long as the task lives.
    let wrong = unsafe {
        (0..PAGES).for_each(|i| word(i).write_volatile(i as u64));
        (0..PAGES).filter(|i| word(*i).read_volatile() != *i as u64).count()
    };
    println!("written and read back, {wrong} wrong");

    let child = task.fork()?;
    task.write(addr, &7u64.to_le_bytes())?;
    let mut seen = [0xff; 8];
    child.read(addr, &mut seen)?;
    println!("the parent wrote 7, the child still has {}", u64::from_le_bytes(seen));

    task.protect(addr, PAGE, Prot::R)?;
    println!("a write to read-only memory: {}", task.write(addr, b"x").expect_err("denied"));

    let s = vm.statistics()?;
    println!(
        "{} faults, {} pages zeroed, {} out, {} in, {} copied; at most {} of {} frames",
        s.core.faults,
        s.core.zero_fill,
        s.core.swapouts,
        s.core.swapins,
        s.core.cow_copies,
        s.core.frames_peak,
        s.core.frame_limit
    );
    if let Some(p) = s.pool {
        println!("{} pages in the pool, {} KiB compressed", p.pages, p.pool_bytes >> 10);
    }
    Ok(())
}

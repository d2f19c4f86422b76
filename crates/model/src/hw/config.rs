//! What machine to build.

use super::walk::{Arch, Updates};

/// See the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Format.
    pub arch: Arch,
    /// What the hardware writes into entries. x86-64 always does both.
    pub updates: Updates,
    /// CPUs, at most 64.
    pub cpus: u16,
    /// Frames for tables: `1 ..= tables`. Frame 0 is never used.
    pub tables: u32,
    /// Frames for memory, from [`Config::first_frame`] on.
    pub frames: u32,
    /// Memory frames count as in use from the start; else only those that were claimed,
    /// zeroed or copied to.
    pub memory_in_use: bool,
    /// Address-space numbers there are (`0..asids`); 1: none. A power of two. x86-64 has 1
    /// or 4096, AArch64 256 or 65536; fewer make them run out sooner.
    pub asids: u32,
    /// Translations a CPU caches, and half as many table pointers.
    pub tlb: usize,
    /// At one in so many of the points where it may, the adversary does something; 0: never.
    pub rate: u64,
    /// Interrupts come up to so many steps late.
    pub late: u64,
    /// Whose threads take interrupts.
    pub delivery: Delivery,
    /// Turns of a waiting loop in which nothing happens before that is a deadlock.
    pub patience: u64,
    /// Events that are remembered for reports; 0: none.
    pub trace: usize,
    /// Of everything the machine chooses.
    pub seed: u64,
}

/// Who runs the interrupt handler of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Any thread, in the CPU's name, at any table access and in every waiting loop: for
    /// tests in one host thread, and for hosts that run one thread at a time.
    Anyone,
    /// The thread that runs on the CPU ([`super::Hw::on_cpu`]); the waiting thread for CPUs
    /// without one.
    Owner,
}

impl Config {
    /// A machine of this format that does what tests want: 4 CPUs, hardware that notes use
    /// and writes, an adversary at every fourth point.
    pub const fn new(arch: Arch, seed: u64) -> Self {
        Config {
            arch,
            updates: Updates { accessed: true, dirty: true },
            cpus: 4,
            tables: 512,
            frames: 2048,
            memory_in_use: true,
            asids: if arch.is_x86() {
                4096
            } else if arch.is_arm() {
                256
            } else {
                16
            },
            tlb: 32,
            rate: 4,
            late: 64,
            delivery: Delivery::Anyone,
            patience: 100_000,
            trace: 256,
            seed,
        }
    }
    /// Hardware that notes nothing (no effect on x86-64).
    #[must_use]
    pub const fn without_updates(mut self) -> Self {
        self.updates = Updates { accessed: false, dirty: false };
        self
    }
    /// The first memory frame: aligned to 2 MiB, for superpages.
    pub const fn first_frame(&self) -> u64 {
        (self.tables as u64 + 1).next_multiple_of(512)
    }
}

//! The hardware under a page-table pmap: memory, walkers, TLBs and interrupts that are
//! as unhelpful as the architectures allow, and checks that see a missed flush.
//!
//! # Use
//!
//! ```text
//! let port = HwPort::<X86L4>::new(Config::new(Arch::X86L4, seed));   // a machine and its port
//! let hw = port.hw().clone();                                        // the machine itself
//! let sys = Arc::new(System::new(port)?);
//! hw.set_ipi_handler({ let sys = sys.clone(); move |_| sys.shootdown_interrupt() });
//! hw.set_kernel_root(root of the kernel's pmap);                     // AArch64: TTBR1
//! hw.space_begins(root of a new pmap);  ...  hw.space_ends(root);    // around create and destroy
//! hw.on_cpu(2, || pmap.activate(CpuId(2)));                          // a host thread is a CPU
//! hw.on_cpu(2, || hw.store(va, &bytes, Mode::User))?;                // a program; Err: fault it in
//! let since = hw.now(); gather.finish(..); hw.check_flushed(Some(root), range, since);
//! hw.check_quiet();                                                  // nobody is changing anything
//! hw.check_agrees(root, va, Some((frame, rights)), care);            // walker against oracle
//! hw.assert_clean();                                                 // panics with reports and trace
//! ```
//!
//! * **Frames** are 4 KiB: `1..=tables` are for tables ([`HwPort`]'s `TableMem` hands
//!   them out), those from [`Config::first_frame`] on are memory, contiguous and aligned
//!   for superpages. [`Hw::zero`] and [`Hw::claim`] give a memory frame a new use,
//!   [`Hw::release`] frees it: each checks that no CPU reaches it. An embedder that
//!   takes tables from its own frames uses [`Hw::claim_table`], [`Hw::release_table`].
//! * **The adversary** acts before and after every table access and instruction, at one
//!   in [`Config::rate`] of these points: it makes any CPU walk an address near where
//!   something happened (see `fill`), evict something, do a TLBI early, see a write
//!   early. [`Hw::disturb`] calls it at will.
//! * **A host thread** is the CPU it says ([`Hw::on_cpu`]; 0 at first). Interrupts are
//!   taken by [`Config::delivery`]: by any thread in the CPU's name (one thread runs at a
//!   time), or by the CPU's own thread and, for CPUs without a thread or in
//!   [`Hw::idle`], by the one that waits. A wait that cannot end panics and says why.
//! * **Several threads**: [`Hw::check_flushed`] takes the step at which the flush began, so
//!   that what another thread made stale later, and will flush, does not count.
//! * **Checks** run where pmaps synchronise, not where programs access: [`Checks`] lists
//!   them and [`Hw::set_checks`] switches them. They collect [`Report`]s; the caller
//!   decides. Translations that are stale but out of reach (their number is not
//!   loaded) are kept in mind and reported when they come in reach.
//! * **Spaces** are told apart by the root's frame and the life of that frame, not by
//!   the number the pmap gave them, so a number used twice shows.
//!   [`Hw::space_begins`] starts a life where a root's frame did not pass through
//!   `TableMem::alloc`.
//! * A run is decided by the seed as long as one host thread runs at a time.
//! * **Decorators** are built in: the last [`Config::trace`] events are printed with the
//!   first report ([`Hw::explain`]; [`Hw::describe`] shows what is cached of an address),
//!   the k-th table allocation fails ([`Hw::fail_table_alloc`]), and the pmap or the flush
//!   sequences make a mistake when told to ([`HwPort::seed`], [`HwPort::seed_sequences`]).
//!
//! | file | what |
//! |---|---|
//! | `walk/` | formats, from the manuals, without the pmap's code |
//! | `tree` | reading tables without side effects |
//! | `cpu` | one CPU's caches, and what an invalidation takes from them |
//! | `tables` | table memory |
//! | `fill` | walks with side effects; the adversary |
//! | `access` | programs |
//! | `isa/` | the instructions of `machvm-arch` |
//! | `ipi` | interrupts and waiting |
//! | `check`, `report`, `trace` | what is looked at, found, remembered |
//! | `hardware` | the interface |
//! | `survey` | everything that a root maps |
//! | `port` | the port for `machvm-pmap` |
//!
//! What it is not: a timing model, or a memory model of data accesses: loads and stores
//! of data and of tables by CPUs are sequentially consistent; what walkers see of the
//! tables is not (AArch64). Physical attributes are compared, not obeyed.

mod access;
mod check;
mod config;
mod cpu;
mod fill;
mod hardware;
mod ipi;
mod isa;
mod port;
mod report;
mod state;
mod survey;
mod tables;
#[cfg(test)]
mod tests;
mod trace;
mod tree;
mod walk;

pub use access::{Access, Mode};
pub use config::{Config, Delivery};
pub use fill::Fault;
pub use hardware::{Hw, PageFault};
pub use ipi::IrqsOff;
pub use isa::{HwIsa, Mistake};
pub use port::{HwCpus, HwFormat, HwMem, HwPort};
pub use report::{Checks, Kind, Report};
pub use state::Use;
pub use survey::Mapped;
pub use tree::Translation;
pub use walk::{Arch, Entry, LeafEntry, Mmu, NextEntry, Rights, Updates};

//! The VM as a library: any number of systems and tasks in one process.
//!
//! ```
//! use machvm_linux::{Config, Prot, Vm};
//!
//! # fn main() -> Result<(), machvm_linux::Error> {
//! let vm = Vm::new(Config { memory: Some(16 << 20), ..Config::default() })?;
//! let task = vm.task()?;
//! let addr = task.allocate(64 << 20)?; // four times as much as there is
//! let p = task.as_ptr(addr).cast::<u64>();
//! // SAFETY: 64 MiB of the task's memory, which lives until the end of the function.
//! unsafe {
//!     for i in 0..(64 << 20) / 4096 {
//!         p.add(i * 512).write(i as u64); // a store like any other
//!     }
//!     assert_eq!(p.add(512 * 77).read(), 77);
//! }
//! assert!(vm.statistics()?.core.frames_peak <= 4096);
//!
//! let child = task.fork()?; // copy-on-write
//! task.write(addr, b"parent")?;
//! let mut word = [1; 8];
//! child.read(addr, &mut word)?;
//! assert_eq!(word, [0; 8]);
//!
//! task.protect(addr, 4096, Prot::R)?;
//! assert!(task.write(addr, b"no").is_err());
//! # Ok(())
//! # }
//! ```
//!
//! Physical memory is a memfd, of which at most the limit is resident; what does not
//! fit is compressed in a pool beside it, which takes memory of its own. A fault is a
//! SIGBUS in the thread that faulted and is served there, without privileges; or it is
//! served by a thread of the system's own, and then system calls may be given managed
//! memory ([`Faults`]). The handlers for SIGBUS and SIGSEGV are installed with the first
//! [`Vm`] and stay; what is not ours goes to the handlers that were there before. A
//! program that installs its own does so before, or by [`replace_action`], or passes on
//! what it does not know.

mod calls;
mod copy;
mod error;
mod external;
mod file;
pub mod fork;
mod gate;
mod mach;
mod platform;
mod posix;
mod previous;
mod quiet;
mod signal;
mod stack;
mod swap;
mod table;
mod task;
mod thread;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use machvm_hal::{MaySleep, PAGE_SIZE};
use machvm_pagers::PoolStats;

pub use copy::copy_some;
pub use error::Error;
pub use external::{ExternalPager, MemoryObject};
pub use file::MappedFile;
pub use fork::Fork;
pub use mach::Inside;
pub use machvm::Stats;
pub use machvm::map::{Inherit, SyncHow};
pub use machvm_hal::Prot;
pub use machvm_pagers::external::Options as PagerOptions;
pub use machvm_pagers::{FileTraffic, WriteError};
pub use platform::Hosted;
pub use previous::replace as replace_action;
pub use table::next_window;
pub use task::{Region, Task};

pub use swap::Swap;

use quiet::Quiet;
use table::GRANULE;
use task::Tasks;
use thread::FaultThread;

use crate::uffd::Mode;

/// The least limit: below it one fault's cluster and the reserve would fill it.
const LEAST_MEMORY: u64 = 256 << 10;
/// The largest window: half of user space.
const LARGEST_WINDOW: u64 = 1 << 46;
/// "Without a limit": more frames than any machine has.
const UNLIMITED: u64 = u64::MAX >> 13;

/// Pages that copies replaced and that wait to be freed, at most (1 GiB).
const REPLACED: u64 = 1 << 18;

/// What a [`Vm`] is to be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Bytes of memory that all tasks together may have resident; at least 256 KiB.
    /// `None`: as much as Linux gives.
    pub memory: Option<u64>,
    /// Where pages go when memory is short.
    pub swap: Swap,
    /// Bytes of addresses that each task gets, rounded up to 1 GiB. They cost nothing, but
    /// the process has only 128 TiB.
    pub window: u64,
    /// The lowest address of each task, a multiple of 1 GiB. The first task's window is at
    /// this very address of the process if nothing is there, so that its addresses are
    /// pointers; `None`: addresses count from 0.
    pub origin: Option<u64>,
    /// What an access that the protection denies raises.
    pub denied: Denied,
    /// What becomes of it in a child of `fork(2)`.
    pub fork: Fork,
    /// Who serves faults.
    pub faults: Faults,
}

/// Who serves faults, and with it what system calls make of absent pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Faults {
    /// The thread that faulted, as SIGBUS. Needs no privilege and is the fastest. A system
    /// call given an absent page fails with EFAULT; a thread that blocks SIGBUS may not
    /// touch managed memory.
    #[default]
    Signal,
    /// A thread of the system, while the one that faulted waits, in user mode or in a system
    /// call. Needs the right to handle faults of the kernel: root, CAP_SYS_PTRACE,
    /// `vm.unprivileged_userfaultfd=1` or access to `/dev/userfaultfd`; Linux 6.6.
    Thread,
    /// [`Faults::Thread`] if that is allowed, else [`Faults::Signal`].
    Auto,
}

/// The signal for an access that the protection of mapped memory denies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Denied {
    /// SIGSEGV with `SEGV_ACCERR`, as on Linux.
    #[default]
    Segv,
    /// SIGBUS with `BUS_ADRERR`, as on Mach's descendants.
    Bus,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            memory: None,
            swap: Swap::Lz4 { max: None },
            window: 64 << 30,
            origin: None,
            denied: Denied::Segv,
            fork: Fork::Refuse,
            faults: Faults::Signal,
        }
    }
}

/// A virtual memory system: physical memory, and the tasks that share it. Clones are
/// the same system, which ends with the last of them and of its tasks.
#[derive(Clone)]
pub struct Vm(Arc<Shared>);

impl core::fmt::Debug for Vm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Vm({:?})", self.0.vm.platform().pool().map(|p| p.stats().pages))
    }
}

/// A reading of the counters; see [`Vm::statistics`].
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// The core's.
    pub core: Stats,
    /// Frames of the memfd that are resident, as Linux counts them.
    pub frames: u64,
    /// The compressed pool's, if there is one.
    pub pool: Option<PoolStats>,
    /// Mappings (VMAs) of the process that regions use, at most.
    pub vmas: u64,
}

/// What a [`Vm`] and its tasks have in common.
struct Shared {
    vm: Arc<machvm::Vm<Hosted>>,
    window: u64,
    /// The first address of each task.
    origin: u64,
    /// Some task's window is, or was, at its own addresses.
    placed: AtomicBool,
    denied: Denied,
    /// The process that it is of.
    generation: AtomicU32,
    /// Locked inside the gate only.
    tasks: Mutex<Tasks>,
    stop: Arc<AtomicBool>,
    /// As `tasks`.
    daemon: Mutex<Option<JoinHandle<()>>>,
    /// There is one, or it is being started.
    has_daemon: AtomicBool,
    /// Memory has no limit: there is nothing to do for it before a copy replaces much.
    daemon_on_demand: bool,
    /// As `tasks`; with [`Faults::Thread`].
    server: Mutex<Option<FaultThread>>,
}

impl Shared {
    fn enter(&self) -> Result<Quiet, Error> {
        let quiet = Quiet::new();
        if self.is_forked() { Err(Error::Forked) } else { Ok(quiet) }
    }
    /// Does this process only hold a copy, by `fork(2)`?
    fn is_forked(&self) -> bool {
        self.generation.load(Ordering::Relaxed) != quiet::generation()
    }
    /// => inside the gate.
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn daemon(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> MutexGuard<'_, Option<FaultThread>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the child of a fork: the thread that serves faults, if there is to be one.
    fn restart_server(&self) -> io::Result<()> {
        let mut server = self.server();
        let Some(old) = server.take() else { return Ok(()) };
        old.forget(&self.vm);
        *server = Some(FaultThread::start(&self.vm)?);
        Ok(())
    }

    /// Has the page daemon free what copies replaced, if anything waits. A system without a
    /// limit gets one here; without a thread it is done at once.
    ///
    /// => outside the gate: to start a thread takes memory, which may be managed.
    fn free_later(&self) {
        if self.vm.replaced_pages() == 0 || self.is_forked() {
            return;
        }
        if !self.has_daemon.swap(true, Ordering::SeqCst) {
            let mask = quiet::block();
            let started = Vm::start_daemon(&self.vm, &self.stop);
            quiet::restore(&mask);
            let Ok(_quiet) = self.enter() else { return };
            match started {
                Ok(daemon) => *self.daemon() = Some(daemon),
                Err(_) => {
                    self.has_daemon.store(false, Ordering::SeqCst);
                    self.vm.free_all_replaced(&mut MaySleep::claim());
                }
            }
        }
        machvm::Platform::memory_low(self.vm.platform());
    }

    /// In the child of a fork, where there is no thread but the one that forked.
    fn restart_daemon(&self) -> io::Result<()> {
        let mut daemon = self.daemon();
        let Some(old) = daemon.take() else {
            self.has_daemon.store(false, Ordering::SeqCst);
            return Ok(());
        };
        // Its references are nobody's any more.
        core::mem::forget(old);
        // SAFETY: `start_daemon` gave the thread one reference on each.
        unsafe {
            Arc::decrement_strong_count(Arc::as_ptr(&self.vm));
            Arc::decrement_strong_count(Arc::as_ptr(&self.stop));
        }
        if self.daemon_on_demand {
            self.has_daemon.store(false, Ordering::SeqCst);
        } else {
            *daemon = Some(Vm::start_daemon(&self.vm, &self.stop)?);
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let (daemon, server) = (self.daemon().take(), self.server().take());
        if self.is_forked() {
            // The frames, the mappings and the thread are the parent's.
            core::mem::forget(Arc::clone(&self.vm));
            core::mem::forget(daemon);
            core::mem::forget(server);
            return;
        }
        // No task is left, so nobody waits for a fault.
        drop(server);
        let Some(daemon) = daemon else { return };
        self.stop.store(true, Ordering::SeqCst);
        while !daemon.is_finished() {
            machvm::Platform::memory_low(self.vm.platform());
            std::thread::sleep(Duration::from_micros(50));
        }
        let ended = daemon.join();
        debug_assert!(ended.is_ok(), "the page daemon panicked");
    }
}

/// The page daemon: frees ahead of the faults.
fn daemon(vm: &machvm::Vm<Hosted>, stop: &AtomicBool) {
    let mut may = MaySleep::claim();
    while !stop.load(Ordering::SeqCst) {
        vm.platform().wait_memory_low(&mut may);
        loop {
            // Threads inside may wait for memory, so as their helper.
            let _pass = gate::enter_helper();
            if !stop.load(Ordering::SeqCst) && vm.free_replaced(&mut may) {
                continue;
            }
            if stop.load(Ordering::SeqCst) || vm.pageout_to_target(&mut may) == 0 {
                break;
            }
        }
    }
}

/// Is the calling thread inside the VM? Then what it asks of Linux is the VM's own business.
#[must_use]
pub fn is_inside() -> bool {
    quiet::inside() != 0
}

impl Vm {
    /// Makes a system. The first one installs the signal handlers.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Setup`], which says what Linux lacks and what
    /// to do; [`Error::Io`].
    pub fn new(config: Config) -> Result<Vm, Error> {
        let frames = match config.memory {
            None => UNLIMITED,
            Some(bytes) if bytes < LEAST_MEMORY => {
                return Err(Error::InvalidArgument("less than 256 KiB of memory"));
            }
            Some(bytes) => bytes / PAGE_SIZE,
        };
        if config.window == 0 || config.window > LARGEST_WINDOW {
            return Err(Error::InvalidArgument("a window of 0 or of more than 64 TiB"));
        }
        let swap = match config.swap {
            Swap::None => None,
            Swap::Lz4 { max } => Some(max),
        };
        let origin = config.origin.unwrap_or(0);
        if !origin.is_multiple_of(GRANULE) || origin > LARGEST_WINDOW {
            return Err(Error::InvalidArgument("an origin that is no multiple of 1 GiB below 64 TiB"));
        }
        quiet::watch_forks().map_err(Error::Io)?;
        let _quiet = Quiet::new();
        signal::install().map_err(Error::Io)?;
        let platform = Hosted::new(frames, swap, config.faults)?;
        let vm = machvm::Vm::new(platform).map_err(|_| Error::ResourceShortage)?;
        if config.memory.is_none() {
            vm.set_replaced_limit(REPLACED);
        }
        let (vm, stop) = (Arc::new(vm), Arc::new(AtomicBool::new(false)));
        let server = (vm.platform().mode() == Mode::Blocking).then(|| FaultThread::start(&vm));
        let server = server.transpose().map_err(Error::Io)?;
        let daemon = config.memory.map(|_| Self::start_daemon(&vm, &stop)).transpose().map_err(Error::Io)?;
        let window = config.window.next_multiple_of(GRANULE);
        let shared = Arc::new(Shared {
            vm,
            window,
            origin,
            placed: AtomicBool::new(false),
            denied: config.denied,
            generation: AtomicU32::new(quiet::generation()),
            tasks: Mutex::default(),
            stop,
            has_daemon: AtomicBool::new(daemon.is_some()),
            daemon_on_demand: config.memory.is_none(),
            daemon: Mutex::new(daemon),
            server: Mutex::new(server),
        });
        if config.fork == Fork::Follow {
            fork::follow(&shared);
        }
        Ok(Vm(shared))
    }

    /// => signals are blocked, and so they are in the thread.
    fn start_daemon(vm: &Arc<machvm::Vm<Hosted>>, stop: &Arc<AtomicBool>) -> io::Result<JoinHandle<()>> {
        let (vm, stop) = (Arc::clone(vm), Arc::clone(stop));
        std::thread::Builder::new().name("machvm-pageout".into()).spawn(move || daemon(&vm, &stop))
    }

    /// A new task, with nothing in it.
    ///
    /// # Errors
    /// [`Error::Setup`]: the process has no room for another window (see
    /// [`Config::window`]), or no memory for tables.
    pub fn task(&self) -> Result<Task, Error> {
        Task::new(&self.0)
    }

    /// As [`Vm::task`]; what is in it can be shown by other tasks of the system (M20
    /// `vm_map_submap`, [`machvm::map::Map::submap`]). Not for processes that fork.
    ///
    /// # Errors
    /// As [`Vm::task`].
    #[doc(hidden)]
    pub fn showable_task(&self) -> Result<Task, Error> {
        Task::showable(&self.0)
    }

    /// Who serves faults: [`Faults::Signal`] or [`Faults::Thread`].
    #[must_use]
    pub fn faults(&self) -> Faults {
        match self.0.vm.platform().mode() {
            Mode::Blocking => Faults::Thread,
            Mode::Signal => Faults::Signal,
        }
    }

    /// Pages out until `pages` frames more are free, as far as possible; gives how many
    /// were freed.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn page_out(&self, pages: u64) -> Result<u64, Error> {
        let _quiet = self.0.enter()?;
        self.0.vm.free_all_replaced(&mut MaySleep::claim());
        Ok(self.0.vm.pageout(pages, &mut MaySleep::claim()))
    }

    /// Counters of everything.
    ///
    /// # Errors
    /// [`Error::Io`]: Linux does not say how much of the memfd is resident.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let _quiet = self.0.enter()?;
        self.0.vm.free_all_replaced(&mut MaySleep::claim());
        let platform = self.0.vm.platform();
        Ok(Statistics {
            core: self.0.vm.statistics(),
            frames: machvm::Platform::mem(platform).resident_frames().map_err(Error::Io)?,
            pool: platform.pool().map(machvm_pagers::Pool::stats),
            vmas: machvm::Platform::pmap_page(platform).vmas().0,
        })
    }

    /// Structures of the core that are in use, for leak checks: frames, anons, leaves,
    /// inner nodes, objects, entries.
    #[doc(hidden)]
    #[must_use]
    pub fn live(&self) -> [u64; 6] {
        if let Ok(_quiet) = self.0.enter() {
            self.0.vm.free_all_replaced(&mut MaySleep::claim());
        }
        self.0.vm.live()
    }
}

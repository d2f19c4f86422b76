//! The process's VM, made at the first call that needs it.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use machvm::task::Personality;
use machvm_linux::library::{Denied, Fork, Hosted, Inside};
use machvm_linux::{Config, Faults, Vm};

use crate::fork;
use crate::ports::{self, Ports, Right, TaskPort};
use crate::wrap;

/// Where the task's memory begins: pointers of 32 bits do not reach it, as on XNU.
const ORIGIN: u64 = 1 << 32;
/// How far it goes.
const WINDOW: u64 = 256 << 30;

/// See the module text.
pub(crate) struct World {
    vm: Vm,
    own: Arc<TaskPort>,
    ports: Ports,
    how: &'static Personality,
}

static WORLD: OnceLock<World> = OnceLock::new();

/// How far the world is made.
static MAKING: AtomicU32 = AtomicU32::new(NOT_YET);
const NOT_YET: u32 = 0;
const UNDER_WAY: u32 = 1;
const MADE: u32 = 2;
/// A thread of the parent made it while this process was forked off.
const NEVER: u32 = 3;

/// The world. Without one no call can do anything, not even say why in its code: what is
/// missing is said on standard error, and the process ends.
pub(crate) fn world() -> &'static World {
    if MAKING.load(SeqCst) == NEVER {
        give_up("forked while the parent made its first call");
    }
    WORLD.get_or_init(|| {
        MAKING.store(UNDER_WAY, SeqCst);
        let world = World::new().unwrap_or_else(|why| give_up(&why));
        MAKING.store(MADE, SeqCst);
        world
    })
}

fn give_up(why: &str) -> ! {
    eprintln!("libmachvm: {why}");
    std::process::exit(71) // EX_OSERR
}

/// The world, if there is one.
pub(crate) fn made() -> Option<&'static World> {
    WORLD.get()
}

/// In the child of a fork: a thread that was making the world is not here.
pub(crate) fn no_longer_being_made() {
    let _ = MAKING.compare_exchange(UNDER_WAY, NEVER, SeqCst, SeqCst);
}

/// A size in bytes with an optional K, M, G or T.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().next_back()? {
        (i, 'k' | 'K') => (&text[..i], 10),
        (i, 'm' | 'M') => (&text[..i], 20),
        (i, 'g' | 'G') => (&text[..i], 30),
        (i, 't' | 'T') => (&text[..i], 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_shl(shift).filter(|n| n >> shift == digits.parse().unwrap_or(0))
}

/// The value of a setting, if it is set.
fn setting<T>(name: &str, parse: impl Fn(&str) -> Option<T>, want: &str) -> Result<Option<T>, String> {
    let Some(text) = std::env::var_os(name) else { return Ok(None) };
    let text = text.to_string_lossy();
    parse(&text).map(Some).ok_or_else(|| format!("{name}={text}: expected {want}"))
}

fn personality(text: &str) -> Option<&'static Personality> {
    Some(match text {
        "mach3" => &Personality::MACH3,
        "xnu" => &Personality::XNU,
        "freebsd" => &Personality::FREEBSD,
        "uvm" => &Personality::UVM,
        "posix" => &Personality::POSIX,
        _ => return None,
    })
}

/// The personality that the environment asks for.
pub(crate) fn wanted_personality() -> Result<&'static Personality, String> {
    let how = setting("MACHVM_PERSONALITY", personality, "mach3, xnu, freebsd, uvm or posix")?;
    Ok(how.unwrap_or(&Personality::XNU))
}

fn faults(text: &str) -> Option<Faults> {
    Some(match text {
        "signal" => Faults::Signal,
        "thread" => Faults::Thread,
        "auto" => Faults::Auto,
        _ => return None,
    })
}

impl World {
    fn new() -> Result<World, String> {
        let memory = setting("MACHVM_MEMORY", bytes, "bytes, as 256M")?;
        let window = setting("MACHVM_WINDOW", bytes, "bytes, as 64G")?.unwrap_or(WINDOW);
        let how = wanted_personality()?;
        let faults = setting("MACHVM_FAULTS", faults, "signal, thread or auto")?.unwrap_or(Faults::Auto);
        let config = Config {
            memory,
            window,
            origin: Some(ORIGIN),
            denied: Denied::Bus,
            faults,
            fork: Fork::Follow,
            ..Config::default()
        };
        fork::watch().map_err(|e| e.to_string())?;
        let vm = Vm::new(config).map_err(|e| e.to_string())?;
        fork::forget_names_in_children();
        let own = vm.task().map_err(|e| e.to_string())?;
        if own.as_ptr(ORIGIN as usize).addr() as u64 != ORIGIN {
            return Err(format!(
                "no {} GiB of addresses are free at {ORIGIN:#x} (a smaller MACHVM_WINDOW may fit)",
                own.size() >> 30
            ));
        }
        wrap::open(own.as_ptr(ORIGIN as usize).addr(), own.size(), vm.faults() == Faults::Signal);
        let own = Arc::new(TaskPort { task: own, own: true });
        let ports = Ports::default();
        ports.set(ports::TASK_SELF, Right::Task(Arc::clone(&own)));
        ports.set(ports::HOST, Right::Host);
        ports.set(ports::HOST_PRIV, Right::HostPriv);
        Ok(World { vm, own, ports, how })
    }

    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }
    /// Where this process's task has its memory: start and end, addresses and pointers at once.
    pub(crate) fn window(&self) -> (u64, u64) {
        (ORIGIN, ORIGIN + self.own.task.size() as u64)
    }
    /// This process's task.
    pub(crate) fn own(&self) -> &Arc<TaskPort> {
        &self.own
    }
    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }
    pub(crate) fn personality(&self) -> &'static Personality {
        self.how
    }
    /// Enters the VM. Only a process that could not follow a fork is refused.
    pub(crate) fn inside(&self) -> Option<Inside> {
        self.vm.inside().ok()
    }
}

impl TaskPort {
    /// The task as the calls see it.
    pub(crate) fn mach(&self, how: &'static Personality) -> machvm::task::Task<'_, 'static, Hosted> {
        // SAFETY: what is made of it is kept in `World`, which is never dropped, and so
        // outlived by the VM.
        unsafe { self.task.mach(how) }
    }
}

//! From the command line to the program's first instruction.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::context::{Ctx, SharedSpace, open_report};
use super::error::RunError;
use super::exe::leave_own_file;
use super::files::{
    Found, close_if, find_program, give_up, open_descriptors, plug_standard_descriptors, program_fd,
};
use super::filter::{Filter, explain};
use super::inherited::environment;
use super::keeper::{Keeper, KeeperConfig, start as start_keeper};
use super::load::{Image, Source, prepare, stack_limit};
use super::native::NativeSpace;
use super::notify::wake_on_this_cpu;
use super::options::Options;
use super::signals::remember_processor;
use super::start::{StartArgs, block_signals, die_by, enter, restore_dispositions, was_closed};
use super::supervisor::Supervisor;
use super::trace::Recorder;
use super::vmthread::{Forker, gettid, remember_tasks, spawn_vm_thread};

/// The address space that answers the program's memory calls.
///
/// => on a VM thread, in the VM's descriptor table
fn make_space(options: &Options, argv: &[Vec<u8>], keeper: &Keeper) -> Result<SharedSpace, RunError> {
    if options.native {
        return Ok(Arc::new(NativeSpace::default()));
    }
    let recorder = Recorder::start(options, argv, keeper.tail())?;
    Ok(super::vmspace::VmSpace::start(options, recorder)?)
}

/// Runs `program` in this process; `args` are its arguments without the name.
///
/// => on the process's only thread
///
/// # Errors
/// Why the program was not started. After a success this thread is the program's.
pub fn run(options: Options, program: &OsStr, args: &[OsString]) -> Result<Infallible, RunError> {
    let inherited: HashSet<i32> = open_descriptors().into_iter().filter(|&fd| !was_closed(fd)).collect();
    let Found::At(path) = find_program(program) else {
        return Err(RunError::NotFound(program.to_string_lossy().into_owned()));
    };
    let native = options.native;
    let mut argv = vec![program.as_bytes().to_vec()];
    argv.extend(args.iter().map(|arg| arg.clone().into_vec()));

    // The bounds of our heap are told to the kernel again with the program's layout:
    // they must not move meanwhile.
    // SAFETY: numbers.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX) };
    // SAFETY: this is the process's only thread, by contract.
    unsafe { leave_own_file() };
    let keeper = start_keeper(&KeeperConfig::new(&options))
        .map_err(|error| RunError::host("cannot start the keeper process", &error))?;
    let mask = block_signals();
    // A thread that panics leaves calls without an answer.
    std::panic::set_hook(Box::new(|panic| give_up(&format!("internal error: {panic}"))));
    let no_threads = |error: io::Error| RunError::host("cannot start a thread (see ulimit -u)", &error);
    let forker = Forker::start().map_err(no_threads)?;

    let handover = Arc::new(Handover::default());
    let setup = Setup {
        options,
        path,
        argv,
        main_tid: gettid(),
        inherited: inherited.clone(),
        keeper,
        forker,
        handover: Arc::clone(&handover),
    };
    spawn_vm_thread("supervisor", move || setup.run()).map_err(no_threads)?;
    let (image, exe_named) = handover.take_image()?;
    let start = Box::leak(Box::new(StartArgs::new(&image, mask)));
    // Linux's own memory (a debugging aid) is not cleared at execve, so that a later
    // program's file could not be named.
    let filter = Filter::new(!exe_named || native, native);
    close_if(|fd| !inherited.contains(&fd));
    restore_dispositions();
    remember_processor();

    // From here on a memory call of this thread would wait for itself: no allocation.
    let listener = match filter.install() {
        Ok(listener) => listener,
        Err(error) => return Err(explain(&error)),
    };
    handover.give_listener(listener);
    // SAFETY: the listener lives on in the VM's table.
    unsafe { libc::close(listener) };
    // SAFETY: the image was loaded for this; this function's frame is abandoned.
    unsafe { enter(start) }
}

/// What the first VM thread needs to make everything else.
struct Setup {
    options: Options,
    path: Vec<u8>,
    argv: Vec<Vec<u8>>,
    main_tid: i32,
    inherited: HashSet<i32>,
    keeper: Keeper,
    forker: Forker,
    handover: Arc<Handover>,
}

impl Setup {
    fn run(self) {
        let handover = Arc::clone(&self.handover);
        match self.build() {
            Err(error) => handover.give_image(Err(error)),
            Ok(built) => built.serve(&handover),
        }
    }

    /// Everything up to a program in memory.
    fn build(self) -> Result<Built, RunError> {
        // SAFETY: the call has no memory arguments; nobody else uses this table yet.
        if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
            return Err(RunError::host(
                "cannot make a descriptor table for the VM",
                &io::Error::last_os_error(),
            ));
        }
        let report_to = open_report(&self.options)
            .map_err(|error| RunError::host("cannot create the file of --stats", &error))?;
        close_if(|fd| self.inherited.contains(&fd));
        plug_standard_descriptors();
        remember_tasks()
            .map_err(|error| RunError::host("cannot see our own threads; mount /proc", &error))?;
        let name = String::from_utf8_lossy(&self.path).into_owned();
        let source = Source { path: self.path, file: None, tid: self.main_tid };
        let prepared = prepare(source, &self.argv, &environment(), stack_limit())
            .map_err(|error| RunError::Load(name.clone(), error))?;
        let space = make_space(&self.options, &self.argv, &self.keeper)?;
        let image = prepared.map(&*space).map_err(|error| RunError::Load(name, error))?;
        let exe_named = image.mm.apply();
        Ok(Built {
            image,
            exe_named,
            space,
            report_to,
            options: self.options,
            main_tid: self.main_tid,
            keeper: self.keeper,
            forker: self.forker,
        })
    }
}

/// A program in memory, not started.
struct Built {
    image: Image,
    exe_named: bool,
    space: SharedSpace,
    report_to: Option<std::fs::File>,
    options: Options,
    main_tid: i32,
    keeper: Keeper,
    forker: Forker,
}

impl Built {
    fn serve(self, handover: &Handover) {
        let exe = self.image.exe_path.clone();
        handover.give_image(Ok((self.image, self.exe_named)));
        let number = handover.take_listener();
        let served = program_fd(self.main_tid, number).and_then(|listener| {
            self.keeper.adopt(listener.as_fd())?;
            wake_on_this_cpu(listener.as_fd());
            let (keeper, options, forker) = (self.keeper, self.options, self.forker);
            let ctx = Ctx::new(self.space, listener, keeper, options, forker, exe, self.report_to);
            Supervisor::new(Arc::new(ctx))
        });
        match served {
            Ok(supervisor) => {
                handover.release();
                let error = supervisor.run();
                if error.raw_os_error() == Some(libc::ENOTCONN) {
                    // A filter of the program's own killed its last thread. Natively that ends
                    // the process by SIGSYS, but with our threads it was not the last one.
                    die_by(libc::SIGSYS);
                }
                give_up(&unserved(&error));
            }
            Err(error) => give_up(&unserved(&error)),
        }
    }
}

fn unserved(error: &io::Error) -> String {
    format!("cannot serve the program's system calls: {error}")
}

/// How the main thread and the first VM thread wait for each other. The main thread
/// may not allocate once it is filtered, and this does not.
#[derive(Default)]
struct Handover {
    state: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Default)]
enum Stage {
    #[default]
    Building,
    Image(Box<Result<(Image, bool), RunError>>),
    Waiting,
    Listener(i32),
    Serving,
}

impl Handover {
    fn put(&self, stage: Stage) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.changed.notify_all();
    }

    /// Waits until `pick` takes something out of the stage.
    fn wait<T>(&self, mut pick: impl FnMut(&mut Stage) -> Option<T>) -> T {
        let mut stage = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(picked) = pick(&mut stage) {
                return picked;
            }
            stage = self.changed.wait(stage).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The program, and whether `/proc/self/exe` names it.
    fn give_image(&self, image: Result<(Image, bool), RunError>) {
        self.put(Stage::Image(Box::new(image)));
    }

    fn take_image(&self) -> Result<(Image, bool), RunError> {
        *self.wait(|stage| match std::mem::replace(stage, Stage::Waiting) {
            Stage::Image(image) => Some(image),
            other => {
                *stage = other;
                None
            }
        })
    }

    /// Returns when the listener is served.
    fn give_listener(&self, listener: i32) {
        self.put(Stage::Listener(listener));
        self.wait(|stage| matches!(stage, Stage::Serving).then_some(()));
    }

    fn take_listener(&self) -> i32 {
        self.wait(|stage| match stage {
            Stage::Listener(listener) => Some(*listener),
            _ => None,
        })
    }

    fn release(&self) {
        self.put(Stage::Serving);
    }
}

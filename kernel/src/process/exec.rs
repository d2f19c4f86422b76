//! execve(2): the new program is loaded beside the old one, which stays whole until nothing can fail any more.

use core::sync::atomic::Ordering;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use machvm_hal::MaySleep;

use super::limits::Limits;
use super::{Space, Texts, bounds, new_pmap, release};
use crate::arch::{self, Frame};
use crate::elf;
use crate::embed::the_vm;
use crate::errno::{EACCES, ELOOP, ENOEXEC, Result};
use crate::fs;
use crate::lock::NoInterrupts;
use crate::sched;

/// A program that is loaded and does not run yet.
pub(super) struct Loaded {
    pub(super) space: Arc<Space>,
    pub(super) entry: u64,
    pub(super) sp: u64,
    pub(super) heap: u64,
    pub(super) name: String,
    pub(super) program: String,
    /// Each with a zero behind it.
    pub(super) texts: Texts,
}

/// Scripts may lead to scripts, this often.
const SCRIPTS: u32 = 5;
/// Bytes of a script's first line that are looked at.
const LINE: usize = 256;

fn name_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    // As much as TASK_COMM_LEN has room for.
    let end = (0..=name.len().min(15)).rev().find(|i| name.is_char_boundary(*i)).unwrap_or(0);
    name[..end].into()
}

/// A program's path, and its one argument.
type Interpreter = (Vec<u8>, Option<Vec<u8>>);

/// The interpreter that `#!` names, and its argument.
fn script(first: &[u8]) -> Result<Option<Interpreter>> {
    let Some(rest) = first.strip_prefix(b"#!") else { return Ok(None) };
    let line = match rest.iter().position(|b| *b == b'\n') {
        Some(end) => &rest[..end],
        // Cut off: the name may be incomplete, an argument is just shorter.
        None if first.len() == LINE && !rest.trim_ascii_start().iter().any(|b| b" \t".contains(b)) => {
            return Err(ENOEXEC);
        }
        None => rest,
    };
    let line = line.trim_ascii();
    let end = line.iter().position(|b| b" \t".contains(b)).unwrap_or(line.len());
    if end == 0 {
        return Err(ENOEXEC);
    }
    let argument = line[end..].trim_ascii_start();
    Ok(Some((line[..end].to_vec(), (!argument.is_empty()).then(|| argument.to_vec()))))
}

/// Strings with a zero behind each.
fn joined(strings: &[Vec<u8>]) -> Vec<u8> {
    strings.iter().flat_map(|s| s.iter().copied().chain([0])).collect()
}

/// Loads a program into a space of its own, with its first stack.
///
/// # Errors
/// Those of execve; nothing is left over.
pub(super) fn prepare(
    cwd: &fs::Place,
    path: &str,
    mut argv: Vec<Vec<u8>>,
    envp: &[Vec<u8>],
) -> Result<Loaded> {
    let mut file: String = path.into();
    let mut node = fs::lookup(cwd, &file)?;
    for depth in 0.. {
        if !node.is_executable() {
            return Err(EACCES);
        }
        let mut line = [0; LINE];
        let n = node.read_at(0, &mut line)?;
        let Some((interpreter, argument)) = script(&line[..n])? else { break };
        if depth == SCRIPTS {
            return Err(ELOOP);
        }
        let rest = argv.split_off(1.min(argv.len()));
        argv = vec![interpreter.clone()];
        argv.extend(argument);
        argv.push(file.into_bytes());
        argv.extend(rest);
        file = String::from_utf8(interpreter).map_err(|_| ENOEXEC)?;
        node = fs::lookup(cwd, &file)?;
    }
    elf::check(&node)?;
    let space = Space::alloc(the_vm(), new_pmap()?, bounds());
    match &sched::current().process {
        Some(me) => me.limits.apply(&space),
        None => Limits::new().apply(&space),
    }
    let program = fs::normal(cwd, &file);
    let done = elf::load(&space, &node, &program)
        .and_then(|image| elf::stack(&space, &image, &argv, envp, path).map(|first| (image, first)));
    match done {
        Ok((image, (sp, auxiliary))) => Ok(Loaded {
            space: Arc::new(space),
            entry: image.entry,
            sp,
            heap: image.heap,
            name: name_of(path),
            program,
            texts: Texts { arguments: joined(&argv), environment: joined(envp), auxiliary },
        }),
        Err(e) => {
            space.exit(|| {}, &mut MaySleep::claim());
            Err(e)
        }
    }
}

/// execve(2): this process becomes another program.
pub(crate) fn exec(f: &mut Frame, path: &str, argv: Vec<Vec<u8>>, envp: &[Vec<u8>]) -> Result<()> {
    let me = sched::process();
    let cwd = me.files.lock().cwd.clone();
    let new = prepare(&cwd, path, argv, envp)?;
    let t = sched::current();
    // The other threads end. One of them may have called exec or exit_group first.
    while me.threads.lock().len() > 1 {
        // One that was made meanwhile, too.
        me.doom(Some(t));
        if t.doomed.load(Ordering::Acquire) {
            release(new.space);
            return Ok(());
        }
        sched::yield_now();
    }
    me.wait_alone();
    t.set_id(me.pid);
    t.robust.iter().for_each(|r| r.store(0, Ordering::Relaxed));
    t.clear_tid.store(0, Ordering::Relaxed);
    t.rseq.forget();
    t.signals.set_alternate([0, 0, super::signal::SS_DISABLE]);
    *t.name.lock() = None;
    *me.name.lock() = new.name;
    *me.program.lock() = new.program;
    *me.texts.lock() = Arc::new(new.texts);
    me.signals.reset();
    me.timers.forget();
    me.files.lock().close_on_exec();
    me.replace_space(Some(new.space));
    me.vfork_ends();
    *me.heap.lock() = (new.heap, new.heap);
    me.has_execed.store(true, Ordering::Relaxed);
    {
        let _off = NoInterrupts::new();
        t.fs.store(0, Ordering::Relaxed);
        arch::set_fs(0);
        t.reset_fpu();
    }
    *f = Frame::user(new.entry, new.sp);
    f.return_whole();
    Ok(())
}

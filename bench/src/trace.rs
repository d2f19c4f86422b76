//! What an operation does to memory: lackey (valgrind) writes down every instruction and
//! every access, and we look at those between two writes to a mark.
//!
//! Which instructions lock the bus is read from our own code: the traced program is the
//! same file, loaded elsewhere. Instructions outside that file (memcpy) lock nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};

use machvm_bench::pmap::{Op, Size, op};

static MARK: AtomicU64 = AtomicU64::new(0);
/// A cache line.
const LINE: u64 = 64;
/// Everything this near to the stack pointer of `main` is the stack.
const STACK: u64 = 1 << 20;

/// Of all repetitions together.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Seen {
    /// Instructions with LOCK, and XCHG with memory, which has it always.
    pub(crate) locked: u64,
    /// Cache lines written, other than of the stack; each once a repetition.
    pub(crate) lines: u64,
}

#[inline(never)]
fn mark() {
    MARK.store(1, Ordering::Relaxed);
}

fn mark_address() -> u64 {
    (&raw const MARK).addr() as u64
}

/// `trace ID`: what lackey watches.
pub(crate) fn child(args: &[String]) -> ExitCode {
    let [id] = args else { return ExitCode::from(2) };
    let op = op(id);
    let mut scene = (op.setup)(Size::Small);
    println!("{:x} {:x}", mark_address(), (&raw const scene).addr());
    for n in 0..op.times {
        mark();
        (op.run)(&mut scene, n);
    }
    mark();
    core::mem::forget(scene);
    ExitCode::SUCCESS
}

/// Does it under lackey.
///
/// # Errors
/// Why that is not possible.
pub(crate) fn trace(op: &Op) -> Result<Seen, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("only x86-64 code is known here".into());
    }
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let log = std::env::temp_dir().join(format!("machvm-bench-{}.trace", std::process::id()));
    let out = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes", "--basic-counts=no"])
        .arg(format!("--log-file={}", log.display()))
        .arg(me)
        .args(["trace", op.id])
        .output()
        .map_err(|e| format!("valgrind: {e}"));
    let seen = out.and_then(|out| {
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let words = text.split_once(' ').and_then(|(m, s)| Some((hex(m)?, hex(s.trim())?)));
        let (mark, stack) = words.ok_or_else(|| format!("{}: {}", op.id, out.status))?;
        let file = File::open(&log).map_err(|e| e.to_string())?;
        read(BufReader::new(file), mark, stack)
    });
    // What is left is a temporary file.
    let _ = std::fs::remove_file(&log);
    seen
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Lines are ` S 1ffefff5a8,8` and the like: instruction, load, store or both, address,
/// bytes.
fn read(lines: impl BufRead, mark: u64, stack: u64) -> Result<Seen, String> {
    let text = text_of_this_file()?;
    let (mut seen, mut marks) = (Seen::default(), 0);
    // Since the last mark; after the very last one the process ends.
    let (mut locked, mut written) = (0, BTreeSet::new());
    for line in lines.lines() {
        let line = line.map_err(|e| e.to_string())?;
        let Some((kind, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((at, bytes)) = rest.trim().split_once(',') else { continue };
        let (Some(at), Ok(bytes)) = (hex(at), bytes.parse::<u64>()) else { continue };
        match kind {
            "S" | "M" if at == mark => {
                marks += 1;
                seen.lines += written.len() as u64;
                seen.locked += locked;
                locked = 0;
                written.clear();
            }
            "S" | "M" if marks != 0 && at.abs_diff(stack) > STACK => {
                written.extend(at / LINE..=(at + bytes - 1) / LINE);
            }
            "I" if marks != 0 => {
                let here = at.wrapping_sub(mark).wrapping_add(mark_address());
                locked += u64::from(text.contains(&here) && locks(here));
            }
            _ => {}
        }
    }
    if marks < 2 { Err("lackey saw no mark".into()) } else { Ok(seen) }
}

/// Where our own code is.
fn text_of_this_file() -> Result<Range<u64>, String> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| e.to_string())?;
    let me = mark as fn() as usize as u64;
    maps.lines()
        .filter_map(|l| l.split_once(' ')?.0.split_once('-'))
        .filter_map(|(a, b)| Some(hex(a)?..hex(b)?))
        .find(|r| r.contains(&me))
        .ok_or_else(|| "no code of ours is mapped".into())
}

/// Does the instruction at `at` lock the bus? Intel SDM volume 2, "Instruction Prefixes"
/// and XCHG.
///
/// => `at` is the start of an instruction of ours.
fn locks(at: u64) -> bool {
    let byte = |i: usize| -> u8 {
        // SAFETY: code of ours, which is mapped for ever and never written; an instruction
        // ends before the code does.
        unsafe { core::ptr::with_exposed_provenance::<u8>(at as usize + i).read() }
    };
    let mut i = 0;
    while matches!(byte(i), 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf2 | 0xf3) {
        i += 1;
    }
    if byte(i) == 0xf0 {
        return true;
    }
    if byte(i) & 0xf0 == 0x40 {
        i += 1;
    }
    let memory = byte(i + 1) >> 6 != 3;
    matches!(byte(i), 0x86 | 0x87) && memory
}

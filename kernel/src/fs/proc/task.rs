//! Files of /proc/PID.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use machvm::map::{EntryInfo, Inherit, Kind};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, VaRange};

use crate::errno::{EACCES, ENOENT, Result};
use crate::fs;
use crate::mapped;
use crate::process::Process;

/// A file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TaskFile {
    Maps,
    Smaps,
    Status,
    Statm,
    Stat,
    Cmdline,
    Comm,
    Mounts,
    Mountinfo,
    Environ,
    Auxv,
    Limits,
    OomScoreAdj,
}

/// All of them.
pub(super) const TASK_FILES: &[(&str, TaskFile)] = &[
    ("maps", TaskFile::Maps),
    ("smaps", TaskFile::Smaps),
    ("status", TaskFile::Status),
    ("statm", TaskFile::Statm),
    ("stat", TaskFile::Stat),
    ("cmdline", TaskFile::Cmdline),
    ("comm", TaskFile::Comm),
    ("mounts", TaskFile::Mounts),
    ("mountinfo", TaskFile::Mountinfo),
    ("environ", TaskFile::Environ),
    ("auxv", TaskFile::Auxv),
    ("limits", TaskFile::Limits),
    ("oom_score_adj", TaskFile::OomScoreAdj),
];

impl TaskFile {
    pub(super) fn rights(self) -> u32 {
        match self {
            TaskFile::Environ | TaskFile::Auxv => 0o400,
            TaskFile::Comm | TaskFile::OomScoreAdj => 0o644,
            _ => 0o444,
        }
    }
    pub(super) fn write(self, p: &Process, data: &[u8]) -> Result<usize> {
        match self {
            TaskFile::Comm => {
                let text = String::from_utf8_lossy(data);
                *p.name.lock() = text.trim_end_matches('\n').chars().take(15).collect();
                Ok(data.len())
            }
            // Nobody is chosen by it.
            TaskFile::OomScoreAdj => Ok(data.len()),
            _ => Err(EACCES),
        }
    }
    pub(super) fn text(self, p: &Process) -> Result<Vec<u8>> {
        let text = match self {
            TaskFile::Maps => maps_text(p),
            TaskFile::Smaps => smaps(p),
            TaskFile::Status => status(p),
            TaskFile::Statm => {
                let n = Sizes::of(p);
                format!("{} {} {} 0 0 {} 0\n", n.all, n.resident, n.shared, n.writable)
            }
            TaskFile::Stat => stat(p),
            // A zombie has nothing left of them.
            TaskFile::Cmdline | TaskFile::Environ | TaskFile::Auxv if p.is_zombie() => return Ok(Vec::new()),
            TaskFile::Cmdline => return Ok(p.texts().arguments.clone()),
            TaskFile::Environ => return Ok(p.texts().environment.clone()),
            TaskFile::Auxv => return Ok(p.texts().auxiliary.clone()),
            TaskFile::Comm => format!("{}\n", comm(p)),
            TaskFile::Mounts => mounts(),
            TaskFile::Mountinfo => mountinfo(),
            TaskFile::Limits => limits(p),
            TaskFile::OomScoreAdj => String::from("0\n"),
        };
        Ok(text.into_bytes())
    }
}

/// Fifteen bytes of what it is called.
fn comm(p: &Process) -> String {
    p.name.lock().chars().take(15).collect()
}

/// The path of its program.
pub(super) fn program(p: &Process) -> Result<Vec<u8>> {
    let path = p.program();
    if path.is_empty() { Err(ENOENT) } else { Ok(path.into_bytes()) }
}

/// Its mappings, as they are one moment after the other.
fn entries(p: &Process) -> Vec<EntryInfo> {
    let mut all = Vec::new();
    // A zombie has none.
    let Some(space) = p.hold_space() else { return all };
    let mut at = space.map().min();
    // One at a time: the map is not locked while memory is asked for.
    while let Some(e) = space.map().entry_from(at, &mut MaySleep::claim()) {
        at = e.range.end();
        // Room for a stack is free to Linux.
        if e.kind != Kind::StackGap {
            all.push(e);
        }
    }
    crate::process::release(space);
    all
}

/// Adds `e` to the mapping of a file below it, if to Linux they are one.
fn continues(last: &mut EntryInfo, e: &EntryInfo) -> bool {
    let end = last.range.end();
    let same = e.attributes.tag != 0
        && e.attributes == last.attributes
        && (e.kind, e.flags, e.wired) == (last.kind, last.flags, last.wired)
        && end == e.range.start()
        && last.offset.add(last.range.pages()) == e.offset;
    match VaRange::between(last.range.start(), e.range.end()) {
        Some(both) if same => {
            last.range = both;
            true
        }
        _ => false,
    }
}

fn overlaps(r: VaRange, (start, end): (u64, u64)) -> bool {
    r.start().get() < end && r.end().get() > start
}

/// What a mapping is called.
fn name_of(p: &Process, e: &EntryInfo) -> String {
    let heap = *p.heap.lock();
    if heap.1 > heap.0 && overlaps(e.range, heap) {
        return "[heap]".into();
    }
    let top = crate::arch::USER_END - PAGE_SIZE;
    if overlaps(e.range, (top - PAGE_SIZE, top)) {
        return "[stack]".into();
    }
    String::new()
}

/// One line of maps, without its end.
fn line(p: &Process, e: &EntryInfo) -> String {
    let prot = e.attributes.prot;
    let bit = |b: Prot, c: char| if prot.contains(b) { c } else { '-' };
    let guard = e.kind != Kind::Object;
    let shared = e.attributes.inherit == Inherit::Share;
    let named = mapped::named(e.attributes.tag);
    let mut t = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {}",
        e.range.start().get(),
        e.range.end().get(),
        if guard { '-' } else { bit(Prot::R, 'r') },
        if guard { '-' } else { bit(Prot::W, 'w') },
        if guard { '-' } else { bit(Prot::X, 'x') },
        if shared { 's' } else { 'p' },
        if named.is_some() { e.offset.0 * PAGE_SIZE } else { 0 },
        0,
        named.as_ref().map_or(0, |n| n.device),
        named.as_ref().map_or(0, |n| n.inode)
    );
    let name = named.map_or_else(|| name_of(p, e), |n| n.path);
    if !name.is_empty() {
        while t.len() < 73 {
            t.push(' ');
        }
        t.push_str(&name);
    }
    t
}

/// /proc/PID/maps.
pub(crate) fn maps_text(p: &Process) -> String {
    let mut all: Vec<EntryInfo> = Vec::new();
    for e in entries(p) {
        if !all.last_mut().is_some_and(|last| continues(last, &e)) {
            all.push(e);
        }
    }
    all.iter().map(|e| line(p, e) + "\n").collect()
}

/// Pages of one mapping: in memory, of these shared, of these modified, on swap.
fn pages_of(p: &Process, e: &EntryInfo) -> [u64; 4] {
    let Some(space) = p.hold_space() else { return [0; 4] };
    let facts = space.map().facts_at(e.range.start(), e.range, &mut MaySleep::claim());
    crate::process::release(space);
    facts.map_or([0; 4], |f| {
        let shared = if f.shared { f.pages.resident } else { f.pages.copied };
        [f.pages.resident, shared, f.pages.dirty, f.pages.swapped]
    })
}

fn smaps(p: &Process) -> String {
    let mut t = String::new();
    for e in entries(p) {
        let [resident, shared, dirty, swapped] = pages_of(p, &e);
        let kb = PAGE_SIZE / 1024;
        let private = resident - shared.min(resident);
        let (private_dirty, shared_dirty) = (dirty.min(private), dirty - dirty.min(private));
        let _ = writeln!(t, "{}", line(p, &e));
        let rows = [
            ("Size:", e.range.pages() * kb),
            ("KernelPageSize:", kb),
            ("MMUPageSize:", kb),
            ("Rss:", resident * kb),
            ("Pss:", (private + (resident - private) / 2) * kb),
            ("Shared_Clean:", (shared.min(resident) - shared_dirty.min(shared)) * kb),
            ("Shared_Dirty:", shared_dirty * kb),
            ("Private_Clean:", (private - private_dirty) * kb),
            ("Private_Dirty:", private_dirty * kb),
            ("Referenced:", resident * kb),
            ("Anonymous:", resident * kb),
            ("Swap:", swapped * kb),
            ("Locked:", if e.wired != 0 { resident * kb } else { 0 }),
        ];
        for (name, n) in rows {
            let _ = writeln!(t, "{name:<16}{n:>8} kB");
        }
        let prot = e.attributes.prot;
        let flags = [(Prot::R, "rd "), (Prot::W, "wr "), (Prot::X, "ex ")];
        t.push_str("VmFlags: ");
        flags.iter().filter(|(b, _)| prot.contains(*b)).for_each(|(_, s)| t.push_str(s));
        if e.attributes.inherit == Inherit::Share {
            t.push_str("sh ");
        }
        t.push_str("mr mw me ");
        if e.wired != 0 {
            t.push_str("lo ");
        }
        t.push('\n');
    }
    t
}

/// Pages of a process.
#[derive(Default)]
struct Sizes {
    all: u64,
    resident: u64,
    shared: u64,
    writable: u64,
    stack: u64,
    code: u64,
    locked: u64,
    swapped: u64,
}

impl Sizes {
    fn of(p: &Process) -> Sizes {
        let mut n = Sizes::default();
        for e in entries(p).iter().filter(|e| e.kind == Kind::Object) {
            let [resident, _, _, swapped] = pages_of(p, e);
            let prot = e.attributes.prot;
            n.all += e.range.pages();
            n.resident += resident;
            n.swapped += swapped;
            n.locked += if e.wired != 0 { e.range.pages() } else { 0 };
            if e.attributes.inherit == Inherit::Share {
                n.shared += resident;
            } else if name_of(p, e) == "[stack]" {
                n.stack += e.range.pages();
            } else if prot.contains(Prot::W) {
                n.writable += e.range.pages();
            }
            n.code += if prot.contains(Prot::X) { e.range.pages() } else { 0 };
        }
        n
    }
}

fn status(p: &Process) -> String {
    let n = Sizes::of(p);
    let kb = |pages: u64| pages * (PAGE_SIZE / 1024);
    let (threads, room, umask) = {
        let files = p.files.lock();
        (p.threads.lock().len(), files.room(), files.umask)
    };
    let mut t = String::new();
    let _ = writeln!(t, "Name:\t{}\nUmask:\t{umask:04o}\nState:\t{} ({})", comm(p), state(p).0, state(p).1);
    let _ = writeln!(t, "Tgid:\t{0}\nNgid:\t0\nPid:\t{0}\nPPid:\t{1}\nTracerPid:\t0", p.pid, p.parent());
    let _ = writeln!(t, "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t{room}\nGroups:\t ");
    let rows = [
        ("VmPeak:", n.all),
        ("VmSize:", n.all),
        ("VmLck:", n.locked),
        ("VmPin:", 0),
        ("VmHWM:", n.resident),
        ("VmRSS:", n.resident),
        ("RssAnon:", n.resident - n.shared),
        ("RssFile:", 0),
        ("RssShmem:", n.shared),
        ("VmData:", n.writable),
        ("VmStk:", n.stack),
        ("VmExe:", n.code),
        ("VmLib:", 0),
        ("VmPTE:", 0),
        ("VmSwap:", n.swapped),
    ];
    for (name, pages) in rows {
        let _ = writeln!(t, "{name}\t{:>8} kB", kb(pages));
    }
    let _ = writeln!(t, "Threads:\t{threads}");
    let cpus = p.threads.lock().first().map_or(0, |t| t.cpus());
    let _ = writeln!(t, "Cpus_allowed:\t{cpus:x}\nCpus_allowed_list:\t{}", ranges(cpus));
    t
}

/// A set of numbers as Linux lists them: `0-2,5`.
fn ranges(set: u64) -> String {
    let mut t = String::new();
    let mut n = 0;
    while n < 64 {
        let len = (set >> n).trailing_ones();
        if len != 0 {
            let comma = if t.is_empty() { "" } else { "," };
            let _ = match len {
                1 => write!(t, "{comma}{n}"),
                _ => write!(t, "{comma}{n}-{}", n + len - 1),
            };
        }
        n += len.max(1);
    }
    t
}

/// What it does, in a letter and a word.
fn state(p: &Process) -> (char, &'static str) {
    if p.is_zombie() {
        ('Z', "zombie")
    } else if p.signals.is_stopped() {
        ('T', "stopped")
    } else if core::ptr::eq(p, &raw const **crate::sched::process()) {
        ('R', "running")
    } else {
        ('S', "sleeping")
    }
}

fn stat(p: &Process) -> String {
    let n = Sizes::of(p);
    let threads = p.threads.lock().len();
    let (pid, parent, group, session) = (p.pid, p.parent(), p.group(), p.session());
    // In ticks, as times(2).
    let ticks = |(user, system): (u64, u64)| (user / 10_000_000, system / 10_000_000);
    let ((user, system), (below_user, below_system)) = (ticks(p.times()), ticks(p.times_of_children()));
    let nice = p.settings.nice();
    format!(
        "{pid} ({}) {} {parent} {group} {session} 0 -1 0 0 0 0 0 {user} {system} {below_user} {below_system} {} {nice} \
         {threads} 0 0 {} {} {} 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
        comm(p),
        state(p).0,
        20 + nice,
        n.all * PAGE_SIZE,
        n.resident,
        u64::MAX
    )
}

fn mounts() -> String {
    let mut t = String::new();
    let place = fs::Place::first();
    for m in fs::mount::all() {
        let at = place.path_of(&m.root).unwrap_or_default();
        let (source, at) = (String::from_utf8_lossy(&m.source), String::from_utf8_lossy(&at));
        let _ = writeln!(t, "{source} {at} {} rw 0 0", m.root.fs.kind);
    }
    t
}

fn mountinfo() -> String {
    let mut t = String::new();
    let place = fs::Place::first();
    for (i, m) in fs::mount::all().iter().enumerate() {
        let at = place.path_of(&m.root).unwrap_or_default();
        let (source, at) = (String::from_utf8_lossy(&m.source), String::from_utf8_lossy(&at));
        let (id, parent, device, kind) = (i + 1, usize::from(i != 0), m.root.fs.device, m.root.fs.kind);
        let _ = writeln!(t, "{id} {parent} 0:{device} / {at} rw - {kind} {source} rw");
    }
    t
}

fn limits(p: &Process) -> String {
    let files = p.files.lock().limit;
    let mut t = format!("{:<26}{:<21}{:<21}{:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let _ = writeln!(t, "{:<26}{files:<21}{files:<21}{:<10}", "Max open files", "files");
    t
}

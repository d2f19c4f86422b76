//! Files of /proc that are about the whole machine.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use machvm_hal::PAGE_SIZE;

use super::Fixed;
use crate::embed::the_vm;
use crate::errno::Result;
use crate::{arch, fs, sched, swap};

/// A file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Text {
    Meminfo,
    Cpuinfo,
    Uptime,
    Loadavg,
    Stat,
    Version,
    Filesystems,
    Cmdline,
    Swaps,
    Vmstat,
    /// A fixed text.
    Says(&'static str),
    Hostname,
}

/// /proc itself.
pub(super) const ROOT: &[(&str, Fixed)] = &[
    ("self", Fixed::Link("self")),
    ("thread-self", Fixed::Link("thread-self")),
    ("mounts", Fixed::Link("self/mounts")),
    ("meminfo", Fixed::Text(Text::Meminfo)),
    ("cpuinfo", Fixed::Text(Text::Cpuinfo)),
    ("uptime", Fixed::Text(Text::Uptime)),
    ("loadavg", Fixed::Text(Text::Loadavg)),
    ("stat", Fixed::Text(Text::Stat)),
    ("vmstat", Fixed::Text(Text::Vmstat)),
    ("version", Fixed::Text(Text::Version)),
    ("filesystems", Fixed::Text(Text::Filesystems)),
    ("cmdline", Fixed::Text(Text::Cmdline)),
    ("swaps", Fixed::Text(Text::Swaps)),
    ("sys", Fixed::Dir(SYS)),
];
const SYS: &[(&str, Fixed)] =
    &[("kernel", Fixed::Dir(KERNEL)), ("vm", Fixed::Dir(VM)), ("fs", Fixed::Dir(FS))];
const KERNEL: &[(&str, Fixed)] = &[
    ("ostype", Fixed::Text(Text::Says("Linux\n"))),
    ("osrelease", Fixed::Text(Text::Says(concat!("6.1.0-machvm", "\n")))),
    ("version", Fixed::Text(Text::Says(concat!("#1 machvm ", env!("CARGO_PKG_VERSION"), "\n")))),
    ("hostname", Fixed::Text(Text::Hostname)),
    ("pid_max", Fixed::Text(Text::Says("4194304\n"))),
    ("ngroups_max", Fixed::Text(Text::Says("65536\n"))),
    ("cap_last_cap", Fixed::Text(Text::Says("40\n"))),
    ("randomize_va_space", Fixed::Text(Text::Says("0\n"))),
    ("threads-max", Fixed::Text(Text::Says("32768\n"))),
];
const VM: &[(&str, Fixed)] = &[
    ("overcommit_memory", Fixed::Text(Text::Says("1\n"))),
    ("max_map_count", Fixed::Text(Text::Says("65530\n"))),
    ("mmap_min_addr", Fixed::Text(Text::Says("65536\n"))),
];
const FS: &[(&str, Fixed)] = &[
    ("pipe-max-size", Fixed::Text(Text::Says("1048576\n"))),
    ("file-max", Fixed::Text(Text::Says("1048576\n"))),
    ("nr_open", Fixed::Text(Text::Says("1048576\n"))),
];

impl Text {
    pub(super) fn rights(self) -> u32 {
        0o444
    }
    pub(super) fn write(self, _data: &[u8]) -> Result<usize> {
        Err(crate::errno::EACCES)
    }
    pub(super) fn text(self) -> Vec<u8> {
        let now = arch::now_ns();
        let hundredths = now / 10_000_000;
        let text = match self {
            Text::Says(t) => String::from(t),
            Text::Hostname => String::from("machvm\n"),
            Text::Meminfo => meminfo(),
            Text::Cpuinfo => arch::cpu_info(sched::online().count_ones()),
            Text::Uptime => {
                let (s, h) = (hundredths / 100, hundredths % 100);
                format!("{s}.{h:02} {s}.{h:02}\n")
            }
            Text::Loadavg => {
                let last = crate::process::numbers().last().copied().unwrap_or(0);
                format!("0.00 0.00 0.00 1/{} {last}\n", crate::process::numbers().len())
            }
            Text::Stat => stat(hundredths),
            Text::Version => {
                format!("Linux version 6.1.0-machvm (machvm) #1 machvm {}\n", env!("CARGO_PKG_VERSION"))
            }
            Text::Filesystems => String::from("nodev\tproc\nnodev\ttmpfs\nnodev\tramfs\nnodev\tdevtmpfs\n"),
            Text::Cmdline => format!("{}\n", crate::process::command_line()),
            Text::Swaps => swaps(),
            Text::Vmstat => vmstat(),
        };
        text.into_bytes()
    }
}

fn swaps() -> String {
    let mut t = String::from("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
    let kb = |pages: u64| pages * (PAGE_SIZE / 1024);
    let Some(all) = swap::get() else { return t };
    let (max, held, _) = all.pool();
    if max != 0 {
        let _ = writeln!(t, "{:<40}memory\t\t{}\t\t{}\t\t32767", "pool", max / 1024, held / 1024);
    }
    for (_, area) in all.in_order() {
        let (size, used) = area.pages();
        let name = format!("/dev/{}", area.disk().name());
        let _ = writeln!(t, "{name:<40}partition\t{}\t\t{}\t\t{}", kb(size), kb(used), area.priority());
    }
    t
}

fn meminfo() -> String {
    let s = the_vm().statistics();
    let (swap_total, swap_free) = swap::total().unwrap_or_default();
    let kb = |pages: u64| pages * (PAGE_SIZE / 1024);
    let free = s.frame_limit.saturating_sub(s.frames_resident);
    let mut t = String::new();
    let lines = [
        ("MemTotal:", kb(s.frame_limit)),
        ("MemFree:", kb(free)),
        ("MemAvailable:", kb(free)),
        ("Buffers:", 0),
        ("Cached:", 0),
        ("SwapCached:", 0),
        ("Active:", kb(s.active)),
        ("Inactive:", kb(s.inactive + s.laundry)),
        ("Unevictable:", 0),
        ("Mlocked:", 0),
        ("SwapTotal:", kb(swap_total)),
        ("SwapFree:", kb(swap_free)),
        ("Dirty:", 0),
        ("Writeback:", 0),
        ("AnonPages:", kb(s.active + s.inactive + s.laundry)),
        ("Mapped:", 0),
        ("Shmem:", 0),
        ("Slab:", s.own_bytes / 1024),
        ("PageTables:", kb(s.frames_taken)),
        ("CommitLimit:", kb(s.frame_limit)),
        ("Committed_AS:", kb(s.frames_resident)),
        ("VmallocTotal:", 34_359_738_367),
        ("HugePages_Total:", 0),
        ("HugePages_Free:", 0),
        ("Hugepagesize:", 2048),
    ];
    for (name, n) in lines {
        let unit = if name.starts_with("HugePages_") { "" } else { " kB" };
        let _ = writeln!(t, "{name:<16}{n:>8}{unit}");
    }
    t
}

fn stat(hundredths: u64) -> String {
    let mut t = String::new();
    let cpus = sched::online().count_ones();
    let _ = writeln!(t, "cpu  0 0 {hundredths} 0 0 0 0 0 0 0");
    for i in 0..cpus {
        let _ = writeln!(t, "cpu{i} 0 0 {hundredths} 0 0 0 0 0 0 0");
    }
    let boot = fs::real_time_ns().saturating_sub(arch::now_ns()) / 1_000_000_000;
    let n = crate::process::numbers().len();
    let _ = writeln!(t, "intr 0\nctxt 0\nbtime {boot}\nprocesses {n}\nprocs_running 1\nprocs_blocked 0");
    t
}

fn vmstat() -> String {
    let s = the_vm().statistics();
    let free = s.frame_limit.saturating_sub(s.frames_resident);
    format!(
        "nr_free_pages {free}\nnr_active_anon {}\nnr_inactive_anon {}\npgfault {}\npswpin {}\npswpout {}\noom_kill {}\n",
        s.active, s.inactive, s.faults, s.swapins, s.swapouts, s.oom_victims
    )
}

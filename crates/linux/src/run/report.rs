//! What `--stats` and `--maps` print.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use machvm::map::{EntryInfo, Kind};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot};

use super::vmspace::VmSpace;

fn kib(pages: u64) -> u64 {
    pages * PAGE_SIZE / 1024
}

/// A table in the manner of `vmstat -s`: a number and what it counts.
pub(super) fn stats(space: &VmSpace) -> String {
    let s = space.vm.statistics();
    let f = &space.faults;
    let mut t = String::from("machvm statistics\n");
    let mut line = |n: u64, what: &str| {
        let _ = writeln!(t, "{n:>14} {what}");
    };
    let (reads, writes, protected) =
        (f.reads.load(Relaxed), f.writes.load(Relaxed), f.protected.load(Relaxed));
    line(reads + writes + protected, "page faults");
    line(reads, "  by reads of absent pages");
    line(writes, "  by writes to absent pages");
    line(protected, "  by writes to protected pages");
    line(f.denied.load(Relaxed), "  denied");
    line(space.lost.errors(), "memory errors: pages that could not be had");
    line(s.zero_fill, "pages filled with zero");
    line(s.mapped, "pages entered");
    line(s.cow_copies, "pages copied on write");
    line(s.pageins, "pages read from files");
    line(s.swapins, "pages read from swap (page-ins)");
    line(s.swapouts, "pages written to swap (page-outs)");
    line(s.dropped, "clean pages dropped");
    line(s.deactivated, "pages set aside");
    line(s.reactivated, "  and used again in time");
    line(s.memory_waits, "faults that found no free frame");
    match space.options.memory {
        Some(_) => line(kib(s.frame_limit), "KiB limit of resident memory"),
        None => line(0, "limit of resident memory (none)"),
    }
    line(kib(s.frames_peak), "KiB resident at most");
    line(kib(s.frames_resident), "KiB resident now");
    if space.options.memory.is_some() {
        line(kib(s.frame_limit.saturating_sub(s.frames_resident)), "KiB free");
        line(kib(s.frame_low), "KiB free wake the page daemon");
        line(kib(s.frame_target), "KiB free are its target");
    }
    match space.platform().tiers() {
        Some(tiers) => t += &super::swap::stats(tiers),
        None => {
            let _ = writeln!(t, "{:>14} swap", "no");
        }
    }
    let mut line = |n: u64, what: &str| {
        let _ = writeln!(t, "{n:>14} {what}");
    };
    line(s.map_entries, "map entries");
    line(space.platform().pv().vmas().0, "Linux mappings they need at most");
    line(f.busy_ns.load(Relaxed) / 1_000, "microseconds serving faults");
    line(u64::from(f.moves.load(Relaxed)), "moves of the fault thread to another CPU");
    line((s.own_bytes + space.platform().pv().table_bytes() as u64) / 1024, "KiB of the VM's own structures");
    t += &space.lost.table();
    t
}

/// A table in the manner of `procstat -v`: one line for each entry.
pub(super) fn maps(space: &VmSpace) -> String {
    let mut t = String::from("           start              end prt max inh kind    wired      KiB\n");
    let mut entry = |e: EntryInfo| {
        let a = e.attributes;
        let _ = writeln!(
            t,
            "{:>16x} {:>16x} {} {} {} {:<7} {:>5} {:>8}",
            e.range.start().get(),
            e.range.end().get(),
            rights(a.prot),
            rights(a.max),
            match a.inherit {
                machvm::map::Inherit::Share => "shr",
                machvm::map::Inherit::Copy => "cpy",
                machvm::map::Inherit::None => "non",
                machvm::map::Inherit::Zero => "zer",
            },
            match e.kind {
                Kind::Object => "ours",
                Kind::Guard => "guard",
                Kind::StackGap => "gap",
                Kind::Foreign => "foreign",
                Kind::Submap => "submap",
            },
            e.wired,
            e.range.bytes() / 1024,
        );
    };
    space.map.for_each_entry(&mut entry, &mut MaySleep::claim());
    t
}

fn rights(p: Prot) -> String {
    [(Prot::R, 'r'), (Prot::W, 'w'), (Prot::X, 'x')]
        .map(|(bit, c)| if p.contains(bit) { c } else { '-' })
        .iter()
        .collect()
}

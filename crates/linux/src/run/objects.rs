//! What `machvm objects` prints: the objects of the program's memory, and the pagers.

use std::collections::BTreeMap;
use std::fmt::Write;

use machvm::map::{Detail, Kind};
use machvm_hal::{MaySleep, PAGE_SIZE, RawAddr, Va};
use machvm_pagers::Tier;

use super::swap;
use super::vmspace::VmSpace;

/// What the program has mapped of one object.
#[derive(Default)]
struct Row {
    kind: &'static str,
    references: u32,
    entries: u64,
    pages: u64,
    resident: u64,
    dirty: u64,
    swapped: u64,
}

fn kib(pages: u64) -> u64 {
    pages * PAGE_SIZE / 1024
}

/// Objects in the order of their numbers, then pagers. Each entry of the map is looked at in
/// turn, so a program that runs may have changed what was looked at before.
pub(super) fn table(space: &VmSpace) -> String {
    let rows = rows(space);
    let mut t = String::from("  object kind       refs entries      KiB resident    dirty   paged out\n");
    let mut sum = Row::default();
    for (number, r) in &rows {
        line(&mut t, &format!("{number:>8} {:<9}", r.kind), r);
        sum.entries += r.entries;
        sum.references += r.references;
        sum.pages += r.pages;
        sum.resident += r.resident;
        sum.dirty += r.dirty;
        sum.swapped += r.swapped;
    }
    line(&mut t, &format!("{:>8} {:<9}", rows.len(), "in all"), &sum);
    t += &pagers();
    t += &space.lost.table();
    t
}

fn line(t: &mut String, what: &str, r: &Row) {
    let _ = writeln!(
        t,
        "{what} {:>5} {:>7} {:>8} {:>8} {:>8} {:>11}",
        r.references,
        r.entries,
        kib(r.pages),
        kib(r.resident),
        kib(r.dirty),
        kib(r.swapped)
    );
}

fn rows(space: &VmSpace) -> BTreeMap<u32, Row> {
    let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
    let mut may = MaySleep::claim();
    let mut at = Va::containing(RawAddr(0));
    loop {
        let facts = {
            // A fork waits for one entry at most.
            let _inside = space.enter();
            space.map.region_from(at, Detail::Pages, &mut may)
        };
        let Some(f) = facts else { return rows };
        at = f.entry.range.end();
        let (Kind::Object, Some(object)) = (f.entry.kind, f.entry.object) else { continue };
        let r = rows.entry(object.get()).or_default();
        r.kind = if f.external { "file" } else { "anonymous" };
        r.references = f.references;
        r.entries += 1;
        r.pages += f.entry.range.pages();
        r.resident += f.pages.resident;
        r.dirty += f.pages.dirty;
        r.swapped += f.pages.swapped;
    }
}

/// The external pagers that have pages, and how they behave.
fn pagers() -> String {
    let mut t = String::new();
    for pager in swap::pagers() {
        let (s, c) = (pager.stats(), pager.client().stats());
        let state = if pager.client().is_connected() { "connected" } else { "NOT CONNECTED" };
        let _ = writeln!(t, "\npager {}: {state}", pager.name());
        for (n, what) in [
            (kib(s.pages), "KiB there now"),
            (kib(s.capacity), "KiB at most"),
            (s.puts, "pages written"),
            (s.gets, "pages read"),
            (s.errors[0], "writes that failed"),
            (s.errors[1], "reads that failed"),
            (s.damaged, "pages found damaged"),
            (c.requests, "requests"),
            (c.pending, "requests that wait"),
            (c.timeouts, "requests not answered in time"),
            (c.late, "answers after that"),
            (c.stray, "answers to nothing"),
            (c.misfits, "answers to something else"),
            (c.garbage, "connections ended for what came over them"),
            (c.connections, "connections made"),
        ] {
            let _ = writeln!(t, "{n:>14} {what}");
        }
    }
    t
}

//! Before a fork: what the child is to share moves where both can have it.
//!
//! The object of such memory gets frames in a file that the child inherits, whoever maps
//! it: other ranges, tasks and memory entries that share it go on doing so. It stays there
//! from then on, so that a second fork finds nothing to do.

use std::io;
use std::os::fd::AsRawFd;

use machvm::Platform;
use machvm::map::{Detail, EntryFlags, EntryInfo, Inherit, Kind, Need, Place, Take};
use machvm::object::Home;
use machvm_hal::{MaySleep, PAGE_SIZE, Pfn, Prot, Va};

use super::copy::{each_data, write_all};
use super::pager::COMMONS;
use crate::library::Shared;
use crate::library::platform::Hosted;
use crate::library::task::{Core, Tasks};

/// Is the memory of the entry common already?
pub(super) fn common(vm: &machvm::Vm<Hosted>, e: &EntryInfo, may: &mut MaySleep) -> bool {
    e.object.and_then(|o| vm.object_home(o, may)).is_some_and(|home| home.pager == COMMONS)
}

/// The entries of a map.
pub(super) fn entries(core: &Core, may: &mut MaySleep) -> Vec<EntryInfo> {
    let mut all = Vec::new();
    core.map().for_each_entry(|e| all.push(e), may);
    all
}

/// Makes everything common that the process's own task lets a child share.
///
/// => inside the closed gate.
pub(super) fn lend(shared: &Shared) -> Result<(), String> {
    let tasks = shared.tasks();
    let Some(own) = tasks.own() else { return Ok(()) };
    let (vm, may) = (&shared.vm, &mut MaySleep::claim());
    let wanted = |e: &EntryInfo, may: &mut MaySleep| {
        let memory = e.kind == Kind::Object && e.attributes.inherit == Inherit::Share;
        // What goes back to a pager of the program's stays there.
        memory && e.object.is_some_and(|o| vm.object_home(o, may).is_none_or(|home| !home.written_back))
    };
    let all: Vec<_> = entries(own, may).into_iter().filter(|e| wanted(e, may)).collect();
    if all.is_empty() {
        return Ok(());
    }
    let commons = vm.platform().mem().commons();
    let file = commons.open().map_err(|e| format!("a file for shared memory: {e}"))?;
    let mut done = Ok(());
    for e in all {
        let Some(e) = own.map().entry_from(e.range.start(), may) else { continue };
        // An entry before it may have had the same object.
        if done.is_ok() && wanted(&e, may) {
            done = alone(own, &tasks, e, may).and_then(|e| rehome(shared, &tasks, &e, file, may));
        }
    }
    commons.close_unused(file);
    done
}

/// Memory that was allocated together with this and is not shared with it gets no new
/// home: the entry gets an object of its own, or if others share it they get one.
fn alone(own: &Core, tasks: &Tasks, e: EntryInfo, may: &mut MaySleep) -> Result<EntryInfo, String> {
    if e.flags.contains(EntryFlags::SHARED) {
        for t in tasks.all() {
            let private = |x: &EntryInfo| x.object == e.object && !x.flags.contains(EntryFlags::SHARED);
            for x in entries(t, may).iter().filter(|x| private(x) && x.wired == 0) {
                replace_by_copy(t, x, may)?;
            }
        }
        return Ok(e);
    }
    let facts = own.map().region_from(e.range.start(), Detail::Short, may);
    let part_of_more = facts.is_some_and(|f| f.references > 1);
    if !part_of_more || e.wired != 0 {
        return Ok(e);
    }
    replace_by_copy(own, &e, may)?;
    own.map().entry_from(e.range.start(), may).ok_or_else(|| "a region went away".into())
}

/// The entry gets a copy-on-write copy of its object, and keeps its attributes.
pub(super) fn replace_by_copy(own: &Core, e: &EntryInfo, may: &mut MaySleep) -> Result<(), String> {
    let need = Need { prot: Prot::NONE, max: Prot::NONE };
    let failed = |at: Va, why: &dyn core::fmt::Debug| format!("copying the region at {at:?}: {why:?}");
    let start = e.range.start();
    let taken = own.map().extract(e.range, Take::Copy, need, may);
    let mut pieces = taken.map_err(|e| failed(start, &e))?.pieces;
    let placed = own.map().copyout(Place::Over(start), &mut pieces, |a| a, may);
    placed.map(drop).map_err(|e| failed(start, &e))
}

fn rehome(
    shared: &Shared,
    tasks: &Tasks,
    e: &EntryInfo,
    file: usize,
    may: &mut MaySleep,
) -> Result<(), String> {
    let vm = &shared.vm;
    let commons = vm.platform().mem().commons();
    let Some(o) = e.object else { return Ok(()) };
    let to = commons.reserve(file, vm.object_capacity(o)).ok_or("a shared region is too large")?;
    if let Some(home) = vm.object_home(o, may)
        && let Err(why) = fetch(shared, home, to, vm.object_capacity(o))
    {
        commons.release(to);
        return Err(format!("the shared region at {:?}: {why}", e.range.start()));
    }
    tasks.all().for_each(|t| t.map().object_leave(o, may));
    let moved = vm.object_rehome(o, to, COMMONS, may);
    let mut back = Ok(());
    tasks.all().for_each(|t| back = back.and(t.map().object_return(o, may)));
    if moved.is_err() {
        commons.release(to);
    }
    let at = e.range.start();
    moved.map_err(|e| format!("the shared region at {at:?}: {e:?}"))?;
    back.map_err(|e| format!("the shared region at {at:?}: {e:?}"))
}

/// Brings what an object's pager has for it to its new frames, from `to` on.
fn fetch(shared: &Shared, home: Home, to: Pfn, pages: u64) -> io::Result<()> {
    let platform = shared.vm.platform();
    let (fd, first) = platform.mem().commons().locate(to).ok_or(io::ErrorKind::NotFound)?;
    let end = home.base.saturating_add(pages * PAGE_SIZE);
    let copied = platform.machine().with_file_pager(home.pager, |pager| {
        each_data(pager.file().as_raw_fd(), home.base, end, |at, data| {
            write_all(fd, at - home.base + first, data)
        })
    });
    copied.unwrap_or_else(|| Err(io::Error::other("its pager is the program's")))
}

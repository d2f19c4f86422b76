//! In the child of a fork: the VM becomes this process's own.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use machvm::Platform;
use machvm::map::{Attributes, Backing, EntryFlags, EntryInfo, Holes, Inherit, Kind, SetProt, Wiring};
use machvm_hal::{MaySleep, PAGE_SIZE, Pfn, Prot, VaRange};

use super::copy::{copy, each_data, runs};
use super::lend::{common, entries, replace_by_copy};
use crate::library::Shared;
use crate::library::task::Core;
use crate::phys::commons::is_common;

fn said(what: &str) -> impl Fn(&dyn core::fmt::Debug) -> String {
    let what = what.to_owned();
    move |why| format!("{what}: {why:?}")
}

/// Gives the process its own copy of the system.
///
/// => nobody else is in the process, and the parent waits.
pub(super) fn follow(shared: &Arc<Shared>) -> Result<(), String> {
    let (vm, may) = (&shared.vm, &mut MaySleep::claim());
    let (mem, pv) = (vm.platform().mem(), vm.platform().pmap_page());
    // From here on nothing that is done reaches the parent.
    let parents = mem.begin_anew().map_err(|e| format!("a file for physical memory: {e}"))?;
    pv.begin_anew(vm.page_array(), mem).map_err(|e| format!("a userfaultfd of its own: {e}"))?;
    {
        let tasks = shared.tasks();
        for other in tasks.others() {
            other.gone.store(true, Relaxed);
            empty(other, may)?;
        }
        if let Some(own) = tasks.own() {
            unwire(own, may);
            inherit(own, may)?;
        }
    }
    // Unlocked: they may drop tasks.
    let hooks = super::lock(&super::HOOKS).clone();
    hooks.iter().for_each(|hook| hook());
    let mut frames = Vec::new();
    vm.for_each_frame(|f| frames.extend((!is_common(f)).then_some(f)));
    let copied = copy(parents.as_raw_fd(), mem.fd().as_raw_fd(), &runs(frames));
    copied.map_err(|e| format!("copying memory: {e}"))?;
    drop(parents);
    if let Some(own) = shared.tasks().own() {
        own.map().pmap().map_regions().map_err(|_| "mapping the regions")?;
        separate(shared, own, may)?;
    }
    shared.restart_server().map_err(|e| format!("the thread that serves faults: {e}"))?;
    shared.restart_daemon().map_err(|e| format!("the page daemon: {e}"))
}

fn bounds(core: &Core) -> Option<VaRange> {
    VaRange::between(core.map().min(), core.map().max())
}

fn empty(core: &Core, may: &mut MaySleep) -> Result<(), String> {
    bounds(core).map_or(Ok(()), |all| core.map().delete(all, may)).map_err(|e| said("another task")(&e))
}

/// Wirings are not inherited.
fn unwire(own: &Core, may: &mut MaySleep) {
    let Some(all) = bounds(own) else { return };
    let _ = own.map().unwire(all, Wiring::User, Holes::Skip, may);
    // As often as something was wired most.
    while entries(own, may).iter().any(|e| e.wired != 0)
        && own.map().unwire(all, Wiring::System, Holes::Skip, may).is_ok()
    {}
}

/// Nothing stays of what is not inherited, and zeroes of what is inherited as zeroes.
fn inherit(own: &Core, may: &mut MaySleep) -> Result<(), String> {
    for e in entries(own, may) {
        let done = match (e.attributes.inherit, e.kind) {
            (Inherit::None, _) => own.map().delete(e.range, may).map_err(|e| said("deleting")(&e)),
            (Inherit::Zero, Kind::Object) => {
                let fresh = own.map().fixed(e.range, Backing::Anonymous, &e.attributes, may);
                fresh.map(drop).map_err(|e| said("zeroing")(&e))
            }
            _ => Ok(()),
        };
        done?;
    }
    Ok(())
}

/// What is inherited as a copy is shared with nobody: neither with the parent's family, nor
/// by two ranges of the task with one another.
fn separate(shared: &Shared, own: &Core, may: &mut MaySleep) -> Result<(), String> {
    let copied = |e: &EntryInfo| e.kind == Kind::Object && e.attributes.inherit == Inherit::Copy;
    let (from_family, private): (Vec<_>, Vec<_>) =
        entries(own, may).into_iter().filter(copied).partition(|e| common(&shared.vm, e, may));
    for e in &from_family {
        take_home(shared, own, e, may)?;
    }
    private
        .iter()
        .filter(|e| e.flags.contains(EntryFlags::SHARED))
        .try_for_each(|e| replace_by_copy(own, e, may))
}

/// The bytes of common memory, in an object of the task's own.
fn take_home(shared: &Shared, own: &Core, e: &EntryInfo, may: &mut MaySleep) -> Result<(), String> {
    let failed = said("copying what was shared");
    let Some(home) = e.object.and_then(|o| shared.vm.object_home(o, may)) else { return Ok(()) };
    let first = Pfn(home.base / PAGE_SIZE + e.offset.0);
    let Some((fd, from)) = shared.vm.platform().mem().commons().locate(first) else { return Ok(()) };
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if fd < 0 {
        return Err(failed(&std::io::Error::last_os_error()));
    }
    // Ours: the object may be the last that keeps the file.
    // SAFETY: the call made it for us alone.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let open = Attributes { prot: Prot::RW, max: Prot::ALL, ..e.attributes };
    own.map().fixed(e.range, Backing::Anonymous, &open, may).map_err(|e| failed(&e))?;
    each_data(file.as_raw_fd(), from, from + e.range.bytes(), |at, data| {
        for (i, page) in data.chunks(PAGE_SIZE as usize).enumerate() {
            let to = e.range.start().get() + (at - from) + i as u64 * PAGE_SIZE;
            own.map().write_in_page(to, page, may).map_err(|e| std::io::Error::other(format!("{e:?}")))?;
        }
        Ok(())
    })
    .map_err(|e| failed(&e))?;
    let set = SetProt { prot: Some(e.attributes.prot), max: Some(e.attributes.max), holes: Holes::Skip };
    own.map().protect(e.range, &set, may).map_err(|e| failed(&e))
}

//! The fault (F01), as a machine of steps.
//!
//! ```text
//!            +-- nothing at the address ----------------> NoMapping
//!            |-- a stack gap ---------------------------> Grow, again
//!  map, by --|-- rights do not allow -------------------> Protection
//!  try       |
//!            +-- object, by try -- slot -+- empty ------> fill: zero, or ask the pager -+
//!                                        |- on swap ----> read it back ----------------+-> again
//!                                        |- resident, shared and written: copy --------+
//!                                        +- resident ---> enter it and its neighbours -> done
//! ```
//!
//! [`Map::fault_step`] never sleeps and does no I/O: locks are taken by try, and what
//! must wait is returned. It never zeroes or copies under a lock: a page is put into
//! its slot busy, filled with every lock released, and the *next* step finds it
//! resident. So there is no state between steps: whatever changed meanwhile is
//! simply seen by the next one. [`Map::fault`] is the loop that sleeps and does the
//! I/O. That is what lets the same code run in a trap handler, a signal handler, a
//! handler thread and a deterministic test.
//!
//! Rejected: keeping the map read-locked across the fill (a writer would wait for
//! 10 us of zeroing and, behind it, every other fault); carrying the found page
//! across the unlock (it saves one lookup, about 2 % of a zero-fill, and needs every
//! condition checked twice).

mod cow;
mod device;
mod enter;
mod fill;
mod hold;
mod near;
mod own;
mod peek;
mod window;
mod wire;

use machvm_arena::Handle;
use machvm_hal::{Event, Host, MaySleep, PageIn, PagerError, Pmap, Prot, RawAddr, SwapError, Va};

pub use fill::SwapIn;
pub use hold::{Absent, Held, HeldPage, HoldError};

use crate::error::FaultError;
use crate::map::{Body, Kind, Map, Read, Seen};
use crate::object::{Object, ObjectFlags};
use crate::page::{self, FREE_EVENT, LIMBO_EVENT, Page};
use crate::pager::{self, Control, Unlock};
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// Most pages that one fault fills or enters.
pub const CLUSTER: usize = machvm_hal::MAX_CLUSTER;

/// What the hardware, or Linux, says happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address that was touched.
    pub addr: RawAddr,
    /// How: exactly one of [`Prot::R`], [`Prot::W`], [`Prot::X`].
    pub access: Prot,
}

/// What a fault is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// An access: the page is mapped.
    Access,
    /// As an access, to have contents in memory: there are none of a device's frames.
    Contents,
    /// The page shall be in memory and its object's alone ([`crate::object`]). Nothing is
    /// mapped, and the caller looks after rights.
    Own,
}

/// What a fault waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// The map lock.
    Map,
    /// The lock of a submap.
    Submap(Handle<Body>),
    /// The lock of an object.
    Object(Handle<Object>),
    /// A busy page.
    Page(Handle<Page>),
    /// A free frame.
    Memory,
    /// Frames whose last user is just letting go.
    Limbo,
    /// What a pager has to say of its object, after the version that was seen.
    Pager(Handle<Control>, u32),
}

/// What to do next.
#[derive(Debug)]
pub enum Step<'a> {
    /// The page is entered: retry the access.
    Done,
    /// Something was done: step again.
    Again,
    /// Sleep on this with nothing locked, then step again.
    Wait(WaitFor),
    /// The address is in a stack gap: grow the stack, then step again.
    Grow,
    /// The address is in a submap that changed: tell the machine, then step again.
    Submap,
    /// Hand this to the pager named, then step again.
    PageIn(crate::platform::PagerId, PageIn<'a>),
    /// Ask for this ([`Vm::ask_unlock`]), then step again.
    Unlock(Unlock),
    /// Carry out this read from swap, then step again.
    SwapIn(SwapIn),
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// Resolves one fault (F01). Of a thread that switched its faults off none is, at once
    /// (F10): `Protection`.
    ///
    /// => nothing is locked and no managed memory is touched with a lock held.
    ///
    /// # Errors
    /// [`FaultError`], with the page's address.
    pub fn fault(&self, f: &Fault, may: &mut MaySleep) -> Result<(), FaultError> {
        self.fault_for(f, Purpose::Access, may)
    }

    pub(crate) fn fault_for(
        &self,
        f: &Fault,
        purpose: Purpose,
        may: &mut MaySleep,
    ) -> Result<(), FaultError> {
        let vm = self.vm();
        if vm.host().faults_disabled() {
            return Err(FaultError::Protection(Va::containing(f.addr)));
        }
        bump(&vm.stats.faults, 1);
        for _ in 0..OOM_ROUNDS {
            match self.fault_steps(f, purpose, may) {
                // A task is being ended: its memory will come (D10).
                Err(FaultError::NoMemory(_)) if vm.wait_relief(may) => {}
                done => return done,
            }
        }
        Err(FaultError::NoMemory(Va::containing(f.addr)))
    }

    /// Steps until it is done, or it failed.
    fn fault_steps(&self, f: &Fault, purpose: Purpose, may: &mut MaySleep) -> Result<(), FaultError> {
        let vm = self.vm();
        let (mut starved, mut waits) = (0, 0);
        loop {
            match self.step_for(f, purpose)? {
                Step::Done => return Ok(()),
                Step::Again => {}
                Step::Wait(WaitFor::Memory) => {
                    if vm.is_exhausted() {
                        return Err(FaultError::NoMemory(Va::containing(f.addr)));
                    }
                    waits += 1;
                    starved = if vm.make_room(may) { 0 } else { starved + 1 };
                    // Not one frame in four rounds; or frames, but the platform gives
                    // no memory for structures.
                    if starved > 3 || waits > MEMORY_WAITS {
                        return Err(FaultError::NoMemory(Va::containing(f.addr)));
                    }
                }
                Step::Wait(w) => self.fault_wait(w, may),
                Step::Grow => {
                    let va = Va::containing(f.addr);
                    self.growstack(va, may).map_err(|_| FaultError::NoMapping(va))?;
                }
                Step::Submap => self.make_view_regions(Va::containing(f.addr), may)?,
                Step::PageIn(id, req) => match vm.plat.pager(id) {
                    Some(p) => p.page_in(req),
                    None => req.failed(0, PagerError::Gone),
                },
                Step::Unlock(u) => vm.ask_unlock(&u, Va::containing(f.addr))?,
                Step::SwapIn(s) => {
                    vm.swap_in(s, Va::containing(f.addr))?;
                    if vm.is_exhausted() {
                        return Err(FaultError::NoMemory(Va::containing(f.addr)));
                    }
                }
            }
        }
    }

    /// Sleeps for what a step named; returns at once when that is over already.
    pub fn fault_wait(&self, w: WaitFor, _may: &mut MaySleep) {
        machvm_sync::assert_may_sleep();
        let vm = self.vm();
        let event: Event = match w {
            WaitFor::Map => self.lock_word().event(),
            WaitFor::Submap(b) => vm.bodies.get(b).lock_word().event(),
            WaitFor::Object(o) => vm.objects.get(o).lock.event(),
            WaitFor::Page(p) => page::event(p),
            WaitFor::Memory => FREE_EVENT,
            WaitFor::Limbo => LIMBO_EVENT,
            WaitFor::Pager(c, _) => pager::event(c),
        };
        let host = vm.plat.host();
        // First into the queue, then look: a wake-up in between is not lost.
        let ticket = host.assert_wait(event);
        let wait = match w {
            WaitFor::Map => self.lock_word().arm_read(),
            WaitFor::Submap(b) => vm.bodies.get(b).lock_word().arm_read(),
            WaitFor::Object(o) => vm.objects.get(o).lock.arm_wait(),
            WaitFor::Page(p) => vm.pages.get(p).busy.mark_waiting(),
            WaitFor::Memory => vm.frames_mark_waiting(),
            WaitFor::Limbo => !vm.limbo_is_empty(),
            WaitFor::Pager(c, version) => vm.controls.get(c).version() == version,
        };
        if wait {
            host.thread_block(ticket, Some(host.now_ns() + WAIT_LIMIT_NS));
        } else {
            host.cancel_wait(ticket);
        }
    }

    /// One step; see the module text.
    ///
    /// => nothing is locked, on entry and on return.
    ///
    /// # Errors
    /// [`FaultError`]; nothing changed.
    pub fn fault_step(&self, f: &Fault) -> Result<Step<'vm>, FaultError> {
        self.step_for(f, Purpose::Access)
    }

    fn step_for(&self, f: &Fault, purpose: Purpose) -> Result<Step<'vm>, FaultError> {
        let vm = self.vm();
        let host = vm.plat.host();
        let va = Va::containing(f.addr);
        let Some(inner) = self.lock_word().try_read(host) else {
            return Ok(Step::Wait(WaitFor::Map));
        };
        let seen = match self.try_see(&inner, va) {
            Ok(Some(seen)) => seen,
            Ok(None) => return Err(FaultError::NoMapping(va)),
            Err(body) => return Ok(Step::Wait(WaitFor::Submap(body))),
        };
        let entry = seen.entry;
        match entry.kind() {
            Kind::Object => {}
            // Limits belong to who runs on the map: nobody runs on a submap (Z33).
            Kind::StackGap if seen.view.is_none() => return Ok(Step::Grow),
            Kind::Guard | Kind::StackGap | Kind::Submap => return Err(FaultError::Protection(va)),
            Kind::Foreign => return Err(FaultError::Foreign(va)),
        }
        if purpose != Purpose::Own && !entry.prot().hardware().contains(f.access) {
            return Err(FaultError::Protection(va));
        }
        let Some(oh) = entry.object.get() else {
            return Err(FaultError::NoMapping(va));
        };
        if seen.is_stale() && self.pmap().has_regions() {
            return Ok(Step::Submap);
        }
        let Some(object) = vm.objects.get(oh).lock.try_write(host) else {
            return Ok(Step::Wait(WaitFor::Object(oh)));
        };
        let at = Place::of(&seen, va, oh, (f.access, purpose));
        if vm.objects.get(oh).flags().contains(ObjectFlags::DEVICE) {
            let source = object.source;
            drop(object);
            return self.enter_device(&at, source);
        }
        let inner = MapGuard { _map: inner, submap: seen.view.map(|(_, submap)| submap) };
        let (anon, shared) = vm.tree_lookup(&object.tree, at.index);
        let Some(anon) = anon else {
            return self.fill(&at, inner, object);
        };
        let slot = vm.anons.get(anon);
        match (slot.page(), slot.swap()) {
            (Some(page), _) => match vm.anon_busy_page(anon, page) {
                Ok(()) => self.resident(&at, anon, page, shared, inner, object),
                Err(Some(busy)) => Ok(Step::Wait(WaitFor::Page(busy))),
                Err(None) => Ok(Step::Again),
            },
            (None, Some(_)) => Ok(self.start_swap_in(&at, anon, inner, object)),
            (None, None) => self.refill(&at, anon, inner, object),
        }
    }
}

/// How often a fault starts anew because a task is being ended for its memory; each time it
/// waits for seconds before it fails again.
const OOM_ROUNDS: u32 = 8;

/// Rounds of making room in one fault; other threads may take what was freed.
const MEMORY_WAITS: u32 = 10_000;

/// A bound on one sleep. Every wait is woken by an event; this only turns a lost
/// wake-up into a delay.
const WAIT_LIMIT_NS: u64 = 50_000_000;

/// Where a fault is.
pub(crate) struct Place<'a> {
    pub(crate) va: Va,
    /// Bounds of the entry where the fault is seen: in a submap other addresses than the
    /// entry's own, and only what the view shows.
    pub(crate) start: Va,
    pub(crate) end: Va,
    pub(crate) entry: &'a crate::map::Entry,
    pub(crate) object: Handle<Object>,
    pub(crate) index: u64,
    pub(crate) access: Prot,
    pub(crate) purpose: Purpose,
}

impl<'a> Place<'a> {
    fn of<P: Platform>(
        seen: &Seen<'a, P>,
        va: Va,
        object: Handle<Object>,
        (access, purpose): (Prot, Purpose),
    ) -> Self {
        let (start, end, entry) = (seen.start, seen.end, seen.entry);
        Place { va, start, end, entry, object, index: seen.pindex(va), access, purpose }
    }
}

/// What keeps the entry of a fault as it is: its map's lock, and that of the map in which
/// the fault is if it shows the other.
pub(crate) struct MapGuard<'a, P: Platform> {
    _map: Read<'a, P>,
    submap: Option<Read<'a, P>>,
}

impl<P: Platform> MapGuard<'_, P> {
    /// The entry is the map's own, not one that a submap shows here and elsewhere.
    pub(super) fn is_direct(&self) -> bool {
        self.submap.is_none()
    }
}

impl<P: Platform> Vm<P> {
    /// Carries out a read from swap that a step asked for at `va`.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`FaultError::PagerIo`]: swap lost the contents. [`FaultError::NoMemory`]: the
    /// machine has no memory.
    pub fn swap_in(&self, s: SwapIn, va: Va) -> Result<(), FaultError> {
        self.swap_in_run(s).map_err(|e| match e {
            SwapError::Lost => FaultError::PagerIo(va),
            SwapError::Full => FaultError::NoMemory(va),
        })
    }
}

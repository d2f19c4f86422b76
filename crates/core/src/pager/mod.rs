//! Memory objects: objects whose pager has a say (the external memory management interface).
//!
//! An object that [`Vm::memory_object`] makes is *the* memory object of its pager: whoever maps
//! that pager's data maps this object, and the pager knows it by a [`ControlId`]. A [`Control`]
//! keeps what concerns the pager: is the object ready, may it be kept, how is it copied, which
//! pages wait for an answer. The calls of the pager are [`ObjectControl`](machvm_hal::ObjectControl),
//! which a [`Vm`] implements (`calls.rs`).
//!
//! ```text
//!            memory_object          last reference goes
//!  (nothing) -------------> in use ---------------------> kept (may_cache) --trimmed--+
//!               init           |  <---------------------     |                        |
//!                              |        memory_object        | attributes: not cached  |
//!                              +--------- not may_cache -----+------------------------+
//!                              |                                                      v
//!                              +-- destroy --> dead: faults fail          ended: terminated
//! ```
//!
//! A request that a pager answers later waits in its control (`pending.rs`): the pages keep their
//! frames to themselves, so a pager that never answers holds up nobody but those who need the
//! data, and what is unmapped meanwhile is freed at once. Copies are in `copies.rs`, page locks
//! and lock requests in `lock.rs`, pages on their way back in `give.rs`.
//!
//! Not here: who may send a pager's calls, deadlines, and the wire, which belong to the
//! embedder's pager.

mod calls;
mod copies;
mod give;
mod life;
mod lock;
mod pending;

use core::num::{NonZeroU32, NonZeroU64};
use core::sync::atomic::Ordering::{Acquire, Release};

use machvm_arena::{Handle, HandleField};
use machvm_hal::{Attributes, ControlId, CopyStrategy, Event, Host, MaySleep};
use machvm_sync::{Field32, Field64, Rank, Spin};

use crate::object::Object;
use crate::page::Page;
use crate::platform::{PagerId, Platform};
use crate::vm::Vm;

pub use give::ReturnRun;
pub use lock::Unlock;

bitflags::bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct State: u32 {
        /// Requests may be sent.
        const READY = 1;
        /// It may be kept when nobody uses it.
        const MAY_CACHE = 2;
        /// Nobody uses it, and it is kept.
        const CACHED = 4;
        /// Its pager is being told that it has no users; who wants it waits.
        const BUSY = 8;
        /// Destroyed: it has no pager any more.
        const DEAD = 0x10;
        /// Its pager knows that it has users.
        const NAMED = 0x20;
        /// Nothing needs to be written back when it ends.
        const TEMPORARY = 0x40;
        /// Its pager is to be told of copies.
        const COPIED = 0x80;
    }
}

/// The pager's side of a memory object. Type-stable; the generation tells uses apart.
///
/// Letters: \[T\] the lock of the table, \[a\] atomic, \[I\] constant while in use.
#[derive(Debug, Default)]
pub struct Control {
    /// One more with every end of a use. \[T\] to write
    generation: Field32,
    /// Changes when faults that wait for the pager should look again. \[a\]
    version: Field32,
    /// [`State`]. \[T\] to write
    state: Field32,
    /// [`CopyStrategy`], by number. \[T\]
    copy: Field32,
    /// The object. \[I\]
    object: HandleField<Object>,
    /// The pager. \[I\]
    pager: Field32,
    /// Next in its chain of the table. \[T\]
    next: HandleField<Control>,
    /// Next and previous of those kept. \[T\]
    newer: HandleField<Control>,
    older: HandleField<Control>,
    /// The first page that waits for an answer. \[T\]
    pending: HandleField<Page>,
    /// What was copied since its pager was told: the first byte, and the one behind it. \[T\]
    copied: [Field64; 2],
}

impl Control {
    pub(crate) fn state(&self) -> State {
        State::from_bits_truncate(self.state.atomic().load(Acquire))
    }
    fn set_state(&self, s: State) {
        self.state.atomic().store(s.bits(), Release);
    }
    fn attributes(&self) -> Attributes {
        let copy = match self.copy.get() {
            0 => CopyStrategy::None,
            1 => CopyStrategy::Call,
            2 => CopyStrategy::Delay,
            3 => CopyStrategy::Temporary,
            _ => CopyStrategy::Symmetric,
        };
        Attributes { may_cache: self.state().contains(State::MAY_CACHE), copy }
    }
    fn set_attributes(&self, a: Attributes) {
        self.copy.set(a.copy as u32);
        let temporary = matches!(a.copy, CopyStrategy::Temporary | CopyStrategy::Symmetric);
        let mut s = self.state();
        s.set(State::MAY_CACHE, a.may_cache);
        s.set(State::TEMPORARY, temporary);
        self.set_state(s);
    }
    fn pager_id(&self) -> Option<PagerId> {
        NonZeroU32::new(self.pager.get()).map(PagerId)
    }
    pub(crate) fn version(&self) -> u32 {
        self.version.atomic().load(Acquire)
    }
}

const CHAINS: usize = 64;

/// Pages that a memory object has room for at least (1 GiB).
const ROOM: u64 = 1 << 18;

/// Kept objects at most, until [`Vm::set_object_cache`].
const KEPT: u64 = 1024;

/// All memory objects of a `Vm`, by pager.
#[derive(Debug)]
pub(crate) struct Table {
    chains: [Option<Handle<Control>>; CHAINS],
    oldest: Option<Handle<Control>>,
    newest: Option<Handle<Control>>,
    kept: u64,
    limit: u64,
}

impl Table {
    pub(crate) fn new() -> Spin<Self> {
        let chains = [None; CHAINS];
        Spin::new(Rank::PagerTable, Table { chains, oldest: None, newest: None, kept: 0, limit: KEPT })
    }
}

/// What a thread that waits for a pager waits for.
pub(crate) fn event(c: Handle<Control>) -> Event {
    Event((5 << 60) | u64::from(c.get()))
}

impl<P: Platform> Vm<P> {
    /// The name of a control in use now.
    fn control_id(&self, c: Handle<Control>) -> ControlId {
        let generation = u64::from(self.controls.get(c).generation.get());
        ControlId(NonZeroU64::new(generation << 32 | u64::from(c.get())).unwrap_or(NonZeroU64::MIN))
    }

    /// The control that a name may be of; its generation is to be compared under the table's
    /// lock.
    fn control_named(&self, id: ControlId) -> Option<Handle<Control>> {
        let raw = NonZeroU32::new(id.0.get() as u32)?;
        self.controls.lookup(raw.get()).map(|_| Handle::from_raw(raw))
    }

    /// What pagers know the object by. `None`: it is no memory object, or it was destroyed.
    ///
    /// => the caller has a reference.
    pub fn memory_object_control(&self, object: Handle<Object>) -> Option<ControlId> {
        let c = self.objects.get(object).control.get()?;
        let _table = self.memory_objects.lock();
        (!self.controls.get(c).state().contains(State::DEAD)).then(|| self.control_id(c))
    }

    /// The control of the memory object that an object's absent contents come from: its own, or
    /// that of the object it is a copy of.
    ///
    /// => the caller has a reference to the object, or a lock that keeps it.
    pub(crate) fn control_behind(&self, object: Handle<Object>) -> Option<Handle<Control>> {
        let object = self.objects.get(object);
        let original = object.below.get().map(|o| self.objects.get(o));
        original.unwrap_or(object).control.get()
    }

    /// As [`Vm::control_behind`], by name, for requests.
    pub(crate) fn control_id_behind(&self, object: Handle<Object>) -> Option<ControlId> {
        self.control_behind(object).map(|c| self.control_id(c))
    }

    /// Whoever waits for the pager looks again.
    fn control_changed(&self, c: Handle<Control>) {
        self.controls.get(c).version.atomic().fetch_add(1, Release);
        self.host().thread_wakeup(event(c));
    }

    /// Sleeps until [`Vm::control_changed`] after `version` was read, or a moment.
    fn control_wait(&self, c: Handle<Control>, version: u32, _may: &mut MaySleep) {
        machvm_sync::assert_may_sleep();
        let host = self.host();
        let t = host.assert_wait(event(c));
        if self.controls.get(c).version() == version {
            host.thread_block(t, Some(host.now_ns() + 10_000_000));
        } else {
            host.cancel_wait(t);
        }
    }
}

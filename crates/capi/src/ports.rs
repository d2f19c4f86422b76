//! Port names: what a `mach_port_t` of this process stands for.
//!
//! A name is a number; what it names is kept here with the user's count of references.
//! Names are given out once per process and are not used again for something else until
//! 2^24 others were, so that a name that is kept too long means nothing rather than
//! something else.
//!
//! Every right is a send right, or what is left of one: a dead name. What loses its last
//! name ends: a memory entry lets its memory go, and a task that is not this process its
//! address space (it has no threads that would go on). The names of the process's task and
//! of the host cannot be lost.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem::ManuallyDrop;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use machvm::task::MemoryEntry;
use machvm_linux::Task;
use machvm_linux::library::Hosted;

use crate::types::mach_port_t;
use crate::world::world;

/// `MACH_PORT_NULL`.
pub const NULL: mach_port_t = 0;
/// `MACH_PORT_DEAD`.
pub const DEAD: mach_port_t = !0;
/// `mach_task_self()`. Fixed, so that it is good before the first call.
pub const TASK_SELF: mach_port_t = 0x203;
/// `mach_host_self()`.
pub const HOST: mach_port_t = 0x303;
/// The privileged host port.
pub const HOST_PRIV: mach_port_t = 0x403;
/// The first name that is given out.
const FIRST: mach_port_t = 0x1003;
/// Names differ by this, as on Mach: the low bits are a generation there.
const STEP: mach_port_t = 0x100;
/// `MACH_PORT_UREFS_MAX`: the most references that one name counts.
pub const MOST_REFS: u32 = 0xffff;

/// A task, its inheritance for `fork` apart: see `world.rs`.
pub struct TaskPort {
    /// The address space.
    pub task: Task,
    /// Is it this process's own?
    pub own: bool,
}

/// A memory entry as a port. It is given up inside the VM, wherever the last name or the
/// last call that uses it ends.
pub struct EntryPort(ManuallyDrop<MemoryEntry<'static, Hosted>>);

impl EntryPort {
    /// => the entry is of this process's VM.
    pub(crate) fn new(entry: MemoryEntry<'static, Hosted>) -> Arc<Self> {
        Arc::new(EntryPort(ManuallyDrop::new(entry)))
    }
    /// The entry.
    pub fn get(&self) -> &MemoryEntry<'static, Hosted> {
        &self.0
    }
}

impl Drop for EntryPort {
    fn drop(&mut self) {
        // Where the VM cannot be entered the memory is another process's.
        if let Some(_inside) = world().inside() {
            // SAFETY: dropped here only.
            unsafe { ManuallyDrop::drop(&mut self.0) }
        }
    }
}

/// What a name stands for.
#[derive(Clone)]
pub enum Right {
    /// `task_t`, `vm_map_t`.
    Task(Arc<TaskPort>),
    /// A memory entry (`mem_entry_name_port_t`).
    Entry(Arc<EntryPort>),
    /// `host_t`.
    Host,
    /// `host_priv_t`.
    HostPriv,
    /// Nothing any more: a dead name.
    Dead,
}

/// `MACH_PORT_RIGHT_*`, as far as names here can be them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `MACH_PORT_RIGHT_SEND`.
    Send,
    /// `MACH_PORT_RIGHT_DEAD_NAME`.
    DeadName,
}

impl Right {
    /// What kind of right it is.
    pub fn kind(&self) -> Kind {
        if matches!(self, Right::Dead) { Kind::DeadName } else { Kind::Send }
    }
}

/// Why a count of references stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefsError {
    /// No such name.
    Name,
    /// The name stands for another kind of right.
    Kind,
    /// The count would fall below 0.
    Below,
    /// The count would pass [`MOST_REFS`].
    Above,
}

/// The names.
#[derive(Default)]
pub struct Ports {
    table: RwLock<Table>,
}

/// Nobody else gets at the names while this is kept.
pub(crate) struct Held<'a>(#[expect(dead_code, reason = "kept for its end")] RwLockWriteGuard<'a, Table>);

#[derive(Default)]
struct Table {
    rights: HashMap<mach_port_t, (Right, u32)>,
    next: mach_port_t,
}

impl Ports {
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `name` stands for.
    pub fn get(&self, name: mach_port_t) -> Option<Right> {
        self.read().rights.get(&name).map(|r| r.0.clone())
    }

    /// What kind of right `name` is, and how many references it has.
    pub fn refs(&self, name: mach_port_t) -> Option<(Kind, u32)> {
        self.read().rights.get(&name).map(|(r, n)| (r.kind(), *n))
    }

    /// A new name, with one reference.
    pub fn add(&self, right: Right) -> mach_port_t {
        let mut t = self.write();
        loop {
            let name = FIRST.wrapping_add(t.next.wrapping_mul(STEP));
            t.next = t.next.wrapping_add(1);
            if name > HOST_PRIV
                && name != DEAD
                && let Entry::Vacant(place) = t.rights.entry(name)
            {
                place.insert((right, 1));
                return name;
            }
        }
    }

    /// Gives a well-known name its meaning.
    pub(crate) fn set(&self, name: mach_port_t, right: Right) {
        self.write().rights.insert(name, (right, 1));
    }

    /// One reference more, as a call that gives a right that is held already; a full count
    /// stays full.
    pub fn retain(&self, name: mach_port_t) {
        if let Some((_, refs)) = self.write().rights.get_mut(&name) {
            *refs = (*refs + 1).min(MOST_REFS);
        }
    }

    /// Changes the count of references by `delta`; at 0 the name is gone, unless it is a
    /// well-known one.
    ///
    /// # Errors
    /// [`RefsError`]; nothing changed.
    pub fn mod_refs(&self, name: mach_port_t, kind: Option<Kind>, delta: i32) -> Result<(), RefsError> {
        let mut t = self.write();
        let (right, refs) = t.rights.get_mut(&name).ok_or(RefsError::Name)?;
        if kind.is_some_and(|k| k != right.kind()) {
            return Err(RefsError::Kind);
        }
        let now = i64::from(*refs) + i64::from(delta);
        let now = u32::try_from(now).map_err(|_| RefsError::Below)?;
        if now > MOST_REFS {
            return Err(RefsError::Above);
        }
        if now == 0 && name > HOST_PRIV {
            let gone = t.rights.remove(&name);
            drop(t); // what it named may end now, without the lock
            drop(gone);
        } else {
            *refs = now.max(1);
        }
        Ok(())
    }

    /// Forgets a name, however many references it has; not a well-known one.
    ///
    /// # Errors
    /// [`RefsError::Name`].
    pub fn destroy(&self, name: mach_port_t) -> Result<(), RefsError> {
        if name <= HOST_PRIV {
            return self.refs(name).map(drop).ok_or(RefsError::Name);
        }
        let gone = self.write().rights.remove(&name); // dropped without the lock
        gone.map(drop).ok_or(RefsError::Name)
    }

    /// Keeps everybody out.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held(self.write())
    }

    /// Forgets every name but the well-known ones, which have one reference again.
    pub(crate) fn forget_others(&self) {
        let mut t = self.write();
        let (kept, gone) = std::mem::take(&mut t.rights).into_iter().partition(|(n, _)| *n <= HOST_PRIV);
        t.rights = kept;
        t.rights.values_mut().for_each(|(_, refs)| *refs = 1);
        drop(t);
        // Without the lock.
        let _: HashMap<_, _> = gone;
    }

    /// What `name` stood for is no more: it is a dead name.
    pub fn kill(&self, name: mach_port_t) {
        let old = self.write().rights.get_mut(&name).map(|r| std::mem::replace(&mut r.0, Right::Dead));
        drop(old); // without the lock
    }
}

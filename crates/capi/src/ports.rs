//! Port names: what a `mach_port_t` of this process stands for.
//!
//! A name is a number; what it names is kept here with the user's count of references.
//! Names are given out once per process and are not used again for something else until
//! 2^24 others were, so that a name that is kept too long means nothing rather than
//! something else.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use machvm::task::MemoryEntry;
use machvm_linux::Task;
use machvm_linux::library::Hosted;

use crate::types::mach_port_t;

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

/// A task, its inheritance for `fork` apart: see [`crate::world`].
pub struct TaskPort {
    /// The address space.
    pub task: Task,
    /// Is it this process's own?
    pub own: bool,
}

/// What a name stands for.
#[derive(Clone)]
pub enum Right {
    /// `task_t`, `vm_map_t`.
    Task(Arc<TaskPort>),
    /// A memory entry (`mem_entry_name_port_t`).
    Entry(Arc<MemoryEntry<'static, Hosted>>),
    /// `host_t`.
    Host,
    /// `host_priv_t`.
    HostPriv,
}

/// The names.
#[derive(Default)]
pub struct Ports {
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    rights: HashMap<mach_port_t, (Right, u32)>,
    next: mach_port_t,
}

impl Ports {
    /// What `name` stands for.
    pub fn get(&self, name: mach_port_t) -> Option<Right> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).rights.get(&name).map(|r| r.0.clone())
    }

    /// A new name, with one reference.
    pub fn add(&self, right: Right) -> mach_port_t {
        let mut t = self.table.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            let name = FIRST.wrapping_add(t.next.wrapping_mul(STEP));
            t.next = t.next.wrapping_add(1);
            if name > HOST_PRIV && name != DEAD && !t.rights.contains_key(&name) {
                t.rights.insert(name, (right, 1));
                return name;
            }
        }
    }

    /// Gives a well-known name its meaning.
    pub(crate) fn set(&self, name: mach_port_t, right: Right) {
        let mut t = self.table.write().unwrap_or_else(PoisonError::into_inner);
        t.rights.insert(name, (right, 1));
    }

    /// Changes the count of references by `delta`; at 0 the name is gone. Gives the count
    /// that is left, or `None`: no such name, or the count would fall below 0 (nothing
    /// changed). The well-known names stay.
    pub fn mod_refs(&self, name: mach_port_t, delta: i32) -> Option<u32> {
        let mut t = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let (_, refs) = t.rights.get_mut(&name)?;
        let now = refs.checked_add_signed(delta)?;
        if now == 0 && name > HOST_PRIV {
            let gone = t.rights.remove(&name);
            drop(t); // what it named may be freed now, without the lock
            drop(gone);
        } else {
            *refs = now.max(1);
        }
        Some(now)
    }
}

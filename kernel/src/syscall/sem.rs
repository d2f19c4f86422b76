//! System V semaphores (semget, semop, semtimedop, semctl).

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use machvm_hal::{Event, Woken};

use super::time;
use crate::arch;
use crate::arch::GENERIC_CALLS;
use crate::errno::{
    E2BIG, EACCES, EAGAIN, EEXIST, EFBIG, EIDRM, EINTR, EINVAL, ENOENT, ENOSPC, EPERM, ERANGE, Errno, Result,
};
use crate::mutex::Mutex;
use crate::{sched, user};

const IPC_CREAT: u64 = 0o1000;
const IPC_EXCL: u64 = 0o2000;
const IPC_NOWAIT: u16 = 0o4000;
const SEM_UNDO: u16 = 0x1000;
const IPC_RMID: u64 = 0;
const IPC_SET: u64 = 1;
const IPC_STAT: u64 = 2;
/// Most sets, semaphores of a set, operations of a call; the highest value.
const SEMMNI: usize = 32_000;
const SEMMSL: i32 = 32_000;
const SEMOPM: u64 = 500;
const SEMVMX: i32 = 32_767;

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: u32,
    /// Threads that wait for it to grow, and to become zero.
    growing: u32,
    zero: u32,
}

struct Set {
    key: i32,
    mode: u32,
    /// uid and gid of the owner, and of who made it.
    owner: [u32; 4],
    semaphores: Vec<Semaphore>,
    /// By process: what its end adds.
    undo: BTreeMap<u32, Vec<i32>>,
    operated: u64,
    changed: u64,
}

struct Sets {
    all: BTreeMap<i32, Set>,
    next: i32,
}

static SETS: Mutex<Sets> = Mutex::new(Sets { all: BTreeMap::new(), next: 0 });

fn event(id: i32) -> Event {
    Event(core::ptr::from_ref(&SETS) as u64 ^ (id as u64) << 8 | 3)
}

fn now() -> u64 {
    time::clock(time::REALTIME).unwrap_or(0) / 1_000_000_000
}

impl Set {
    /// May the caller do this (0o4: read, 0o2: alter)?
    fn allows(&self, wanted: u32) -> bool {
        let i = sched::process().identity.lock().clone();
        let (uid, gid) = (i.user[1], i.group[1]);
        let mode = if uid == self.owner[0] || uid == self.owner[2] {
            self.mode >> 6
        } else if [self.owner[1], self.owner[3]].iter().any(|g| *g == gid || i.groups.contains(g)) {
            self.mode >> 3
        } else {
            self.mode
        };
        uid == 0 || mode & wanted == wanted
    }
    fn is_owned(&self) -> bool {
        let uid = sched::process().identity.lock().user[1];
        uid == 0 || uid == self.owner[0] || uid == self.owner[2]
    }
}

pub(super) fn semget(key: i32, n: i32, flags: u64) -> Result {
    let mut sets = SETS.lock();
    if !(0..=SEMMSL).contains(&n) {
        return Err(EINVAL);
    }
    if key != 0
        && let Some((id, set)) = sets.all.iter().find(|(_, s)| s.key == key)
    {
        if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
            return Err(EEXIST);
        }
        if n as usize > set.semaphores.len() {
            return Err(EINVAL);
        }
        return if set.allows(flags as u32 & 7) { Ok((*id).into()) } else { Err(EACCES) };
    }
    if key != 0 && flags & IPC_CREAT == 0 {
        return Err(ENOENT);
    }
    if n == 0 {
        return Err(EINVAL);
    }
    if sets.all.len() >= SEMMNI {
        return Err(ENOSPC);
    }
    let id = sets.next;
    sets.next = sets.next.wrapping_add(1) & i32::MAX;
    let i = sched::process().identity.lock().clone();
    let owner = [i.user[1], i.group[1], i.user[1], i.group[1]];
    let semaphores = vec![Semaphore::default(); n as usize];
    let (mode, changed) = (flags as u32 & 0o777, now());
    sets.all.insert(id, Set { key, mode, owner, semaphores, undo: BTreeMap::new(), operated: 0, changed });
    Ok(id.into())
}

#[derive(Clone, Copy)]
struct Operation {
    which: usize,
    add: i16,
    flags: u16,
}

enum Tried {
    Done,
    /// This operation cannot be done yet.
    Waits(Operation),
    Failed(Errno),
}

/// All operations or none.
fn attempt(set: &mut Set, ops: &[Operation], pid: u32) -> Tried {
    let mut values: Vec<i32> = set.semaphores.iter().map(|s| s.value).collect();
    let mut undo = set.undo.get(&pid).cloned().unwrap_or_else(|| vec![0; values.len()]);
    for op in ops {
        let v = &mut values[op.which];
        let sum = *v + i32::from(op.add);
        if op.add == 0 && *v != 0 || sum < 0 {
            return if op.flags & IPC_NOWAIT != 0 { Tried::Failed(EAGAIN) } else { Tried::Waits(*op) };
        }
        if sum > SEMVMX {
            return Tried::Failed(ERANGE);
        }
        *v = sum;
        if op.flags & SEM_UNDO != 0 {
            undo[op.which] -= i32::from(op.add);
        }
    }
    for op in ops {
        set.semaphores[op.which].value = values[op.which];
        set.semaphores[op.which].pid = pid;
    }
    if ops.iter().any(|op| op.flags & SEM_UNDO != 0) {
        set.undo.insert(pid, undo);
    }
    set.operated = now();
    Tried::Done
}

pub(super) fn semtimedop(id: i32, at: u64, n: u64, timeout: u64) -> Result {
    if n == 0 || id < 0 {
        return Err(EINVAL);
    }
    if n > SEMOPM {
        return Err(E2BIG);
    }
    let mut ops = Vec::new();
    for i in 0..n {
        let mut b = [0; 6];
        user::read(at + 6 * i, &mut b)?;
        let word = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        ops.push(Operation { which: word(0).into(), add: word(2) as i16, flags: word(4) });
    }
    let until = match timeout {
        0 => None,
        t => Some(arch::now_ns().saturating_add(time::read_timespec(t)?)),
    };
    let pid = sched::process().pid;
    let wanted = if ops.iter().any(|o| o.add != 0) { 2 } else { 4 };
    let mut counted: Option<Operation> = None;
    let done = sched::wait_for(event(id), until, || {
        let mut sets = SETS.lock();
        let Some(set) = sets.all.get_mut(&id) else {
            return Some(Err(if counted.is_some() { EIDRM } else { EINVAL }));
        };
        count(set, &mut counted, None);
        if !set.allows(wanted) {
            return Some(Err(EACCES));
        }
        if ops.iter().any(|o| o.which >= set.semaphores.len()) {
            return Some(Err(EFBIG));
        }
        match attempt(set, &ops, pid) {
            Tried::Done => Some(Ok(0)),
            Tried::Failed(e) => Some(Err(e)),
            Tried::Waits(op) => {
                count(set, &mut counted, Some(op));
                None
            }
        }
    });
    if let Some(set) = SETS.lock().all.get_mut(&id) {
        count(set, &mut counted, None);
    }
    match done {
        Ok(Ok(v)) => {
            sched::wakeup(event(id));
            Ok(v)
        }
        Ok(Err(e)) => Err(e),
        Err(Woken::TimedOut) => Err(EAGAIN),
        Err(_) => Err(EINTR),
    }
}

/// The caller waits for `new` and no longer for `old` (semctl's GETNCNT and GETZCNT).
fn count(set: &mut Set, old: &mut Option<Operation>, new: Option<Operation>) {
    for (op, by) in [(*old, u32::MAX), (new, 1)] {
        if let Some(op) = op {
            let s = &mut set.semaphores[op.which];
            let n = if op.add == 0 { &mut s.zero } else { &mut s.growing };
            *n = n.wrapping_add(by);
        }
    }
    *old = new;
}

pub(super) fn semctl(id: i32, which: i32, command: u64, value: u64) -> Result {
    let mut sets = SETS.lock();
    let set = sets.all.get_mut(&id).ok_or(EINVAL)?;
    let index = || usize::try_from(which).ok().filter(|i| *i < set.semaphores.len()).ok_or(EINVAL);
    // GETPID 11, GETVAL 12, GETALL 13, GETNCNT 14, GETZCNT 15, SETVAL 16, SETALL 17
    match command {
        IPC_RMID | IPC_SET if !set.is_owned() => return Err(EPERM),
        IPC_STAT | 11..=15 if !set.allows(4) => return Err(EACCES),
        16 | 17 if !set.allows(2) => return Err(EACCES),
        _ => {}
    }
    let result = match command {
        IPC_RMID => {
            sets.all.remove(&id);
            0
        }
        IPC_STAT => {
            user::write_u64s(value, &status(set))?;
            return Ok(0);
        }
        IPC_SET => {
            let (uid, gid) = (user::read_u32(value + 4)?, user::read_u32(value + 8)?);
            set.mode = user::read_u32(value + 20)? & 0o777;
            (set.owner[0], set.owner[1], set.changed) = (uid, gid, now());
            0
        }
        11 => set.semaphores[index()?].pid.into(),
        12 => set.semaphores[index()?].value.into(),
        14 => set.semaphores[index()?].growing.into(),
        15 => set.semaphores[index()?].zero.into(),
        13 => {
            let bytes: Vec<u8> = set.semaphores.iter().flat_map(|s| (s.value as u16).to_le_bytes()).collect();
            user::write(value, &bytes)?;
            return Ok(0);
        }
        16 => {
            let (i, v) = (index()?, value as i32);
            if !(0..=SEMVMX).contains(&v) {
                return Err(ERANGE);
            }
            set_value(set, i, v);
            0
        }
        17 => {
            let mut bytes = vec![0; 2 * set.semaphores.len()];
            user::read(value, &mut bytes)?;
            let values: Vec<i32> =
                bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]).into()).collect();
            if values.iter().any(|v| *v > SEMVMX) {
                return Err(ERANGE);
            }
            values.into_iter().enumerate().for_each(|(i, v)| set_value(set, i, v));
            0
        }
        _ => return Err(EINVAL),
    };
    drop(sets);
    sched::wakeup(event(id));
    Ok(result)
}

fn set_value(set: &mut Set, i: usize, v: i32) {
    set.semaphores[i].value = v;
    set.semaphores[i].pid = sched::process().pid;
    set.undo.values_mut().for_each(|u| u[i] = 0);
    set.changed = now();
}

/// Words of `struct semid64_ds`, and of those between its times and behind them.
const STATUS: usize = if GENERIC_CALLS { 11 } else { 13 };
const GAP: usize = if GENERIC_CALLS { 1 } else { 2 };

/// `struct semid64_ds`.
fn status(set: &Set) -> [u64; STATUS] {
    let [uid, gid, cuid, cgid] = set.owner.map(u64::from);
    let mut w = [0; STATUS];
    w[0] = u64::from(set.key as u32) | uid << 32;
    w[1] = gid | cuid << 32;
    w[2] = cgid | u64::from(set.mode) << 32;
    (w[6], w[6 + GAP], w[6 + 2 * GAP]) = (set.operated, set.changed, set.semaphores.len() as u64);
    w
}

/// A process ended: what it did with SEM_UNDO is undone.
pub(crate) fn undo(pid: u32) {
    let mut woken = Vec::new();
    for (id, set) in &mut SETS.lock().all {
        let Some(undo) = set.undo.remove(&pid) else { continue };
        for (s, by) in set.semaphores.iter_mut().zip(undo).filter(|(_, by)| *by != 0) {
            s.value = (s.value + by).clamp(0, SEMVMX);
            s.pid = pid;
        }
        woken.push(*id);
    }
    woken.into_iter().for_each(|id| sched::wakeup(event(id)));
}

//! System calls that tell or set something about the machine or the process.

use core::sync::atomic::Ordering::Relaxed;

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::arch;
use crate::embed::the_vm;
use crate::errno::{EFAULT, EINVAL, ENAMETOOLONG, EPERM, ESRCH, Result};
use crate::mutex::Mutex;
use crate::process::limits::RESOURCES;
use crate::process::{self, Process, signal};
use crate::sched::{self, Thread};
use crate::user;

const FIELD: usize = 65;
static HOST: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static DOMAIN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

pub(super) fn uname(at: u64) -> Result {
    let mut all = [0; FIELD * 6];
    let (host, domain) = (HOST.lock().clone(), DOMAIN.lock().clone());
    let words: [&[u8]; 6] = [
        b"Linux",
        if host.is_empty() { b"machvm" } else { &host },
        b"6.1.0-machvm",
        concat!("#1 SMP machvm ", env!("CARGO_PKG_VERSION")).as_bytes(),
        crate::arch::MACHINE.as_bytes(),
        if domain.is_empty() { b"(none)" } else { &domain },
    ];
    for (field, word) in all.chunks_exact_mut(FIELD).zip(words) {
        field[..word.len()].copy_from_slice(word);
    }
    user::write(at, &all)?;
    Ok(0)
}

/// sethostname and setdomainname.
pub(super) fn set_name(domain: bool, at: u64, len: i32) -> Result {
    if sched::process().identity.lock().user[1] != 0 {
        return Err(EPERM);
    }
    if !(0..FIELD as i32).contains(&len) {
        return Err(EINVAL);
    }
    let mut name = alloc::vec![0; len as usize];
    user::read(at, &mut name)?;
    *if domain { &DOMAIN } else { &HOST }.lock() = name;
    Ok(0)
}

pub(super) fn sysinfo(at: u64) -> Result {
    let mut b = [0; 112];
    let mut put = |at: usize, v: u64| b[at..at + 8].copy_from_slice(&v.to_le_bytes());
    put(0, arch::now_ns() / 1_000_000_000);
    let (total, free) = crate::embed::memory_bytes(the_vm());
    put(32, total);
    put(40, free);
    let (swap, free_swap) = crate::swap::total().unwrap_or_default();
    put(64, swap * machvm_hal::PAGE_SIZE);
    put(72, free_swap * machvm_hal::PAGE_SIZE);
    let processes = process::all(|_| true).len() as u16;
    b[80..82].copy_from_slice(&processes.to_le_bytes());
    b[104..108].copy_from_slice(&1u32.to_le_bytes());
    user::write(at, &b)?;
    Ok(0)
}

pub(super) fn getrlimit(resource: u64, at: u64) -> Result {
    let r = usize::try_from(resource).ok().filter(|r| *r < RESOURCES).ok_or(EINVAL)?;
    let (soft, hard) = sched::process().limits.get(r);
    user::write_u64s(at, &[soft, hard])?;
    Ok(0)
}

pub(super) fn setrlimit(resource: u64, at: u64) -> Result {
    let r = usize::try_from(resource).ok().filter(|r| *r < RESOURCES).ok_or(EINVAL)?;
    let (soft, hard) = (user::read_u64(at)?, user::read_u64(at + 8)?);
    sched::process().set_limit(r, soft, hard)?;
    Ok(0)
}

pub(super) fn prlimit64(pid: i32, resource: u64, new: u64, old: u64) -> Result {
    let r = usize::try_from(resource).ok().filter(|r| *r < RESOURCES).ok_or(EINVAL)?;
    let wanted = if new == 0 { None } else { Some((user::read_u64(new)?, user::read_u64(new + 8)?)) };
    let p = if pid == 0 {
        sched::process().clone()
    } else {
        process::find(u32::try_from(pid).map_err(|_| ESRCH)?)?
    };
    let (soft, hard) = p.limits.get(r);
    if let Some((soft, hard)) = wanted {
        p.set_limit(r, soft, hard)?;
    }
    if old != 0 {
        user::write_u64s(old, &[soft, hard])?;
    }
    Ok(0)
}

const COMM: usize = 16;

/// What a thread is called.
fn name_of(p: &Process) -> Vec<u8> {
    let own = sched::current().name.lock().clone();
    own.unwrap_or_else(|| p.name.lock().clone().into_bytes())
}

pub(super) fn prctl(a: [u64; 6]) -> Result {
    let [option, v, third, fourth, fifth, _] = a;
    let me = sched::process();
    let s = &me.settings;
    let flag = |cell: &core::sync::atomic::AtomicU32| {
        if v > 1 {
            return Err(EINVAL);
        }
        cell.store(v as u32, Relaxed);
        Ok(0)
    };
    let give = |v: u32| user::write(a[1], &v.to_le_bytes()).map(|()| 0);
    match option {
        1 if v > u64::from(signal::SIGNALS) => Err(EINVAL),
        1 => {
            s.death.store(v as u32, Relaxed);
            Ok(0)
        }
        2 => give(s.death.load(Relaxed)),
        3 => Ok(s.dumpable.load(Relaxed).into()),
        4 => flag(&s.dumpable),
        7 => Ok(s.keep_capabilities.load(Relaxed).into()),
        8 => flag(&s.keep_capabilities),
        15 => set_comm(me, v),
        16 => {
            let mut b = [0; COMM];
            let name = name_of(me);
            let n = name.len().min(COMM - 1);
            b[..n].copy_from_slice(&name[..n]);
            user::write(v, &b).map(|()| 0)
        }
        // PR_CAPBSET_READ: everything is in the bounding set.
        23 if v > 40 => Err(EINVAL),
        23 => Ok(1),
        29 => {
            s.slack.store(if v == 0 { 50_000 } else { v }, Relaxed);
            Ok(0)
        }
        30 => Ok(s.slack.load(Relaxed) as i64),
        36 => {
            s.reaper.store(u32::from(v != 0), Relaxed);
            Ok(0)
        }
        37 => give(s.reaper.load(Relaxed)),
        38 if v != 1 || third != 0 || fourth != 0 || fifth != 0 => Err(EINVAL),
        38 => flag(&s.no_new_privileges),
        39 if v != 0 || third != 0 || fourth != 0 || fifth != 0 => Err(EINVAL),
        39 => Ok(s.no_new_privileges.load(Relaxed).into()),
        // PR_SET_VMA: names of anonymous memory, which nobody shows.
        _ => Err(EINVAL),
    }
}

fn set_comm(me: &Process, at: u64) -> Result {
    let name = match user::string(at, COMM) {
        Ok(s) => s,
        Err(ENAMETOOLONG) => {
            let mut b = [0; COMM];
            user::read(at, &mut b)?;
            b.to_vec()
        }
        Err(_) => return Err(EFAULT),
    };
    let name = name[..name.len().min(COMM - 1)].to_vec();
    let t = sched::current();
    if t.id() == me.pid {
        *me.name.lock() = alloc::string::String::from_utf8_lossy(&name).into_owned();
    }
    *t.name.lock() = Some(name);
    Ok(0)
}

pub(super) fn personality(new: u64) -> Result {
    let p = &sched::process().settings.personality;
    let old = p.load(Relaxed);
    if new as u32 != u32::MAX {
        p.store(new as u32, Relaxed);
    }
    Ok(old.into())
}

/// A thread of the caller's choice; 0: itself.
fn thread(pid: i32) -> Result<Arc<Thread>> {
    match pid {
        0 => process::find_thread(sched::current().id()),
        1.. => process::find_thread(pid as u32),
        _ => Err(EINVAL),
    }
}

pub(super) fn sched_getaffinity(pid: i32, len: u64, at: u64) -> Result {
    if len < 8 || !len.is_multiple_of(8) {
        return Err(EINVAL);
    }
    let t = thread(pid).map_err(|_| ESRCH)?;
    user::write_u64s(at, &[t.cpus()])?;
    Ok(8)
}

pub(super) fn sched_setaffinity(pid: i32, len: u64, at: u64) -> Result {
    let mut b = [0; 8];
    let n = len.min(8) as usize;
    user::read(at, &mut b[..n])?;
    let t = thread(pid).map_err(|_| ESRCH)?;
    let cpus = u64::from_le_bytes(b) & sched::online();
    if cpus == 0 {
        return Err(EINVAL);
    }
    sched::allow(&t, cpus);
    Ok(0)
}

/// sched_getscheduler: SCHED_OTHER.
pub(super) fn sched_getscheduler(pid: i32) -> Result {
    thread(pid)?;
    Ok(0)
}

/// sched_setscheduler and sched_setparam: one policy, whose only priority is 0.
pub(super) fn sched_setscheduler(pid: i32, policy: i32, at: u64) -> Result {
    if at == 0 || pid < 0 {
        return Err(EINVAL);
    }
    let priority = user::read_u32(at)?;
    thread(pid)?;
    match policy & !0x4000_0000 {
        0 | 3 | 5 if priority == 0 => Ok(0),
        1 | 2 if (1..=99).contains(&priority) => Err(EPERM),
        _ => Err(EINVAL),
    }
}

pub(super) fn sched_getparam(pid: i32, at: u64) -> Result {
    if at == 0 {
        return Err(EINVAL);
    }
    thread(pid)?;
    user::write(at, &0u32.to_le_bytes())?;
    Ok(0)
}

/// The priorities of a policy.
pub(super) fn sched_priority(policy: u64, highest: bool) -> Result {
    match policy {
        0 | 3 | 5 | 6 => Ok(0),
        1 | 2 => Ok(if highest { 99 } else { 1 }),
        _ => Err(EINVAL),
    }
}

pub(super) fn sched_rr_get_interval(pid: i32, at: u64) -> Result {
    thread(pid)?;
    user::write_u64s(at, &[0, u64::from(sched::SLICE) * process::timer::TICK])?;
    Ok(0)
}

pub(super) fn getcpu(cpu: u64, node: u64) -> Result {
    let here = u32::from(arch::here().number);
    for (at, v) in [(cpu, here), (node, 0)] {
        if at != 0 {
            user::write(at, &v.to_le_bytes())?;
        }
    }
    Ok(0)
}

/// membarrier(2): QUERY, and the commands that a switch of threads or an interrupt to each CPU answers.
pub(super) fn membarrier(command: u64, flags: u64) -> Result {
    const GLOBAL: u64 = 1;
    const PRIVATE_EXPEDITED: u64 = 8;
    const REGISTER: u64 = 16;
    if flags != 0 {
        return Err(EINVAL);
    }
    match command {
        0 => Ok((GLOBAL | PRIVATE_EXPEDITED | REGISTER) as i64),
        GLOBAL | PRIVATE_EXPEDITED | REGISTER => {
            crate::embed::interrupt_everybody();
            Ok(0)
        }
        _ => Err(EINVAL),
    }
}

pub(super) fn getrandom(at: u64, len: u64, flags: u64) -> Result {
    if flags & !7 != 0 || flags & 6 == 6 {
        return Err(EINVAL);
    }
    let mut buf = [0; 256];
    let mut done = 0;
    let len = len.min(i32::MAX as u64);
    while done < len {
        let n = buf.len().min((len - done) as usize);
        crate::random::fill(&mut buf[..n]);
        if user::write(at + done, &buf[..n]).is_err() {
            return if done == 0 { Err(EFAULT) } else { Ok(done as i64) };
        }
        done += n as u64;
        if signal::interrupted() {
            break;
        }
    }
    Ok(done as i64)
}

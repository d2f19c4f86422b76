//! What a thread has of its own beside registers, and a child of fork inherits: here
//! the child is the forker's, so where the caller differs from the forker the child
//! must be changed.

use std::fs;

use super::super::ptrace::last_errno;
use super::super::space::Errno;

const KCMP_FILES: i32 = 2;
const KCMP_FS: i32 = 3;
const IOPRIO_WHO_PROCESS: i32 = 1;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// Bytes of a CPU set: 8192 CPUs, the most Linux is built for.
const CPUS: usize = 1024;
/// What `unshare` and `setns` change for one thread.
const NAMESPACES: [&str; 8] =
    ["mnt", "net", "uts", "ipc", "user", "cgroup", "pid_for_children", "time_for_children"];

/// The caller's attributes, for the child to take on.
pub(super) struct Likeness {
    sched: Option<[u8; 56]>,
    cpus: Option<([u8; CPUS], usize)>,
    name: [u8; 16],
    personality: Option<u64>,
    ioprio: Option<i64>,
    rights: Option<Rights>,
}

/// Credentials, from the lines of /proc/PID/task/TID/status.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Rights {
    /// Real, effective, saved, file system.
    uid: [u32; 4],
    gid: [u32; 4],
    groups: Vec<u32>,
    /// Inheritable, permitted, effective, ambient.
    caps: [u64; 4],
    no_new_privs: bool,
}

impl Likeness {
    /// Of thread `caller`, for a child that thread `forker` of the same process makes.
    ///
    /// # Errors
    /// In words, what the two do not share and a child cannot be given.
    pub(super) fn between(caller: i32, forker: i32) -> Result<Self, String> {
        for (what, kind) in [("descriptor table", KCMP_FILES), ("working directory", KCMP_FS)] {
            // SAFETY: numbers. Where kcmp is not to be had the answer is negative.
            if unsafe { libc::syscall(libc::SYS_kcmp, caller, forker, kind, 0, 0) } > 0 {
                return Err(format!("its thread has unshared its {what}"));
            }
        }
        for name in NAMESPACES {
            let of = |tid| fs::read_link(format!("/proc/self/task/{tid}/ns/{name}"));
            if let (Ok(a), Ok(b)) = (of(caller), of(forker))
                && a != b
            {
                return Err(format!("its thread has entered another namespace ({name})"));
            }
        }
        let rights = Rights::of(caller);
        Ok(Self {
            sched: differing(sched(caller), sched(forker)),
            cpus: differing(cpus(caller), cpus(forker)),
            name: name(caller),
            personality: differing(personality(caller), personality(forker)),
            ioprio: differing(ioprio(caller), ioprio(forker)),
            rights: differing(rights, Rights::of(forker)),
        })
    }

    /// In the child: takes them on. No heap, no lock.
    ///
    /// # Errors
    /// What setting the credentials says; the rest is not worth a failed fork.
    pub(super) fn apply(&self) -> Result<(), Errno> {
        // SAFETY: numbers, and memory of self with its true size.
        unsafe {
            libc::prctl(libc::PR_SET_NAME, self.name.as_ptr(), 0, 0, 0);
            if let Some(sched) = &self.sched {
                libc::syscall(libc::SYS_sched_setattr, 0, sched.as_ptr(), 0);
            }
            if let Some((set, len)) = &self.cpus {
                libc::syscall(libc::SYS_sched_setaffinity, 0, *len, set.as_ptr());
            }
            if let Some(personality) = self.personality {
                libc::syscall(libc::SYS_personality, personality);
            }
            if let Some(ioprio) = self.ioprio {
                libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, ioprio);
            }
        }
        self.rights.as_ref().map_or(Ok(()), Rights::apply)
    }
}

/// The caller's, unless the forker has the same.
fn differing<T: PartialEq>(caller: Option<T>, forker: Option<T>) -> Option<T> {
    if caller == forker { None } else { caller }
}

fn sched(tid: i32) -> Option<[u8; 56]> {
    let mut attr = [0u8; 56];
    // SAFETY: the size of attr is given.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, attr.as_mut_ptr(), attr.len(), 0) };
    (got == 0).then_some(attr)
}

fn cpus(tid: i32) -> Option<([u8; CPUS], usize)> {
    let mut set = [0u8; CPUS];
    // SAFETY: the size of set is given.
    let len = unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, CPUS, set.as_mut_ptr()) };
    (len > 0).then_some((set, len as usize))
}

fn name(tid: i32) -> [u8; 16] {
    let mut name = [0u8; 16];
    let text = fs::read(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    let len = text.len().min(15);
    name[..len].copy_from_slice(&text[..len]);
    name
}

fn personality(tid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/task/{tid}/personality")).ok()?;
    u64::from_str_radix(text.trim(), 16).ok()
}

fn ioprio(tid: i32) -> Option<i64> {
    // SAFETY: numbers.
    let got = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    (got >= 0).then_some(got)
}

impl Rights {
    fn of(tid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/self/task/{tid}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let line = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        let ids = |key| -> Option<[u32; 4]> {
            let all: Vec<u32> = line(key)?.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
            all.try_into().ok()
        };
        let set = |key| u64::from_str_radix(line(key)?, 16).ok();
        Some(Self {
            uid: ids("Uid:")?,
            gid: ids("Gid:")?,
            groups: line("Groups:")?.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect(),
            caps: [set("CapInh:")?, set("CapPrm:")?, set("CapEff:")?, set("CapAmb:")?],
            no_new_privs: line("NoNewPrivs:").is_some_and(|v| v == "1"),
        })
    }

    /// In the child. Goes from the forker's rights to these: capabilities last but
    /// for the one bit that cannot be taken back.
    fn apply(&self) -> Result<(), Errno> {
        let check = |result: i64| if result < 0 { Err(last_errno()) } else { Ok(()) };
        let [inheritable, permitted, effective, ambient] = self.caps;
        // SAFETY: numbers, and memory of self with its true size. Raw calls: the C
        // library's would signal threads that do not exist in the child.
        unsafe {
            check(libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()))?;
            check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0).into())?;
            check(libc::syscall(libc::SYS_setresgid, self.gid[0], self.gid[1], self.gid[2]))?;
            check(libc::syscall(libc::SYS_setresuid, self.uid[0], self.uid[1], self.uid[2]))?;
            libc::syscall(libc::SYS_setfsgid, self.gid[3]);
            libc::syscall(libc::SYS_setfsuid, self.uid[3]);
            check(libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0).into())?;
            let header = [CAPABILITY_VERSION_3, 0];
            let data: [u32; 6] = std::array::from_fn(|i| {
                (([effective, permitted, inheritable][i % 3]) >> (32 * (i / 3))) as u32
            });
            check(libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()))?;
            for cap in (0..64).filter(|cap| ambient & 1 << cap != 0) {
                check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, cap, 0, 0).into())?;
            }
            if self.no_new_privs {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_like_itself_and_its_status_is_understood() {
        // SAFETY: no argument.
        let tid = unsafe { libc::gettid() };
        let like = Likeness::between(tid, tid).unwrap();
        assert!(like.sched.is_none() && like.cpus.is_none() && like.rights.is_none());
        let rights = Rights::of(tid).unwrap();
        // SAFETY: no argument.
        assert_eq!(rights.uid[1], unsafe { libc::geteuid() });
    }

    #[test]
    fn capability_lines_are_hexadecimal_and_groups_may_be_empty() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t \nNoNewPrivs:\t1\n\
                      CapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000000001\n\
                      CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n";
        let rights = Rights::parse(status).unwrap();
        assert_eq!((rights.uid, rights.gid[3], rights.groups.len()), ([1, 2, 3, 4], 8, 0));
        assert_eq!(rights.caps, [0, 0x1ff_ffff_ffff, 1, 0]);
        assert!(rights.no_new_privs);
    }
}

//! Whose rights count: the VM's threads keep the rights `machvm` was started with,
//! the program's threads may have given theirs up.

use std::io;

use super::vmthread::{gettid, open_in_task};

/// The identity of a thread of the program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Creds {
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective group.
    pub egid: u32,
    fsuid: u32,
    fsgid: u32,
    groups: Vec<u32>,
    /// Effective capabilities, by bits.
    effective: u64,
    permitted: u64,
    inheritable: u64,
}

impl Creds {
    /// The identity of the thread `tid` of this process.
    ///
    /// # Errors
    /// There is no such thread, or no `/proc`.
    pub fn of_thread(tid: i32) -> io::Result<Creds> {
        let status = io::read_to_string(open_in_task(tid, c"status")?)?;
        Creds::parse(&status).ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))
    }

    fn parse(status: &str) -> Option<Creds> {
        let numbers = |key: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_ascii_whitespace().map(|word| word.parse().ok()).collect()
        };
        let [uid, euid, _, fsuid] = numbers("Uid:")?[..] else {
            return None;
        };
        let [gid, egid, _, fsgid] = numbers("Gid:")?[..] else {
            return None;
        };
        let bits = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Some(Creds {
            uid,
            euid,
            gid,
            egid,
            fsuid,
            fsgid,
            groups: numbers("Groups:")?,
            effective: bits("CapEff:")?,
            permitted: bits("CapPrm:")?,
            inheritable: bits("CapInh:")?,
        })
    }

    /// Runs `body` on this thread with the file access rights of this identity.
    pub fn act<R>(&self, body: impl FnOnce() -> R) -> R {
        let own = Creds::of_thread(gettid());
        let Some(own) = own.ok().filter(|own| own != self) else {
            return body();
        };
        self.assume_files();
        // Leaving user 0 took the rights to override permissions; a program may have kept
        // them on purpose.
        own.set_effective(self.effective & own.permitted);
        let result = body();
        // The rights that changing back needs come first.
        own.set_effective(own.effective);
        own.assume_files();
        own.set_effective(own.effective);
        result
    }

    /// Changes this thread only: the raw calls do not tell other threads, as the C
    /// library's would.
    fn assume_files(&self) {
        // SAFETY: the list has the length that is passed; the other calls take no memory.
        unsafe {
            libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr());
            libc::syscall(libc::SYS_setfsgid, self.fsgid);
            libc::syscall(libc::SYS_setfsuid, self.fsuid);
        }
    }

    /// Makes `effective` this thread's effective capabilities; its others are `self`'s.
    fn set_effective(&self, effective: u64) {
        const VERSION_3: u32 = 0x2008_0522;
        let header = [VERSION_3, 0];
        let words =
            |half: u32| [effective, self.permitted, self.inheritable].map(|set| (set >> (32 * half)) as u32);
        let data = [words(0), words(1)];
        // SAFETY: the header and the data have the layout of version 3.
        unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        let text = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t10 20 \nCapInh:\t0\nCapPrm:\tff\nCapEff:\t0f\n";
        let creds = Creds::parse(text).unwrap();
        assert_eq!((creds.uid, creds.euid, creds.fsuid), (1, 2, 4));
        assert_eq!((creds.gid, creds.egid, creds.fsgid), (5, 6, 8));
        assert_eq!(creds.groups, [10, 20]);
        assert_eq!((creds.effective, creds.permitted, creds.inheritable), (0xf, 0xff, 0));
        assert_eq!(Creds::parse("Uid:\t1\t2\n"), None);
    }

    #[test]
    fn files_are_opened_with_the_threads_rights() {
        // SAFETY: the call has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        let own = Creds::of_thread(gettid()).unwrap();
        let nobody = Creds { fsuid: 65534, fsgid: 65534, groups: vec![], effective: 0, ..own.clone() };
        let open = || std::fs::File::open("/etc/shadow").is_ok();
        assert!(own.act(open));
        assert!(!nobody.act(open));
        assert!(Creds { effective: own.effective, ..nobody.clone() }.act(open));
        assert!(open());
        assert_eq!(Creds::of_thread(gettid()).unwrap(), own);
    }
}

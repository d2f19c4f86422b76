//! A thread that serves others stays on the CPU of whom it serves.
//!
//! A wake-up across CPUs of a virtual machine costs more than a page-in. So every so many
//! faults the thread asks where the one that faulted runs, and pins itself there. Nothing
//! here allocates.

use std::io::Write as _;

/// Faults between two looks at where the other thread runs. The look costs about three
/// faults' worth of time (a read of /proc), so 32 make it a tenth.
const EVERY: u32 = 32;

/// Where the calling thread is pinned.
#[derive(Debug)]
pub(crate) struct Follower {
    since: u32,
    cpu: Option<usize>,
}

impl Follower {
    pub(crate) fn new() -> Self {
        Follower { since: EVERY, cpu: None }
    }

    /// A fault of the thread `tid` of this process was served. True: this thread moved.
    pub(crate) fn served(&mut self, tid: u32) -> bool {
        self.since += 1;
        if self.since < EVERY {
            return false;
        }
        self.since = 0;
        match cpu_of(tid).filter(|now| Some(*now) != self.cpu) {
            Some(now) => {
                self.cpu = Some(now);
                pin(now);
                true
            }
            None => false,
        }
    }
}

/// The CPU on which a thread of this process last ran.
fn cpu_of(tid: u32) -> Option<usize> {
    if tid == 0 {
        return None;
    }
    let mut path = [0u8; 64];
    // Shorter than the array, so a zero byte ends it.
    write!(&mut path[..63], "/proc/thread-self/../{tid}/stat").ok()?;
    // Everything up to the field is shorter: numbers, and a name of 16 bytes.
    let mut text = [0u8; 1024];
    // SAFETY: a C string, and a buffer of this length; the descriptor is ours.
    let n = unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return None;
        }
        let n = libc::read(fd, text.as_mut_ptr().cast(), text.len());
        libc::close(fd);
        n
    };
    let text = text.get(..usize::try_from(n).ok()?)?;
    // Field 39; the name in field 2 may hold anything, so count from its end.
    let name_end = text.iter().rposition(|b| *b == b')')?;
    let fields = core::str::from_utf8(&text[name_end + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(36)?.parse().ok()
}

fn pin(cpu: usize) {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return;
    }
    // SAFETY: the index is inside the set; the set outlives the call. Failure (the CPU
    // went away) leaves the thread where it was, which is only slower.
    unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_found_where_it_is_pinned() {
        std::thread::spawn(|| {
            // SAFETY: takes nothing; the thread ends with the test.
            let (tid, here) = unsafe { (libc::gettid(), libc::sched_getcpu()) };
            pin(here as usize);
            std::thread::yield_now();
            assert_eq!(cpu_of(tid as u32), Some(here as usize));
            assert_eq!(cpu_of(0), None);
        })
        .join()
        .expect("found");
    }

    #[test]
    fn it_looks_seldom_and_moves_once() {
        std::thread::spawn(|| {
            // SAFETY: as above.
            let (tid, here) = unsafe { (libc::gettid(), libc::sched_getcpu()) };
            pin(here as usize);
            let mut f = Follower::new();
            assert!(f.served(tid as u32));
            assert!((0..4 * EVERY).all(|_| !f.served(tid as u32)));
        })
        .join()
        .expect("as told");
    }
}

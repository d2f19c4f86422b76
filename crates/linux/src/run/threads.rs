//! The program's threads: who is one, how they come and how they go.
//!
//! Linux makes and ends them; the VM only sees to two things. A thread's last stores,
//! the zero in its tid word and the owner-died marks of its robust mutexes, are made
//! by the kernel while the thread exits, when a fault is not waited for any more: the
//! pages they go to are wired before. And the VM's threads must not keep a process
//! alive whose last own thread has ended.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Ctx;
use super::files::copy_in;
use super::space::{Call, Reply};

const KCMP_VM: i32 = 1;
/// The kernel looks no further in a robust list.
const ROBUST_LIST_LIMIT: usize = 2048;
/// Tid words remembered of threads whose end we did not see (killed ones).
const WORDS_MAX: usize = 65_536;
const PAGE: u64 = 4096;

/// Who made a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kin {
    /// A thread of this process.
    Ours,
    /// A thread of another process that runs in our memory: a child of vfork, until
    /// it has called execve.
    SharesMemory,
    /// A process with memory of its own: Linux serves it.
    Stranger,
}

/// What thread `tid` is to us. One that is dead is a stranger.
#[must_use]
pub fn kin(tid: i32) -> Kin {
    // SAFETY: numbers; signal 0 is not sent.
    unsafe {
        if libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, 0) == 0 {
            Kin::Ours
        } else if libc::syscall(libc::SYS_kcmp, libc::gettid(), tid, KCMP_VM, 0, 0) == 0 {
            Kin::SharesMemory
        } else {
            Kin::Stranger
        }
    }
}

struct Threads {
    /// Words that some thread asked to have zeroed when it ends.
    words: BTreeSet<u64>,
    /// Threads on their way out.
    leaving: Vec<Leaving>,
}

struct Leaving {
    tid: i32,
    wired: Vec<u64>,
}

static THREADS: Mutex<Threads> = Mutex::new(Threads { words: BTreeSet::new(), leaving: Vec::new() });

/// An execve ends all threads but one; the last of them is not the program's end.
static EXEC_UNDER_WAY: AtomicBool = AtomicBool::new(false);

fn threads() -> MutexGuard<'static, Threads> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An execve begins to end the other threads.
pub(super) fn exec_begins() {
    EXEC_UNDER_WAY.store(true, Ordering::SeqCst);
}

/// It has ended them, and their memory is gone.
pub(super) fn exec_ends(ctx: &Ctx) {
    let mut threads = threads();
    for gone in std::mem::take(&mut threads.leaving) {
        gone.wired.iter().for_each(|page| ctx.space.unwire(*page));
    }
    threads.words.clear();
    EXEC_UNDER_WAY.store(false, Ordering::SeqCst);
}

/// Answers a `clone` with `CLONE_VM`: Linux makes the thread, we remember its word.
///
/// => on a VM thread that serves no faults; does not sleep
pub fn on_clone(ctx: &Ctx, call: &Call) -> Reply {
    let [flags, _, _, child_tid, ..] = call.args;
    let wanted = (libc::CLONE_THREAD | libc::CLONE_CHILD_CLEARTID) as u64;
    if flags & libc::CLONE_THREAD as u64 == 0 {
        ctx.keeper.expect_heirs();
    }
    let mut threads = threads();
    threads.sweep(ctx);
    if flags & wanted == wanted && threads.words.len() < WORDS_MAX {
        threads.words.insert(child_tid);
    }
    Reply::Continue
}

/// Answers `exit`: Linux ends the thread, when what it stores last is wired. The last
/// thread ends the process.
///
/// => on a VM thread that serves no faults, with no lock of the VM; may wait for
/// page-ins
pub fn on_exit(ctx: &Ctx, call: &Call) -> Reply {
    if EXEC_UNDER_WAY.load(Ordering::SeqCst) {
        return Reply::Continue;
    }
    let status = call.args[0] as i32;
    let mut threads = threads();
    threads.sweep(ctx);
    let others = ctx.program_threads().into_iter().any(|tid| tid != call.tid && !threads.is_leaving(tid));
    if !others {
        // Linux, too, reports the last thread's status (since 6.0).
        drop(threads);
        ctx.report();
        // SAFETY: ends this process; the program's last thread waits for this.
        unsafe { libc::_exit(status) };
    }
    let mut wired: Vec<u64> = threads.last_stores(call.tid).into_iter().collect();
    wired.retain(|page| ctx.space.wire(*page).is_ok());
    threads.leaving.push(Leaving { tid: call.tid, wired });
    Reply::Continue
}

impl Threads {
    /// The main thread stays in the list as a zombie, and so counts as leaving for
    /// ever.
    fn is_leaving(&self, tid: i32) -> bool {
        self.leaving.iter().any(|l| l.tid == tid)
    }

    /// Unwires what threads needed that are gone.
    fn sweep(&mut self, ctx: &Ctx) {
        for gone in self.leaving.extract_if(.., |l| kin(l.tid) != Kin::Ours) {
            gone.wired.iter().for_each(|page| ctx.space.unwire(*page));
        }
    }

    /// The pages that the kernel reads or writes when `tid` exits.
    fn last_stores(&mut self, tid: i32) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        // A C library keeps the tid itself in the word. Where no word says it, any of
        // them may be meant.
        match self.words.iter().copied().find(|word| read_u32(*word) == Some(tid as u32)) {
            Some(word) => {
                self.words.remove(&word);
                pages.insert(word & !(PAGE - 1));
            }
            None => pages.extend(self.words.iter().take(64).map(|word| word & !(PAGE - 1))),
        }
        robust_pages(tid, &mut pages);
        pages
    }
}

/// Adds the pages of the robust list of `tid`: head, entries, and their futex words.
fn robust_pages(tid: i32, pages: &mut BTreeSet<u64>) {
    let (mut head, mut len) = (0u64, 0usize);
    // SAFETY: two words to write.
    if unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) } != 0 || head == 0
    {
        return;
    }
    let Some([first, offset, pending]) = read_words::<3>(head) else { return };
    pages.extend([head & !(PAGE - 1), (head + 23) & !(PAGE - 1)]);
    // The lowest bit says that the mutex inherits priority.
    let mut note = |entry: u64| {
        pages.extend([entry & !(PAGE - 1), entry.wrapping_add(offset) & !(PAGE - 1)]);
    };
    if pending & !1 != 0 {
        note(pending & !1);
    }
    let mut entry = first & !1;
    for _ in 0..ROBUST_LIST_LIMIT {
        if entry == head || entry == 0 {
            return;
        }
        note(entry);
        let Some([next]) = read_words::<1>(entry) else { return };
        entry = next & !1;
    }
}

fn read_u32(addr: u64) -> Option<u32> {
    let mut word = [0; 4];
    (copy_in(addr, &mut word) == 4).then(|| u32::from_ne_bytes(word))
}

fn read_words<const N: usize>(addr: u64) -> Option<[u64; N]> {
    let mut bytes = [0u8; 64];
    let bytes = &mut bytes[..8 * N];
    (copy_in(addr, bytes) == bytes.len())
        .then(|| std::array::from_fn(|i| u64::from_ne_bytes(std::array::from_fn(|b| bytes[8 * i + b]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_threads_are_ours_and_others_are_strangers() {
        // SAFETY: no argument.
        assert_eq!(kin(unsafe { libc::gettid() }), Kin::Ours);
        assert_eq!(kin(1), Kin::Stranger);
        let other = std::thread::spawn(|| {
            // SAFETY: no argument.
            kin(unsafe { libc::gettid() })
        });
        assert_eq!(other.join().unwrap(), Kin::Ours);
    }

    #[test]
    fn robust_entries_and_their_words_are_found() {
        // One entry whose futex lies in another page.
        let mut memory = vec![0u64; 2048];
        let base = memory.as_ptr() as u64;
        let entry = base + 4096;
        memory[0] = entry;
        memory[1] = 8192;
        memory[2] = 0;
        memory[512] = base;
        // SAFETY: the list is taken off again before its memory goes.
        let old = unsafe {
            let (mut head, mut len) = (0u64, 0usize);
            libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len);
            libc::syscall(libc::SYS_set_robust_list, base, 24);
            head
        };
        let mut pages = BTreeSet::new();
        robust_pages(0, &mut pages);
        // SAFETY: the thread's own list, as it was.
        unsafe { libc::syscall(libc::SYS_set_robust_list, old, 24) };
        for at in [base, entry, entry + 8192] {
            assert!(pages.contains(&(at & !4095)), "{at:#x} in {pages:x?}");
        }
    }
}

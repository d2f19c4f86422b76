//! A debugging aid: an address space that is Linux's own. Separates faults of the
//! process side from faults of the memory side.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::files::last_errno;
use super::space::{Call, Errno, Piece, Reply, Space};

/// Linux answers every memory call; only the loader's requests and the heap, whose
/// natural place is the VM's own, are served here.
#[derive(Debug, Default)]
pub struct NativeSpace {
    brk_start: AtomicU64,
    brk: AtomicU64,
    /// What the loader mapped and the program has not unmapped: start and end.
    loaded: Mutex<Vec<(u64, u64)>>,
}

fn check(result: i64) -> Result<u64, Errno> {
    if result == -1 { Err(last_errno()) } else { Ok(result as u64) }
}

impl NativeSpace {
    fn loaded(&self) -> MutexGuard<'_, Vec<(u64, u64)>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, start: u64, end: u64) {
        let mut loaded = self.loaded();
        let before = std::mem::take(&mut *loaded);
        for (from, to) in before {
            let rest = [(from, to.min(start)), (from.max(end), to)];
            loaded.extend(rest.into_iter().filter(|(from, to)| from < to));
        }
    }

    fn brk(&self, want: u64) -> u64 {
        let (start, now) = (self.brk_start.load(Ordering::Relaxed), self.brk.load(Ordering::Relaxed));
        let up = |addr: u64| (addr + 4095) & !4095;
        if want < start || want > start + (1 << 40) {
            return now;
        }
        let (old_end, new_end) = (up(now), up(want));
        let done = if new_end > old_end {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            self.map(old_end, new_end - old_end, prot, flags, None, 0).map(|_| ())
        } else {
            self.unmap(new_end, old_end - new_end)
        };
        if done.is_ok() {
            self.brk.store(want, Ordering::Relaxed);
        }
        self.brk.load(Ordering::Relaxed)
    }
}

impl Space for NativeSpace {
    fn memory_call(&self, call: &Call) -> Reply {
        match call.nr {
            libc::SYS_brk => Reply::Value(self.brk(call.args[0]) as i64),
            libc::SYS_munmap => {
                let start = call.args[0];
                self.forget(start, start.saturating_add(call.args[1].saturating_add(4095) & !4095));
                Reply::Continue
            }
            _ => Reply::Continue,
        }
    }

    fn map(
        &self,
        addr: u64,
        len: u64,
        prot: i32,
        flags: i32,
        fd: Option<i32>,
        offset: u64,
    ) -> Result<u64, Errno> {
        // SAFETY: the loader maps where nothing of the VM is: at addresses Linux chose, or
        // over what it got so.
        let got = check(unsafe {
            libc::syscall(libc::SYS_mmap, addr, len, prot, flags, fd.unwrap_or(-1), offset)
        })?;
        self.forget(got, got + ((len + 4095) & !4095));
        self.loaded().push((got, got + ((len + 4095) & !4095)));
        Ok(got)
    }

    fn make_stack(&self, limit: u64, executable: bool) -> Result<u64, Errno> {
        let len = limit.clamp(128 << 10, 64 << 20) & !4095;
        let exec = if executable { libc::PROT_EXEC } else { 0 };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        Ok(self.map(0, len, libc::PROT_READ | libc::PROT_WRITE | exec, flags, None, 0)? + len)
    }

    fn set_brk_start(&self, addr: u64) {
        self.brk_start.store(addr, Ordering::Relaxed);
        self.brk.store(addr, Ordering::Relaxed);
    }

    fn heap(&self) -> (u64, u64) {
        (self.brk_start.load(Ordering::Relaxed), self.brk.load(Ordering::Relaxed))
    }

    fn protect(&self, addr: u64, len: u64, prot: i32) -> Result<(), Errno> {
        // SAFETY: as for `map`.
        check(unsafe { libc::syscall(libc::SYS_mprotect, addr, len, prot) }).map(|_| ())
    }

    fn unmap(&self, addr: u64, len: u64) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        self.forget(addr, addr + ((len + 4095) & !4095));
        // SAFETY: as for `map`.
        check(unsafe { libc::syscall(libc::SYS_munmap, addr, len) }).map(|_| ())
    }

    // What the old program mapped itself is not told from the VM's memory, so it stays.
    fn clear(&self) {
        for (start, end) in std::mem::take(&mut *self.loaded()) {
            // SAFETY: the loader mapped this, and the program is gone.
            unsafe { libc::syscall(libc::SYS_munmap, start, end - start) };
        }
    }

    fn pieces(&self, _f: &mut dyn FnMut(&Piece)) {}

    fn freeze(&self) {}

    fn thaw(&self) {}

    fn read_page(&self, _addr: u64, _buf: &mut [u8; 4096]) -> bool {
        false
    }

    fn wire(&self, _addr: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn unwire(&self, _addr: u64) {}

    fn stats(&self) -> String {
        "machvm: no statistics, the memory is Linux's own\n".to_owned()
    }

    fn maps(&self) -> String {
        std::fs::read_to_string("/proc/thread-self/maps").unwrap_or_default()
    }
}

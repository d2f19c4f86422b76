//! A process's descriptors.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::file::{File, O_RDWR};
use super::path::{End, Place};
use crate::errno::{EBADF, EINVAL, EMFILE, Result};

/// Most open files of a process, unless RLIMIT_NOFILE said so.
const OPEN_MAX: usize = 1024;

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[derive(Clone)]
struct Slot {
    file: Arc<File>,
    close_on_exec: bool,
}

/// A process's open files, and where its paths begin.
pub(crate) struct Files {
    /// Its number: who has record locks.
    pub(crate) number: u64,
    slots: Vec<Option<Slot>>,
    /// The root and the current directory.
    pub(crate) cwd: Place,
    pub(crate) umask: u32,
    /// RLIMIT_NOFILE.
    pub(crate) limit: usize,
}

impl Files {
    /// The console three times.
    pub(crate) fn standard() -> Self {
        let mut files = Files {
            number: next_number(),
            slots: Vec::new(),
            cwd: Place::first(),
            umask: 0o022,
            limit: OPEN_MAX,
        };
        let console = files.cwd.find(b"/dev/console", End::Follow);
        if let Ok(file) = console.and_then(|c| File::open(c, None, O_RDWR)) {
            files.slots = alloc::vec![Some(Slot { file: Arc::new(file), close_on_exec: false }); 3];
        }
        files
    }
    /// A child's.
    pub(crate) fn for_child(&self) -> Self {
        Files {
            number: next_number(),
            slots: self.slots.clone(),
            cwd: self.cwd.clone(),
            umask: self.umask,
            limit: self.limit,
        }
    }
    /// exec closes some.
    pub(crate) fn close_on_exec(&mut self) {
        for i in 0..self.slots.len() {
            if let Some(s) = self.slots[i].take_if(|s| s.close_on_exec) {
                self.unlock(&s.file);
            }
        }
    }
    /// The process ends.
    pub(crate) fn close_all(&mut self) {
        let slots = core::mem::take(&mut self.slots);
        slots.iter().flatten().for_each(|s| self.unlock(&s.file));
    }
    /// A descriptor of a file is closed: with it go all locks on its records, those of other descriptors too.
    fn unlock(&self, file: &File) {
        file.inode.unlock_record(self.number, 0, u64::MAX);
    }
    fn slot(&self, fd: i32) -> Result<&Slot> {
        usize::try_from(fd).ok().and_then(|i| self.slots.get(i)?.as_ref()).ok_or(EBADF)
    }
    /// The file of a number.
    pub(crate) fn get(&self, fd: i32) -> Result<Arc<File>> {
        self.slot(fd).map(|s| s.file.clone())
    }
    /// Is it closed by exec?
    pub(crate) fn closes_on_exec(&self, fd: i32) -> Result<bool> {
        self.slot(fd).map(|s| s.close_on_exec)
    }
    /// It is closed by exec, or not.
    pub(crate) fn set_close_on_exec(&mut self, fd: i32, close: bool) -> Result<()> {
        let slot = usize::try_from(fd).ok().and_then(|i| self.slots.get_mut(i)?.as_mut()).ok_or(EBADF)?;
        slot.close_on_exec = close;
        Ok(())
    }
    /// The lowest free number from `from` on becomes this file's.
    pub(crate) fn add(&mut self, file: Arc<File>, close_on_exec: bool, from: usize) -> Result<i32> {
        if from >= self.limit {
            return Err(if from == 0 { EMFILE } else { EINVAL });
        }
        let at = (from..self.limit).find(|i| self.slots.get(*i).is_none_or(Option::is_none)).ok_or(EMFILE)?;
        self.put(at, Slot { file, close_on_exec });
        Ok(at as i32)
    }
    fn put(&mut self, at: usize, slot: Slot) -> Option<Slot> {
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        self.slots[at].replace(slot)
    }
    /// dup2(2): gives what had the number before, to be dropped with nothing locked.
    pub(crate) fn place(
        &mut self,
        at: i32,
        file: Arc<File>,
        close_on_exec: bool,
    ) -> Result<Option<Arc<File>>> {
        let at = usize::try_from(at).ok().filter(|i| *i < self.limit).ok_or(EBADF)?;
        let old = self.put(at, Slot { file, close_on_exec }).map(|s| s.file);
        old.iter().for_each(|f| self.unlock(f));
        Ok(old)
    }
    /// close(2): gives the file, to be dropped with nothing locked.
    pub(crate) fn close(&mut self, fd: i32) -> Result<Arc<File>> {
        let slot = usize::try_from(fd).ok().and_then(|i| self.slots.get_mut(i)).ok_or(EBADF)?;
        let file = slot.take().map(|s| s.file).ok_or(EBADF)?;
        self.unlock(&file);
        Ok(file)
    }
    /// The first number in use at or above `from`.
    pub(crate) fn next(&self, from: usize) -> Option<usize> {
        (from..self.slots.len()).find(|i| self.slots[*i].is_some())
    }
    /// Places for numbers, in steps of a word: FDSize of /proc/PID/status.
    pub(crate) fn room(&self) -> usize {
        self.slots.len().next_multiple_of(64).max(64)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.close_all();
    }
}

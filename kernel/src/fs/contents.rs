//! What is in a regular file: an object of the VM's. Who reads, writes or maps the file uses its pages, so all see the
//! same; page index `i` of the object is byte `i * PAGE_SIZE` of the file.

use alloc::sync::Arc;

use machvm::object::{Object, RemoveFlags, TO_THE_END};
use machvm::page::{ContentError, GrabError, GrabFlags, XBusy};
use machvm_arena::Handle;
use machvm_hal::{MaySleep, PAGE_SIZE, Pindex};

use super::initial::Initial;
use super::inode::FileSystem;
use super::pager::{self, FilePager};
use crate::embed::{Kernel, the_vm};
use crate::errno::{EFBIG, EIO, ENOMEM, ENOSPC, Errno, Result};
use crate::mutex::Mutex;

/// Files may grow to this many bytes.
pub(crate) const LARGEST: u64 = 1 << 50;

/// Contents of a file.
pub(crate) struct Contents {
    object: Handle<Object>,
    pager: &'static FilePager,
    /// What counts its pages.
    limited: Option<Arc<FileSystem>>,
    /// Taken by who writes or changes the size. `true`: there may be holes.
    writer: Mutex<bool>,
}

fn error(e: GrabError) -> Errno {
    match e {
        GrabError::NoMemory => ENOSPC,
        GrabError::Beyond => EFBIG,
        _ => EIO,
    }
}

/// The page index of a byte.
fn page_of(at: u64) -> Pindex {
    Pindex(at / PAGE_SIZE)
}

impl Contents {
    /// Of a new file that begins with these bytes.
    pub(super) fn new(initial: Initial, fs: &Arc<FileSystem>) -> Result<Contents> {
        let pager = pager::take(initial).ok_or(ENOSPC)?;
        let may = &mut MaySleep::claim();
        let made = the_vm().object_from_pager(LARGEST / PAGE_SIZE, pager.id(), 0, false, may);
        let (object, _) = made.map_err(|_| ENOMEM)?;
        let limited = fs.is_limited().then(|| fs.clone());
        Ok(Contents { object, pager, limited, writer: Mutex::new(false) })
    }
    /// The file begins with these bytes. => nobody used it yet.
    pub(super) fn begin_as(&self, initial: Initial) {
        self.pager.begin_as(initial);
    }
    /// The object, with a reference of the caller's: for a mapping. Accesses behind the file's last page end with
    /// [`machvm::FaultError::Beyond`].
    pub(crate) fn object(&self) -> Handle<Object> {
        the_vm().object_reference(self.object);
        self.object
    }
    /// Bytes in it.
    pub(crate) fn size(&self) -> u64 {
        self.pager.size()
    }

    /// Reads from byte `at`; gives how many bytes there were.
    pub(crate) fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = at.saturating_add(done as u64);
            let left = self.size().saturating_sub(at);
            if left == 0 {
                break;
            }
            let off = (at % PAGE_SIZE) as usize;
            let n = (buf.len() - done)
                .min(PAGE_SIZE as usize - off)
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let to = &mut buf[done..done + n];
            match the_vm().vm_page_grab_shared(
                self.object,
                page_of(at),
                GrabFlags::empty(),
                &mut MaySleep::claim(),
            ) {
                Ok(page) => page.read(off, to).map_err(|_| EIO)?,
                // It was cut meanwhile.
                Err(GrabError::Pager(_)) if at >= self.size() => break,
                Err(GrabError::NoMemory) => return Err(ENOMEM),
                Err(e) => return Err(error(e)),
            }
            done += n;
        }
        Ok(done)
    }

    /// Writes at byte `at`, or at the end; gives where that was and how much was written.
    pub(crate) fn write_at(&self, at: Option<u64>, data: &[u8]) -> Result<(u64, usize)> {
        let mut holes = self.writer.lock();
        let start = at.unwrap_or_else(|| self.size());
        if data.is_empty() {
            return Ok((start, 0));
        }
        if start >= LARGEST {
            return Err(EFBIG);
        }
        let data = &data[..data.len().min((LARGEST - start) as usize)];
        if start > self.size() {
            *holes = true;
            self.clear_tail()?;
        }
        let mut done = 0;
        while done < data.len() {
            let at = start + done as u64;
            let n = (data.len() - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            if let Err(e) = self.put(at, &data[done..done + n]) {
                if done == 0 {
                    return Err(e);
                }
                break;
            }
            done += n;
            if at + n as u64 > self.size() {
                self.pager.set_size(at + n as u64);
            }
        }
        Ok((start, done))
    }

    /// If the page is not there it is about to come.
    fn charge(&self, page: Pindex, may: &mut MaySleep) -> Result<()> {
        match &self.limited {
            Some(fs) if the_vm().vm_object_next(self.object, page, may) != Some(page) => fs.charge(),
            _ => Ok(()),
        }
    }

    /// Pages that are there.
    pub(super) fn pages(&self) -> u64 {
        let (mut next, mut n) = (Pindex(0), 0);
        while let Some(p) = the_vm().vm_object_next(self.object, next, &mut MaySleep::claim()) {
            (next, n) = (Pindex(p.0 + 1), n + 1);
        }
        n
    }

    /// Writes inside one page. => locked by the caller.
    fn put(&self, at: u64, data: &[u8]) -> Result<()> {
        let (vm, may) = (the_vm(), &mut MaySleep::claim());
        let off = (at % PAGE_SIZE) as usize;
        self.charge(page_of(at), may)?;
        loop {
            let mut x: XBusy<'_, Kernel> = if at - off as u64 >= self.size() {
                // A new page at the end.
                vm.vm_page_grab(self.object, page_of(at), GrabFlags::ZERO, may).map_err(error)?
            } else if data.len() == PAGE_SIZE as usize {
                vm.vm_page_grab(self.object, page_of(at), GrabFlags::empty(), may).map_err(error)?
            } else {
                vm.vm_page_grab_valid(self.object, page_of(at), GrabFlags::empty(), may).map_err(error)?
            };
            match x.write(off, data, may) {
                Ok(()) => {
                    x.set_valid();
                    return Ok(());
                }
                Err(ContentError::Shared) => {} // copied just now
                Err(_) => return Err(EIO),
            }
        }
    }

    /// The bytes between the end and the end of its page become zero: who maps the file may have written there.
    ///
    /// => locked by the caller.
    fn clear_tail(&self) -> Result<()> {
        let size = self.size();
        let tail = size.next_multiple_of(PAGE_SIZE) - size;
        if tail == 0
            || the_vm().vm_object_next(self.object, page_of(size), &mut MaySleep::claim())
                != Some(page_of(size))
        {
            return Ok(());
        }
        self.put(size, &[0; PAGE_SIZE as usize][..tail as usize])
    }

    /// The file has `size` bytes from now on: what is behind them goes, what is new is zero.
    pub(crate) fn resize(&self, size: u64) -> Result<()> {
        if size > LARGEST {
            return Err(EFBIG);
        }
        let mut holes = self.writer.lock();
        let old = self.size();
        if size > old {
            *holes = true;
            self.clear_tail()?;
            self.pager.set_size(size);
            return Ok(());
        }
        if size < old {
            self.pager.set_size(size);
            let first = Pindex(size.div_ceil(PAGE_SIZE));
            let may = &mut MaySleep::claim();
            the_vm()
                .vm_object_page_remove(self.object, first, TO_THE_END, RemoveFlags::empty(), may)
                .map_err(|_| ENOMEM)?;
            self.clear_tail()?;
        }
        Ok(())
    }

    /// Bytes `[at, end)` become zero, whole pages of them holes. => `end` is not behind the end of the file.
    pub(crate) fn punch(&self, at: u64, end: u64) -> Result<()> {
        let mut holes = self.writer.lock();
        let end = end.min(self.size());
        let mut next = at;
        while next < end {
            let stop = end.min((next / PAGE_SIZE + 1) * PAGE_SIZE);
            let here = page_of(next);
            let whole =
                next.is_multiple_of(PAGE_SIZE) && (stop.is_multiple_of(PAGE_SIZE) || stop == self.size());
            if whole && next >= self.pager.initial_len() {
                *holes = true;
                let may = &mut MaySleep::claim();
                // To the next page with something in it, all at once.
                match the_vm().vm_object_next(self.object, here, may) {
                    Some(p) if p.0 * PAGE_SIZE < end => {
                        next = next.max(p.0 * PAGE_SIZE);
                        if p != here {
                            continue;
                        }
                    }
                    _ => break,
                }
                the_vm()
                    .vm_object_page_remove(self.object, here, 1, RemoveFlags::empty(), may)
                    .map_err(|_| ENOMEM)?;
            } else {
                self.put(next, &[0; PAGE_SIZE as usize][..(stop - next) as usize])?;
            }
            next = stop;
        }
        Ok(())
    }

    /// The pages of `[at, end)` are there from now on; the file grows to `end` unless `keep`.
    pub(crate) fn allocate(&self, at: u64, end: u64, keep: bool) -> Result<()> {
        if end > LARGEST {
            return Err(EFBIG);
        }
        if end > self.size() && !keep {
            self.resize(end)?;
        }
        let _writer = self.writer.lock();
        let stop = end.min(self.size());
        for i in at / PAGE_SIZE..stop.div_ceil(PAGE_SIZE) {
            let may = &mut MaySleep::claim();
            self.charge(Pindex(i), may)?;
            let mut page = the_vm()
                .vm_page_grab_valid(self.object, Pindex(i), GrabFlags::empty(), may)
                .map_err(error)?;
            page.dirty();
        }
        Ok(())
    }

    /// The first byte at or behind `at` that is data, or in a hole (lseek's SEEK_DATA, SEEK_HOLE). `None`: there is no
    /// more data.
    pub(crate) fn seek(&self, at: u64, data: bool) -> Option<u64> {
        let size = self.size();
        let (initial, may) = (self.pager.initial_len(), &mut MaySleep::claim());
        let mut next = at;
        while next < size {
            let found = the_vm().vm_object_next(self.object, page_of(next), may);
            let is_data = next < initial || found == Some(page_of(next));
            if is_data == data {
                return Some(next);
            }
            next = match found {
                Some(p) if data => p.0 * PAGE_SIZE,
                None if data => return None,
                _ => (next / PAGE_SIZE + 1) * PAGE_SIZE,
            };
        }
        (!data && at < size).then_some(size)
    }

    /// Blocks of 512 bytes that it takes.
    pub(crate) fn blocks(&self) -> u64 {
        let pages = self.size().div_ceil(PAGE_SIZE);
        if !*self.writer.lock() {
            return pages * (PAGE_SIZE / 512);
        }
        let (mut next, mut n) = (self.pager.initial_len().div_ceil(PAGE_SIZE), 0);
        n += next;
        while let Some(p) = the_vm().vm_object_next(self.object, Pindex(next), &mut MaySleep::claim()) {
            n += 1;
            next = p.0 + 1;
        }
        n * (PAGE_SIZE / 512)
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        the_vm().object_deallocate(self.object, &mut MaySleep::claim());
    }
}

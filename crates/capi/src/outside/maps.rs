//! What Linux has mapped: `/proc/self/maps`.
//!
//! Since Linux 6.11 a single mapping can be asked for, which takes the same time however
//! many there are; before, the text is read, once for a walk upwards.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use machvm_hal::Prot;
use machvm_linux::library::next_window;

use super::USER_END;

/// A mapping of the process, or what is left of it beside the windows of tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    /// First address.
    pub(crate) start: u64,
    /// One past the last.
    pub(crate) end: u64,
    /// What may be done.
    pub(crate) prot: Prot,
    /// `MAP_SHARED`.
    pub(crate) shared: bool,
    /// Byte offset of `start` in the file.
    pub(crate) offset: u64,
    /// The file's number; 0: anonymous.
    pub(crate) inode: u64,
}

impl Mapping {
    /// Bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.end - self.start
    }
    /// Is it anonymous memory of this process alone?
    pub(crate) fn is_private_anonymous(&self) -> bool {
        !self.shared && self.inode == 0
    }
    /// Is it a file's contents, as the program's text is, that this process cannot write and
    /// others do not share?
    pub(crate) fn is_constant(&self) -> bool {
        !self.shared && self.inode != 0 && !self.prot.contains(Prot::W)
    }
    /// The first part that is not in a window and ends above `addr`; or where to look on.
    fn beside_windows(self, addr: u64) -> Result<Mapping, u64> {
        let mut at = self.start;
        while at < self.end {
            let window = next_window(at, self.end);
            let end = window.map_or(self.end, |w| w.0);
            if end > at && end > addr {
                return Ok(Mapping { end, ..self.from(at) });
            }
            at = window.map_or(self.end, |w| w.1);
        }
        Err(at)
    }
    /// The part at and above `from`.
    fn from(mut self, from: u64) -> Self {
        if self.start < from {
            self.offset = self.offset.wrapping_add(from - self.start);
            self.start = from;
        }
        self
    }
}

/// A look at the mappings.
#[derive(Debug)]
pub(crate) enum Maps {
    /// Asks for one.
    Query(File),
    /// Reads them all.
    Text(Text),
}

/// The text, up to some line.
#[derive(Debug)]
pub(crate) struct Text {
    lines: BufReader<File>,
    /// The line that was read last.
    last: Option<Mapping>,
    /// Nothing is mapped in `[end of the line before, start of the last)`.
    after: u64,
    line: String,
}

const PATH: &str = "/proc/self/maps";
/// `PROCMAP_QUERY`: `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: libc::c_ulong = 0xc068_6611;
/// `PROCMAP_QUERY_COVERING_OR_NEXT_VMA`.
const COVERING_OR_NEXT: u64 = 0x10;
/// `PROCMAP_QUERY_VMA_SHARED`, after READABLE, WRITABLE and EXECUTABLE.
const SHARED: u64 = 8;

/// `struct procmap_query`.
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev: [u32; 2],
    name_sizes: [u32; 2],
    names: [u64; 2],
}

const _: () = assert!(size_of::<Query>() == 0x68);

/// Asks the kernel; `None`: nothing at or above.
fn query(file: &File, addr: u64) -> io::Result<Option<Mapping>> {
    let size = size_of::<Query>() as u64;
    let mut q = Query { size, query_flags: COVERING_OR_NEXT, query_addr: addr, ..Query::default() };
    // SAFETY: the structure that the request names; no buffers are in it.
    if unsafe { libc::ioctl(file.as_raw_fd(), PROCMAP_QUERY, &raw mut q) } == 0 {
        return Ok(Some(Mapping {
            start: q.vma_start,
            end: q.vma_end,
            prot: Prot::from_bits_truncate((q.vma_flags & 7) as u8),
            shared: q.vma_flags & SHARED != 0,
            offset: q.vma_offset,
            inode: q.inode,
        }));
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        e => Err(e),
    }
}

/// A line of the text.
fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let hex = |s: &str| u64::from_str_radix(s, 16).ok();
    let rights = fields.next()?.as_bytes();
    let mut prot = Prot::NONE;
    prot.set(Prot::R, rights.first() == Some(&b'r'));
    prot.set(Prot::W, rights.get(1) == Some(&b'w'));
    prot.set(Prot::X, rights.get(2) == Some(&b'x'));
    let shared = rights.get(3) == Some(&b's');
    let offset = hex(fields.next()?)?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Mapping { start: hex(start)?, end: hex(end)?, prot, shared, offset, inode })
}

impl Text {
    fn of(file: File) -> Self {
        let lines = BufReader::with_capacity(1 << 16, file);
        Text { lines, last: None, after: 0, line: String::new() }
    }

    fn next(&mut self, addr: u64) -> io::Result<Option<Mapping>> {
        if addr < self.after {
            self.lines.rewind()?;
            (self.last, self.after) = (None, 0);
        }
        loop {
            if let Some(m) = self.last.filter(|m| m.end > addr) {
                return Ok(Some(m));
            }
            self.line.clear();
            if self.lines.read_line(&mut self.line)? == 0 {
                return Ok(None);
            }
            let m = parse(&self.line).ok_or(io::ErrorKind::InvalidData)?;
            self.after = self.last.map_or(0, |m| m.end);
            self.last = Some(m);
        }
    }
}

impl Maps {
    /// Opens the list.
    ///
    /// # Errors
    /// No descriptor, or no `/proc`.
    pub(crate) fn open() -> io::Result<Self> {
        /// 0: not asked yet, 1: a single mapping can be asked for, 2: it cannot.
        static HOW: AtomicU8 = AtomicU8::new(0);
        let file = File::open(PATH)?;
        if HOW.load(Relaxed) == 0 {
            HOW.store(if query(&file, 0).is_ok() { 1 } else { 2 }, Relaxed);
        }
        if HOW.load(Relaxed) == 1 { Ok(Maps::Query(file)) } else { Ok(Maps::Text(Text::of(file))) }
    }

    /// The mapping that holds `addr`, or the next above it.
    ///
    /// # Errors
    /// The list cannot be read.
    pub(crate) fn next(&mut self, addr: u64) -> io::Result<Option<Mapping>> {
        let mut at = addr;
        loop {
            let found = match self {
                Maps::Query(file) => query(file, at)?,
                Maps::Text(text) => text.next(at)?,
            };
            // The kernel's own page at the top is in the text.
            let Some(m) = found.filter(|m| m.start < USER_END) else { return Ok(None) };
            match m.beside_windows(addr) {
                Ok(part) => return Ok(Some(part)),
                Err(next) => at = next,
            }
        }
    }

    /// What is mapped in `[start, end)`, cut to it, ascending.
    ///
    /// # Errors
    /// The list cannot be read.
    pub(crate) fn within(start: u64, end: u64) -> io::Result<Vec<Mapping>> {
        let (mut maps, mut all, mut at) = (Maps::open()?, Vec::new(), start);
        while at < end
            && let Some(m) = maps.next(at)?.filter(|m| m.start < end)
        {
            at = m.end;
            all.push(Mapping { end: m.end.min(end), ..m.from(start) });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(maps: &mut Maps) -> Vec<Mapping> {
        let (mut all, mut at) = (Vec::new(), 0);
        while let Some(m) = maps.next(at).unwrap() {
            assert!(m.start >= at && m.end > m.start, "{m:x?} at {at:#x}");
            at = m.end;
            all.push(m);
        }
        all
    }

    #[test]
    fn a_line_is_read() {
        let line = "7f0a2c000000-7f0a2c021000 r-xs 00001000 08:01 4242   /usr/lib/a file";
        let m = parse(line).unwrap();
        assert_eq!((m.start, m.end), (0x7f0a_2c00_0000, 0x7f0a_2c02_1000));
        assert_eq!((m.prot, m.shared, m.offset, m.inode), (Prot::R | Prot::X, true, 0x1000, 4242));
        for bad in ["", "12", "12-13", "12-13 rwxp", "12-13 rwxp zz 1:1 0", "x-y rwxp 0 1:1 0"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn both_ways_of_asking_agree() {
        // Other tests map and unmap meanwhile: what does not change is a page of our own.
        let len = 3 << 12;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let p = unsafe { libc::mmap(core::ptr::null_mut(), len, libc::PROT_READ, flags, -1, 0) };
        assert_ne!(p, libc::MAP_FAILED);
        let at = p.addr() as u64;
        // SAFETY: the middle of it; nobody uses it.
        assert_eq!(unsafe { libc::mprotect(p.byte_add(4096), 4096, libc::PROT_NONE) }, 0);
        let mut text = Maps::Text(Text::of(File::open(PATH).unwrap()));
        for mut maps in [Maps::open().unwrap(), Maps::Text(Text::of(File::open(PATH).unwrap()))] {
            for (addr, prot) in [(at + 4096, Prot::NONE), (at, Prot::R), (at + 8192, Prot::R)] {
                let m = maps.next(addr + 5).unwrap().unwrap();
                assert!(m.start <= addr && addr + 4096 <= m.end, "{m:x?}");
                assert_eq!((m.prot, m.shared, m.inode), (prot, false, 0));
            }
            // `next` gives the mapping whole, however far inside the address is.
            assert_eq!(maps.next(at + 4096 + 77).unwrap().unwrap().start, at + 4096);
        }
        assert!(walk(&mut text).len() > 3);
        // SAFETY: made above.
        unsafe { libc::munmap(p, len) };
    }
}

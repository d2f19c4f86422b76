//! What Linux knows of single pages of outside memory: `/proc/self/pagemap`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use machvm::task::Disposition;
use machvm_hal::{PAGE_SIZE, Prot};

use super::maps::Mapping;

/// Pages of a mapping, by state.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    /// In memory.
    pub(crate) resident: u64,
    /// On swap.
    pub(crate) swapped: u64,
    /// In memory, and a file's although the mapping is private: a write would copy them.
    pub(crate) copied: u64,
    /// In memory, anonymous.
    pub(crate) dirty: u64,
}

/// A word of the pagemap.
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    fn present(self) -> bool {
        self.0 >> 63 & 1 != 0
    }
    fn swapped(self) -> bool {
        self.0 >> 62 & 1 != 0
    }
    /// A page of a file or of shared memory.
    fn of_file(self) -> bool {
        self.0 >> 61 & 1 != 0
    }
}

/// Words read at once: 32 MiB of addresses.
const WORDS: usize = 8192;

/// Calls `each` for every page of `[start, end)`. Where Linux does not say (`/proc` is
/// missing) nothing is called.
fn walk(start: u64, end: u64, mut each: impl FnMut(Entry)) {
    let Ok(file) = File::open("/proc/self/pagemap") else { return };
    let mut buf = vec![0u8; WORDS.min(((end - start) / PAGE_SIZE) as usize) * 8];
    let mut at = start;
    while at < end {
        let n = (((end - at) / PAGE_SIZE) as usize * 8).min(buf.len());
        let Ok(n @ 8..) = file.read_at(&mut buf[..n], at / PAGE_SIZE * 8) else { return };
        for word in buf[..n].chunks_exact(8) {
            each(Entry(u64::from_ne_bytes(word.try_into().unwrap_or_default())));
            at += PAGE_SIZE;
        }
    }
}

/// Addresses that are only reserved have no pages, however many they are.
fn is_reserved(m: &Mapping) -> bool {
    m.prot == Prot::NONE && m.is_private_anonymous() && m.bytes() > 1 << 30
}

/// Counts the pages of a mapping.
pub(crate) fn count(m: &Mapping) -> Counts {
    let mut c = Counts::default();
    if !is_reserved(m) {
        walk(m.start, m.end, |e| {
            c.resident += u64::from(e.present());
            c.swapped += u64::from(e.swapped());
            c.copied += u64::from(e.present() && e.of_file() && !m.shared);
            c.dirty += u64::from(e.present() && !e.of_file());
        });
    }
    c
}

/// Appends what is known of each page of `[start, end)`, which lies in `m`.
pub(crate) fn dispositions(m: &Mapping, start: u64, end: u64, out: &mut Vec<Disposition>) {
    let mut all = Disposition::empty();
    all.set(Disposition::EXTERNAL, m.inode != 0);
    let before = out.len();
    walk(start, end, |e| {
        let mut d = all;
        d.set(Disposition::PRESENT, e.present());
        d.set(Disposition::PAGED_OUT, e.swapped());
        d.set(Disposition::DIRTY, e.present() && !e.of_file());
        d.set(Disposition::COPIED, e.present() && e.of_file() && !m.shared);
        out.push(d);
    });
    out.resize(before + ((end - start) / PAGE_SIZE) as usize, all);
}

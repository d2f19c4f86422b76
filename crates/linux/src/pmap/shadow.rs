//! The pmap's own page tables: what Linux was told, since it cannot be asked.
//!
//! Three levels of directories (512 entries each) and leaves of 512 entries, one
//! leaf for each 2 MiB window. Directories and leaves are type-stable slab objects,
//! so a walk takes no lock; who wants to look twice locks the leaf and compares its
//! tag. The leaf's lock is held across a check and the ioctl that follows from it,
//! so our order of events is Linux's.
//!
//! Letters: L the leaf's lock (rank pmap), G the root's grow lock (same rank, never
//! together; G then L by try), a atomic.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, Ordering};

use machvm_arena::{Handle, HandleField, NoMemory, Slab};
use machvm_hal::pmap9::Frame;
use machvm_hal::{PageNo, Pfn, Prot, Va, VaRange};
use machvm_sync::{Field64, Rank, Spin, SpinGuard};

use crate::chunk::LinuxChunks;

/// Pages of a leaf.
pub(super) const WINDOW: u64 = 512;
/// Page numbers of the user half of the address space: 47 bits of address.
pub(super) const PAGES: u64 = 1 << 35;

/// A page is mapped; its number is in the upper half.
const PRESENT: u64 = 1;
/// Writes are not trapped.
const WRITE: u64 = 2;
/// The map wants it to stay.
const WIRED: u64 = 4;
/// [`super::nine`] only: Linux has been told to forget it, so the next use faults.
const IDLE: u64 = 8;
/// [`super::nine`] only: writes are allowed, once noted.
const MAY_WRITE: u64 = 16;
/// [`super::nine`] only: fetches are allowed.
const MAY_EXECUTE: u64 = 32;
/// [`super::nine`] only: a mapping of a frame, not of a page; the frame's number is from
/// [`FRAME_SHIFT`] on.
const UNMANAGED: u64 = 64;
const FRAME_SHIFT: u32 = 12;

/// An entry of a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Pte(u64);

impl Pte {
    pub(super) const NONE: Pte = Pte(0);

    pub(super) fn new(page: PageNo, write: bool, wired: bool) -> Self {
        let flags = PRESENT | if write { WRITE } else { 0 } | if wired { WIRED } else { 0 };
        Pte((u64::from(page.0.get()) << 32) | flags)
    }
    pub(super) fn page(self) -> Option<PageNo> {
        NonZeroU32::new((self.0 >> 32) as u32).filter(|_| self.0 & UNMANAGED == 0).map(PageNo)
    }
    pub(super) const fn present(self) -> bool {
        self.0 & PRESENT != 0
    }
    pub(super) const fn write(self) -> bool {
        self.0 & WRITE != 0
    }
    pub(super) const fn wired(self) -> bool {
        self.0 & WIRED != 0
    }
    pub(super) const fn with_write(self) -> Self {
        Pte(self.0 | WRITE)
    }
    pub(super) const fn without_write(self) -> Self {
        Pte(self.0 & !WRITE)
    }
    pub(super) const fn with_wired(self) -> Self {
        Pte(self.0 | WIRED)
    }
    pub(super) const fn without_wired(self) -> Self {
        Pte(self.0 & !WIRED)
    }
}

/// An entry of a `pmap(9)` pmap: an unmapped page is `None` of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) frame: Frame,
    /// Allowed, whether or not Linux would grant it at once.
    pub(super) rights: Prot,
    pub(super) wired: bool,
    /// Linux has it: used since this was last cleared, as far as anyone can tell.
    pub(super) used: bool,
    /// Linux lets it be written without asking: modified, likewise.
    pub(super) dirty: bool,
}

impl Entry {
    pub(super) fn of(pte: Pte) -> Option<Self> {
        let has = |bit| pte.0 & bit != 0;
        let frame = if has(UNMANAGED) {
            Frame::Unmanaged(Pfn(pte.0 >> FRAME_SHIFT))
        } else {
            Frame::Page(pte.page()?)
        };
        let mut rights = Prot::R;
        rights.set(Prot::W, has(MAY_WRITE));
        rights.set(Prot::X, has(MAY_EXECUTE));
        let (wired, used, dirty) = (has(WIRED), !has(IDLE), has(WRITE));
        has(PRESENT).then_some(Entry { frame, rights, wired, used, dirty })
    }

    pub(super) fn pte(self) -> Pte {
        let frame = match self.frame {
            Frame::Page(page) => u64::from(page.0.get()) << 32,
            Frame::Unmanaged(pfn) => (pfn.0 << FRAME_SHIFT) | UNMANAGED,
        };
        let flags = [
            (WRITE, self.dirty),
            (WIRED, self.wired),
            (IDLE, !self.used),
            (MAY_WRITE, self.rights.contains(Prot::W)),
            (MAY_EXECUTE, self.rights.contains(Prot::X)),
        ];
        Pte(flags.iter().filter(|(_, on)| *on).fold(frame | PRESENT, |bits, (flag, _)| bits | flag))
    }
}

/// A directory: raw handles of the level below, 0 for none. \[G to write, a to read\]
pub(super) struct Dir([AtomicU32; 512]);

impl Default for Dir {
    fn default() -> Self {
        Dir([const { AtomicU32::new(0) }; 512])
    }
}

/// The entries of one 2 MiB window of one pmap.
pub(super) struct Leaf {
    /// Number of entries present. \[L\]
    present: Spin<u32>,
    /// [`tag`] of the window it serves; 0: none. \[G; stable while G or L and equal\]
    tag: Field64,
    /// \[L to write, a to read\]
    ptes: [Field64; WINDOW as usize],
}

impl Default for Leaf {
    fn default() -> Self {
        Leaf {
            present: Spin::new(Rank::Pmap, 0),
            tag: Field64::new(0),
            ptes: [const { Field64::new(0) }; WINDOW as usize],
        }
    }
}

/// What a leaf serves: the pmap's number (from one) and the window.
const fn tag(id: u32, page: u64) -> u64 {
    ((id as u64) << 40) | (page / WINDOW)
}

/// A leaf that is locked and serves the window it was looked up for.
pub(super) struct Locked<'a> {
    leaf: &'a Leaf,
    present: SpinGuard<'a, u32>,
}

impl Locked<'_> {
    /// The entry `i` of the window.
    pub(super) fn pte(&self, i: usize) -> Pte {
        Pte(self.leaf.ptes[i].get())
    }
    /// Replaces it.
    pub(super) fn set(&mut self, i: usize, pte: Pte) {
        let (old, new) = (self.pte(i).present(), pte.present());
        *self.present = *self.present + u32::from(new) - u32::from(old);
        self.leaf.ptes[i].set(pte.0);
    }
    /// Number of entries present.
    pub(super) fn present(&self) -> u32 {
        *self.present
    }
}

/// The top of one pmap's tables.
pub(super) struct Root {
    dir: HandleField<Dir>,
    grow: Spin<()>,
}

impl Default for Root {
    fn default() -> Self {
        Root { dir: HandleField::default(), grow: Spin::new(Rank::Pmap, ()) }
    }
}

/// The tables of every pmap.
pub(super) struct Tables {
    dirs: Slab<Dir, LinuxChunks>,
    leaves: Slab<Leaf, LinuxChunks>,
}

/// Levels of directories, and how far each shifts a page number.
const SHIFTS: [u32; 3] = [26, 17, 9];

const fn index(page: u64, level: usize) -> usize {
    (page >> SHIFTS[level]) as usize & 511
}

impl Tables {
    /// At most `limit` directories and as many leaves.
    pub(super) fn new(limit: u32) -> Self {
        Tables {
            dirs: Slab::new(LinuxChunks, limit.min(1 << 24)),
            leaves: Slab::new(LinuxChunks, limit.min(1 << 28)),
        }
    }

    /// Gives a new pmap its top.
    pub(super) fn init(&self, root: &Root) -> Result<(), NoMemory> {
        root.dir.set(Some(self.dirs.alloc()?));
        Ok(())
    }

    /// The slot of `page` at `level`, or the level where the walk ended.
    fn slot(&self, root: &Root, page: u64, level: usize) -> Result<&AtomicU32, usize> {
        let mut dir = root.dir.get().ok_or(0usize)?;
        for l in 0..level {
            let raw = self.dirs.get(dir).0[index(page, l)].load(Ordering::Acquire);
            dir = NonZeroU32::new(raw).map(Handle::from_raw).ok_or(l)?;
        }
        Ok(&self.dirs.get(dir).0[index(page, level)])
    }

    fn find(&self, root: &Root, page: u64) -> Result<&Leaf, usize> {
        if page >= PAGES {
            return Err(0);
        }
        let raw = self.slot(root, page, 2)?.load(Ordering::Acquire);
        self.leaves.lookup(raw).ok_or(2)
    }

    /// Locks the leaf of `va`, if there is one.
    pub(super) fn lock(&self, root: &Root, id: u32, va: Va) -> Option<Locked<'_>> {
        loop {
            let leaf = self.find(root, va.page()).ok()?;
            let present = leaf.present.lock();
            if leaf.tag.get() == tag(id, va.page()) {
                return Some(Locked { leaf, present });
            }
            // Given up between the walk and the lock: its slot is empty by now.
        }
    }

    /// Locks the leaf of `va`; makes it first when there is none.
    pub(super) fn lock_or_make(&self, root: &Root, id: u32, va: Va) -> Result<Locked<'_>, NoMemory> {
        loop {
            if let Some(locked) = self.lock(root, id, va) {
                return Ok(locked);
            }
            self.make(root, id, va.page())?;
        }
    }

    fn make(&self, root: &Root, id: u32, page: u64) -> Result<(), NoMemory> {
        if page >= PAGES {
            return Err(NoMemory);
        }
        let _grow = root.grow.lock();
        for level in 0..3 {
            let Ok(slot) = self.slot(root, page, level) else { return Err(NoMemory) };
            if slot.load(Ordering::Relaxed) != 0 {
                continue;
            }
            let raw = if level < 2 {
                self.dirs.alloc()?.get() // given back empty, so it is empty
            } else {
                let leaf = self.leaves.alloc()?;
                self.leaves.get(leaf).tag.set(tag(id, page));
                leaf.get()
            };
            // Release: whoever finds it sees the tag and the empty entries.
            slot.store(raw, Ordering::Release);
        }
        Ok(())
    }

    /// The entry of `va`, without a lock: true at some moment of the call.
    pub(super) fn peek(&self, root: &Root, id: u32, va: Va) -> Option<Pte> {
        let leaf = self.find(root, va.page()).ok()?;
        let pte = Pte(leaf.ptes[(va.page() % WINDOW) as usize].get());
        (pte.present() && leaf.tag.get() == tag(id, va.page())).then_some(pte)
    }

    /// Calls `f` with the part of `range` in each window that has a leaf.
    pub(super) fn for_each_window(&self, root: &Root, range: VaRange, mut f: impl FnMut(VaRange)) {
        let (mut page, end) = (range.start().page(), range.end().page().min(PAGES));
        while page < end {
            let level = self.find(root, page).err();
            let span = level.map_or(WINDOW, |l| 1 << SHIFTS[l]);
            let next = (page / span + 1) * span;
            if level.is_none()
                && let Some(part) = VaRange::between(Va::from_page(page), Va::from_page(next.min(end)))
            {
                f(part);
            }
            page = next;
        }
    }

    /// Gives back the leaves of `range` that are empty.
    ///
    /// => nobody enters anything in the range meanwhile.
    pub(super) fn prune(&self, root: &Root, range: VaRange) {
        let _grow = root.grow.lock();
        self.for_each_window(root, range, |part| {
            let Ok(slot) = self.slot(root, part.start().page(), 2) else { return };
            let Some(raw) = NonZeroU32::new(slot.load(Ordering::Relaxed)) else { return };
            let handle = Handle::from_raw(raw);
            let leaf: &Leaf = self.leaves.get(handle);
            // Against the order, so by try; a leaf somebody looks at now stays.
            let Some(present) = leaf.present.try_lock() else { return };
            if *present == 0 {
                slot.store(0, Ordering::Release);
                leaf.tag.set(0);
                drop(present);
                self.leaves.free(handle);
            }
        });
    }

    /// Gives everything back.
    ///
    /// => no entry is present, nobody uses the pmap.
    pub(super) fn destroy(&self, root: &Root) {
        if let Some(all) = VaRange::between(Va::ZERO, Va::from_page(PAGES)) {
            self.prune(root, all);
        }
        if let Some(top) = root.dir.get() {
            self.free_dir(top, 0);
        }
        root.dir.set(None);
    }

    fn free_dir(&self, dir: Handle<Dir>, level: usize) {
        for slot in &self.dirs.get(dir).0 {
            if let Some(raw) = NonZeroU32::new(slot.load(Ordering::Relaxed)) {
                if level < 2 {
                    self.free_dir(Handle::from_raw(raw), level + 1);
                    slot.store(0, Ordering::Relaxed);
                } else {
                    // A leaf that prune left, because somebody with a stale record had
                    // it locked for a look: it is empty and serves nothing.
                    let handle = Handle::from_raw(raw);
                    let leaf: &Leaf = self.leaves.get(handle);
                    let present = leaf.present.lock();
                    slot.store(0, Ordering::Relaxed);
                    leaf.tag.set(0);
                    drop(present);
                    self.leaves.free(handle);
                }
            }
        }
        self.dirs.free(dir);
    }

    /// Bytes of tables in use.
    pub(super) fn bytes(&self) -> usize {
        self.dirs.live() as usize * size_of::<Dir>() + self.leaves.live() as usize * size_of::<Leaf>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(n: u32) -> PageNo {
        PageNo(NonZeroU32::new(n).expect("not zero"))
    }

    #[test]
    fn windows_far_apart_are_found_and_given_back() {
        let (t, root) = (Tables::new(u32::MAX), Root::default());
        t.init(&root).expect("memory");
        let vas = [0x1000, 0x1f_f000, 0x20_0000, 0x7f00_1234_5000, (PAGES - 1) << 12];
        for (i, va) in vas.iter().enumerate() {
            let va = Va::from_page(va >> 12);
            let mut l = t.lock_or_make(&root, 3, va).expect("memory");
            l.set((va.page() % WINDOW) as usize, Pte::new(page(i as u32 + 1), i % 2 == 0, false));
        }
        assert_eq!(t.leaves.live(), 4, "the first two share a window");
        for (i, va) in vas.iter().enumerate() {
            let va = Va::from_page(va >> 12);
            let pte = t.peek(&root, 3, va).expect("present");
            assert_eq!((pte.page(), pte.write()), (Some(page(i as u32 + 1)), i % 2 == 0));
            assert!(t.peek(&root, 4, va).is_none(), "another pmap's tag");
        }
        let all = VaRange::between(Va::ZERO, Va::from_page(PAGES)).expect("range");
        let mut seen = Vec::new();
        t.for_each_window(&root, all, |r| seen.push((r.start().page(), r.pages())));
        assert_eq!(seen.len(), 4);
        assert!(seen.iter().all(|(s, n)| s % WINDOW == 0 && *n == WINDOW), "{seen:?}");
        for va in vas {
            let va = Va::from_page(va >> 12);
            let mut l = t.lock(&root, 3, va).expect("there");
            l.set((va.page() % WINDOW) as usize, Pte::NONE);
        }
        t.prune(&root, all);
        assert_eq!(t.leaves.live(), 0);
        t.destroy(&root);
        assert_eq!(t.dirs.live(), 0);
    }

    #[test]
    fn entries_keep_what_they_are_given() {
        let frames =
            [Frame::Page(page(u32::MAX)), Frame::Unmanaged(Pfn((1 << 50) - 1)), Frame::Page(page(1))];
        for (frame, bits) in frames.into_iter().flat_map(|f| (0..32u8).map(move |b| (f, b))) {
            let mut rights = Prot::R;
            rights.set(Prot::W, bits & 1 != 0);
            rights.set(Prot::X, bits & 2 != 0);
            let (wired, used, dirty) = (bits & 4 != 0, bits & 8 != 0, bits & 16 != 0);
            let entry = Entry { frame, rights, wired, used, dirty };
            let pte = entry.pte();
            assert_eq!((Entry::of(pte), pte.present(), pte.write()), (Some(entry), true, dirty));
            assert_eq!(pte.page().map(Frame::Page), matches!(frame, Frame::Page(_)).then_some(frame));
        }
        assert_eq!(Entry::of(Pte::NONE), None);
    }

    #[test]
    fn addresses_beyond_the_user_half_have_no_table() {
        let (t, root) = (Tables::new(u32::MAX), Root::default());
        t.init(&root).expect("memory");
        assert!(t.lock_or_make(&root, 1, Va::from_page(PAGES)).is_err());
        assert!(t.lock(&root, 1, Va::from_page(PAGES)).is_none());
        t.destroy(&root);
    }
}

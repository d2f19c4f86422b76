//! Where pages go when memory is short: a compressed pool in memory, then disks.
//!
//! `swap=pool:64M,/dev/vda` on the command line, or swapon(2) for disks. A page of one repeated word costs nothing. What
//! the pool has no room for, or hardly shrinks, goes to the disk of the highest priority with room. Nothing here asks
//! for memory but the pool, from the reserve; nobody here waits but for a disk.

mod disk;
mod memory;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use machvm_hal::{EachPage, MAX_RUN, PAGE_SIZE, PageRun, Pfn, Swap, SwapError, SwapSlot};
use machvm_pagers::Pool;

use crate::dev::{self, Disk};
use crate::embed::vm;
use crate::errno::{EBUSY, EINVAL, ENOMEM, Result};
use crate::mutex::Mutex;
use memory::Pieces;

pub(crate) use disk::Area;

const PAGE: usize = PAGE_SIZE as usize;
/// Disks that may be used at a time.
const AREAS: usize = 8;

/// A slot of ours: 4 zero bits (the pool's have one among them), the area, the place. Places begin with 1.
const AREA_SHIFT: u32 = 56;
const POOL: u64 = 0xf << 60;
/// In place of an area's number: the place is a frame. The core never sees such slots.
const FRAMES: u64 = 0xf;

/// All of swap.
pub(crate) struct Everywhere {
    /// Of no bytes where there shall be none: it knows pages of one word.
    pool: Pool<Pieces>,
    pool_max: u64,
    areas: [AtomicPtr<Area>; AREAS],
    /// Numbers of areas, the first to fill first, four bits each, behind them ones.
    order: AtomicU64,
}

static EVERYWHERE: AtomicPtr<Everywhere> = AtomicPtr::new(core::ptr::null_mut());
/// Taken by who adds an area or takes one out.
static CHANGES: Mutex<()> = Mutex::new(());

/// Swap, once it is there.
pub(crate) fn get() -> Option<&'static Everywhere> {
    // SAFETY: null, or leaked by `start`.
    unsafe { EVERYWHERE.load(Ordering::Acquire).as_ref() }
}

fn number_of_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'k', 'M', 'm', 'G', 'g']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Sets swap up as the command line says. => once, after the disks.
pub(crate) fn start(command_line: &str) {
    // What comes behind `--` is the program's.
    let ours = command_line.split_ascii_whitespace().take_while(|w| *w != "--");
    let parts: Vec<&str> = ours.filter_map(|w| w.strip_prefix("swap=")).flat_map(|l| l.split(',')).collect();
    let pool = parts.iter().find_map(|p| p.strip_prefix("pool:")).map_or(Some(0), number_of_bytes);
    let pool = pool.unwrap_or_else(|| {
        crate::say!("machvm: swap=pool:SIZE needs a number with K, M or G");
        0
    });
    let pool_max = memory::reserve(pool);
    let all = Everywhere {
        // A little more than the pieces, for the pool's own account of them.
        pool: Pool::with_source(Pieces, Some(pool_max + pool_max / 64), 1).without_raw(),
        pool_max,
        areas: [const { AtomicPtr::new(core::ptr::null_mut()) }; AREAS],
        order: AtomicU64::new(u64::MAX),
    };
    EVERYWHERE.store(Box::leak(Box::new(all)), Ordering::Release);
    for path in parts.iter().filter(|p| !p.starts_with("pool:") && !p.is_empty()) {
        let done = dev::disk(path).ok_or(crate::errno::ENODEV).and_then(|d| add(d, u64::MAX, None));
        if let Err(e) = done {
            crate::say!("machvm: no swap on {path}: error {}", e.0);
        }
    }
}

/// Takes a disk into use, with so many pages at most, the first of which is not written. Without a priority it comes
/// behind all others.
///
/// # Errors
/// EBUSY: it is in use, or has the root; EINVAL: it is too small or read-only; ENOMEM, EPERM: there are too many.
pub(crate) fn add(disk: &'static Disk, pages: u64, priority: Option<i32>) -> Result<()> {
    let all = get().ok_or(ENOMEM)?;
    let _changes = CHANGES.lock();
    let areas: Vec<(usize, &Area)> = all.numbered().collect();
    if crate::fs::is_of(disk) || areas.iter().any(|(_, a)| core::ptr::eq(a.disk(), disk)) {
        return Err(EBUSY);
    }
    let is_free = |i: &usize| all.area(*i).is_none_or(|a| a.is_off() && a.pages().1 == 0);
    let free = (0..AREAS).find(is_free).ok_or(crate::errno::EPERM)?;
    if disk.is_read_only() {
        return Err(EINVAL);
    }
    // As Linux: -2, -3, ... in the order in which they come.
    let lowest = areas.iter().map(|(_, a)| a.priority()).min().unwrap_or(-1).min(-1);
    let area = Area::new(disk, pages, priority.unwrap_or(lowest - 1)).ok_or(EINVAL)?;
    let area_pages = area.pages().0;
    // Who asks for swap without a lock may have a pointer to an area that is gone: areas stay for ever.
    all.areas[free].store(Box::leak(Box::new(area)), Ordering::Release);
    all.put_in_order();
    if let Some(vm) = vm() {
        vm.swap_room_came(area_pages);
    }
    Ok(())
}

/// Gives back what the pool does not need any more. => no lock is held.
pub(crate) fn tidy() {
    memory::tidy();
}

/// Pages that there is room for, and those of them that are free: of disks, and of the pool as if nothing shrank.
pub(crate) fn total() -> Option<(u64, u64)> {
    let all = get()?;
    let (max, held, _) = all.pool();
    let (size, used) = all.disk_pages();
    Some((size + max / PAGE_SIZE, size - used + max.saturating_sub(held) / PAGE_SIZE))
}

/// Frames that the pool has, and pages of disks that are not in use any more.
pub(crate) fn frames() -> u64 {
    memory::frames() + memory::single()
}

/// Takes a disk out of use. Its pages go to what swap there is, else into memory.
///
/// # Errors
/// EINVAL: it is not in use; ENOMEM: there is no room for its pages; EIO: it cannot be read. It stays in use.
pub(crate) fn remove(disk: &Disk) -> Result<()> {
    let all = get().ok_or(EINVAL)?;
    let _changes = CHANGES.lock();
    let found = all.numbered().find(|(_, a)| core::ptr::eq(a.disk(), disk));
    let (_, area) = found.ok_or(EINVAL)?;
    let was = area.close(true);
    let done = if all.has_room_without(area) {
        area.empty(|page| all.put_elsewhere(page), |slot| all.free_raw(slot))
    } else {
        Err(ENOMEM)
    };
    if let Err(e) = done {
        area.close(was);
        return Err(e);
    }
    // Slots may still name it.
    area.turn_off();
    all.put_in_order();
    Ok(())
}

impl Everywhere {
    fn area(&self, number: usize) -> Option<&Area> {
        // SAFETY: null, or leaked by `add`.
        unsafe { self.areas.get(number)?.load(Ordering::Acquire).as_ref() }
    }
    fn numbered(&self) -> impl Iterator<Item = (usize, &Area)> {
        (0..AREAS).filter_map(|i| Some((i, self.area(i)?))).filter(|(_, a)| !a.is_off())
    }
    /// The disks in use, the first to fill first.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (usize, &Area)> {
        let order = self.order.load(Ordering::Acquire);
        let numbers = (0..AREAS).map(move |i| (order >> (4 * i) & 15) as usize);
        numbers.filter_map(|n| Some((n, self.area(n)?)))
    }
    fn put_in_order(&self) {
        let mut all: Vec<(usize, &Area)> = self.numbered().collect();
        all.sort_by_key(|(_, a)| -a.priority());
        let order = all.iter().rev().fold(u64::MAX, |word, (n, _)| word << 4 | *n as u64);
        self.order.store(order, Ordering::Release);
    }

    /// The pool: bytes that it may take of memory, that it has taken, and pages in it.
    pub(crate) fn pool(&self) -> (u64, u64, u64) {
        let s = self.pool.stats();
        (self.pool_max, s.pool_bytes, s.pages)
    }
    /// Pages on disks: that there is room for, and that are there.
    pub(crate) fn disk_pages(&self) -> (u64, u64) {
        self.in_order().map(|(_, a)| a.pages()).fold((0, 0), |s, p| (s.0 + p.0, s.1 + p.1))
    }
    /// Pages that are out: in the pool, on disks, and in frames of disks that are not in use any more.
    pub(crate) fn used_pages(&self) -> u64 {
        self.pool.stats().pages + self.disk_pages().1 + memory::single()
    }

    /// Is there room for the pages of a disk, on others, in the pool, and in memory that is free?
    fn has_room_without(&self, area: &Area) -> bool {
        let used = area.pages().1;
        let (max, held, _) = self.pool();
        let others = self.in_order().filter(|(_, a)| !core::ptr::eq(*a, area));
        let on_disks: u64 = others.map(|(_, a)| a.pages()).map(|(size, used)| size - used).sum();
        let s = crate::embed::the_vm().statistics();
        let free = s.frame_limit.saturating_sub(s.frames_resident).saturating_sub(s.frame_limit / 16);
        used <= on_disks + max.saturating_sub(held) / PAGE_SIZE + free
    }
    /// A place for a page of a disk that goes out of use.
    fn put_elsewhere(&self, page: &[u8; PAGE]) -> Option<u64> {
        match self.put(page) {
            Ok(slot) => Some(slot.0.get()),
            Err(_) => memory::put_single(page).map(|frame| FRAMES << AREA_SHIFT | frame.0),
        }
    }
    fn free_raw(&self, raw: u64) {
        match of_frame(raw) {
            Some(frame) => memory::free_single(frame),
            None => {
                if let Some(raw) = NonZeroU64::new(raw) {
                    self.free(SwapSlot(raw));
                }
            }
        }
    }
    /// Where a page is now: its disk may have given it away.
    fn now(&self, slot: SwapSlot) -> u64 {
        let mut raw = slot.0.get();
        while let Some(new) = of_disk(raw).and_then(|(a, place)| Some(self.area(a)?.moved(place)))
            && new != 0
        {
            raw = new;
        }
        raw
    }
}

fn of_frame(raw: u64) -> Option<Pfn> {
    (raw >> AREA_SHIFT == FRAMES).then_some(Pfn(raw & ((1 << AREA_SHIFT) - 1)))
}

fn of_disk(raw: u64) -> Option<(usize, u64)> {
    (raw & POOL == 0).then_some(((raw >> AREA_SHIFT) as usize, raw & ((1 << AREA_SHIFT) - 1)))
}

fn slot(area: usize, place: u64) -> Option<SwapSlot> {
    NonZeroU64::new((area as u64) << AREA_SHIFT | place).map(SwapSlot)
}

/// One page as a run.
struct One<'a>(&'a [u8; PAGE]);

impl PageRun for One<'_> {
    fn pages(&self) -> usize {
        1
    }
    fn read(&self, _: usize, to: &mut [u8; PAGE]) {
        to.copy_from_slice(self.0);
    }
}

impl Everywhere {
    /// Reads at most [`MAX_RUN`] pages: neighbours on a disk come with one request, in whatever order they are asked for.
    fn get_part(&self, slots: &[SwapSlot], each: &mut EachPage<'_>) {
        let mut order: [u8; MAX_RUN] = core::array::from_fn(|i| i as u8);
        let mut now = [0; MAX_RUN];
        now.iter_mut().zip(slots).for_each(|(n, s)| *n = self.now(*s));
        let slots = &now[..slots.len()];
        let mut rest = &mut order[..slots.len()];
        rest.sort_unstable_by_key(|i| slots[usize::from(*i)]);
        while let Some(&first) = rest.first() {
            let follows = |(n, i): &(usize, &u8)| {
                let (a, b) = (of_disk(slots[usize::from(first)]), of_disk(slots[usize::from(**i)]));
                a.zip(b).is_some_and(|((area, from), place)| place == (area, from + *n as u64))
            };
            let n = rest.iter().enumerate().skip(1).take_while(follows).count() + 1;
            let now;
            (now, rest) = rest.split_at_mut(n);
            let of_area =
                of_disk(slots[usize::from(first)]).and_then(|(a, place)| Some((self.area(a)?, place)));
            let read = of_area.is_some_and(|(area, place)| {
                area.get(place, n, &mut |k, page| each(usize::from(now[k]), page))
            });
            if !read {
                for i in now.iter().map(|i| usize::from(*i)) {
                    let mut page = [0; PAGE];
                    let got = self.get_raw(slots[i], &mut page);
                    each(i, got.map(|()| &page));
                }
            }
        }
    }

    /// Reads one page, wherever it is by now.
    fn get_raw(&self, raw: u64, page: &mut [u8; PAGE]) -> core::result::Result<(), SwapError> {
        loop {
            let slot = SwapSlot(NonZeroU64::new(raw).ok_or(SwapError::Lost)?);
            let raw = self.now(slot);
            if let Some(frame) = of_frame(raw) {
                memory::get_single(frame, page);
                return Ok(());
            }
            let Some((area, place)) = of_disk(raw) else {
                return self.pool.get(SwapSlot(NonZeroU64::new(raw).ok_or(SwapError::Lost)?), page);
            };
            let area = self.area(area).ok_or(SwapError::Lost)?;
            let mut result = Err(SwapError::Lost);
            if area.get(place, 1, &mut |_, p| result = p.map(|p| page.copy_from_slice(p))) {
                return result;
            }
        }
    }
    /// In the pool: pages of one word in any case. `None`: it shall not, or cannot, be there.
    fn put_in_pool(&self, run: &dyn PageRun, i: usize) -> Option<SwapSlot> {
        let mut page = [0; PAGE];
        run.read(i, &mut page);
        let words = page.as_chunks::<8>().0;
        if self.pool_max == 0 && words.iter().any(|w| *w != words[0]) {
            return None;
        }
        self.pool.put(&page).ok()
    }
}

impl Swap for Everywhere {
    fn put(&self, data: &[u8; PAGE]) -> core::result::Result<SwapSlot, SwapError> {
        let mut slots = [None];
        self.put_run(&One(data), &mut slots);
        slots[0].ok_or(SwapError::Full)
    }

    fn put_run(&self, run: &dyn PageRun, slots: &mut [Option<SwapSlot>]) -> usize {
        let pages = run.pages().min(slots.len()).min(MAX_RUN);
        let (mut rest, mut count) = ([0u8; MAX_RUN], 0);
        for (i, slot) in slots.iter_mut().enumerate().take(pages) {
            *slot = self.put_in_pool(run, i);
            if slot.is_none() {
                rest[count] = i as u8;
                count += 1;
            }
        }
        for (number, area) in self.in_order() {
            if count == 0 {
                break;
            }
            area.put(run, &rest[..count], |i, place| slots[usize::from(i)] = slot(number, place));
            let mut still = 0;
            for k in 0..count {
                if slots[usize::from(rest[k])].is_none() {
                    rest[still] = rest[k];
                    still += 1;
                }
            }
            count = still;
        }
        pages - count
    }

    fn get(&self, slot: SwapSlot, data: &mut [u8; PAGE]) -> core::result::Result<(), SwapError> {
        self.get_raw(slot.0.get(), data)
    }

    fn get_run(&self, slots: &[SwapSlot], each: &mut EachPage<'_>) {
        for (turn, part) in slots.chunks(MAX_RUN).enumerate() {
            self.get_part(part, &mut |i, page| each(turn * MAX_RUN + i, page));
        }
    }

    fn is_slow(&self, slot: SwapSlot) -> bool {
        of_disk(self.now(slot)).is_some_and(|(area, _)| area < AREAS)
    }

    fn free(&self, slot: SwapSlot) {
        match of_disk(slot.0.get()) {
            None => self.pool.free(slot),
            Some((area, place)) => {
                // Where a page was moved to it is freed, too.
                let moved = self.area(area).map_or(0, |a| a.free(place));
                if moved != 0 {
                    self.free_raw(moved);
                }
            }
        }
    }
}

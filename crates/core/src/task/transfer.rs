//! Moving contents between places (U14 to U17): by copy-on-write where pages match, by
//! bytes elsewhere.
//!
//! ```text
//!   source  |..####|########|########|##....|     the same offsets in a page:
//!   target  |..####|########|########|##....|     pages in the middle, bytes at the ends
//!            buffer  copy-on-write    buffer
//! ```
//! The result is as if the whole source had been read first (Z100): the ends are read,
//! then the middle is taken as a snapshot, then anything is written. Where the offsets
//! differ, or the destination's object must stay, every byte is moved.
//!
//! Both ranges are checked whole before the first byte moves (Z102). If a right is taken
//! away while bytes move, the rest is not written, and what was written stays.

use machvm_hal::{MaySleep, PAGE_MASK, PAGE_SIZE, Prot, RawAddr, RawSize, Va, VaRange};

use crate::error::FaultError;
use crate::fault::Fault;
use crate::map::{CopyError, CopyWhy, Map, Sharers};
use crate::platform::Platform;

/// Why memory could not be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// Not mapped (`KERN_INVALID_ADDRESS`). In a transfer through a buffer XNU says this
    /// of memory without the right, too.
    Hole(Va),
    /// Without the right (`KERN_PROTECTION_FAILURE`).
    Protection(Va),
    /// The machine's own mapping: its owner must move the bytes.
    Foreign(Va),
    /// A page could not be had (`KERN_MEMORY_ERROR`, `KERN_MEMORY_FAILURE`).
    Fault(FaultError),
    /// No memory for entries or objects (`KERN_RESOURCE_SHORTAGE`).
    NoMemory(Va),
    /// The machine has no structure for another region (`KERN_RESOURCE_SHORTAGE`).
    Machine(Va),
}

impl From<(Va, CopyWhy)> for Denied {
    fn from((at, why): (Va, CopyWhy)) -> Self {
        match why {
            CopyWhy::Hole => Denied::Hole(at),
            CopyWhy::Foreign => Denied::Foreign(at),
            CopyWhy::Protection | CopyWhy::Wired | CopyWhy::Shared => Denied::Protection(at),
            CopyWhy::NoMemory => Denied::NoMemory(at),
            CopyWhy::Machine => Denied::Machine(at),
        }
    }
}

impl From<CopyError> for Denied {
    fn from(e: CopyError) -> Self {
        (e.at, e.why).into()
    }
}

impl From<FaultError> for Denied {
    fn from(e: FaultError) -> Self {
        match e {
            FaultError::NoMapping(va) => Denied::Hole(va),
            FaultError::Protection(va) => Denied::Protection(va),
            FaultError::Foreign(va) => Denied::Foreign(va),
            FaultError::NoMemory(va) => Denied::NoMemory(va),
            FaultError::Beyond(_) | FaultError::PagerIo(_) | FaultError::PagerGone(_) => Denied::Fault(e),
        }
    }
}

impl Denied {
    /// As a buffered transfer of a system that hides rights reports it.
    #[must_use]
    pub fn hidden(self, hide: bool) -> Denied {
        match self {
            Denied::Protection(va) if hide => Denied::Hole(va),
            other => other,
        }
    }
}

/// Which side refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Source(Denied),
    Destination(Denied),
}

/// Transfers below this fit a buffer whole.
const BUFFER: usize = 2 * PAGE_SIZE as usize;
const PAGE: usize = PAGE_SIZE as usize;

/// The pages of `count` bytes at `addr`; they were found not to wrap.
pub(super) fn pages_of(addr: u64, count: u64) -> Option<VaRange> {
    VaRange::check(RawAddr(addr), RawSize(count)).ok()
}

/// Is all of it mapped with this right?
pub(super) fn check<P: Platform>(
    map: &Map<'_, P>,
    addr: u64,
    count: u64,
    need: Prot,
    may: &mut MaySleep,
) -> Result<(), Denied> {
    let range = pages_of(addr, count).ok_or(Denied::Hole(Va::containing(RawAddr(addr))))?;
    Ok(map.check_access(range, need, may)?)
}

/// Calls `f` with the parts of `[addr, addr + count)` that lie in one page each: where,
/// and which bytes of the whole.
fn each_page(
    addr: u64,
    count: usize,
    mut f: impl FnMut(u64, core::ops::Range<usize>) -> Result<(), FaultError>,
) -> Result<(), FaultError> {
    let mut done = 0;
    while done < count {
        let at = addr + done as u64;
        let n = (count - done).min((PAGE_SIZE - (at & PAGE_MASK)) as usize);
        f(at, done..done + n)?;
        done += n;
    }
    Ok(())
}

/// Reads bytes, page by page.
pub(super) fn read<P: Platform>(
    map: &Map<'_, P>,
    addr: u64,
    buf: &mut [u8],
    may: &mut MaySleep,
) -> Result<(), FaultError> {
    each_page(addr, buf.len(), |at, part| map.read_in_page(at, &mut buf[part], may))
}

/// Writes bytes, page by page.
pub(super) fn write<P: Platform>(
    map: &Map<'_, P>,
    addr: u64,
    data: &[u8],
    may: &mut MaySleep,
) -> Result<(), FaultError> {
    each_page(addr, data.len(), |at, part| map.write_in_page(at, &data[part], may))
}

/// One end of a transfer.
pub(super) struct End<'a, 'vm, P: Platform> {
    pub(super) map: &'a Map<'vm, P>,
    pub(super) addr: u64,
}

impl<P: Platform> Clone for End<'_, '_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for End<'_, '_, P> {}

/// Moves `count` bytes, which do not wrap on either side. `buffered_below`: see
/// [`super::Personality`].
pub(super) fn transfer<P: Platform>(
    from: End<'_, '_, P>,
    to: End<'_, '_, P>,
    count: u64,
    buffered_below: u64,
    may: &mut MaySleep,
) -> Result<(), Refused> {
    check(from.map, from.addr, count, Prot::R, may).map_err(Refused::Source)?;
    check(to.map, to.addr, count, Prot::W, may).map_err(Refused::Destination)?;
    if core::ptr::eq(from.map, to.map) && from.addr == to.addr {
        return Ok(());
    }
    let same_offsets = (from.addr ^ to.addr) & PAGE_MASK == 0;
    let whole_pages = same_offsets && (from.addr | count) & PAGE_MASK == 0;
    if count < buffered_below || (count < BUFFER as u64 && !whole_pages) {
        return by_buffer(from, to, count as usize, may);
    }
    let Some(source) = pages_of(from.addr, count) else { return Ok(()) };
    let sources = from.map.sources_in(source, may);
    if same_offsets && !sources.by_bytes {
        match by_pages(from, to, count, may) {
            Err(Refused::Destination(Denied::Protection(_) | Denied::Machine(_))) => {}
            done => return done,
        }
    }
    by_bytes(from, to, count, (source, sources), may)
}

/// => `count` is less than two pages.
fn by_buffer<P: Platform>(
    from: End<'_, '_, P>,
    to: End<'_, '_, P>,
    count: usize,
    may: &mut MaySleep,
) -> Result<(), Refused> {
    let mut buf = [0; BUFFER];
    let buf = &mut buf[..count];
    read(from.map, from.addr, buf, may).map_err(|e| Refused::Source(e.into()))?;
    write(to.map, to.addr, buf, may).map_err(|e| Refused::Destination(e.into()))
}

/// => the offsets in a page are the same.
///
/// `Destination(Protection)`: the pages there must stay, `Destination(Machine)`: the
/// machine cannot have others there; nothing was written.
fn by_pages<P: Platform>(
    from: End<'_, '_, P>,
    to: End<'_, '_, P>,
    count: u64,
    may: &mut MaySleep,
) -> Result<(), Refused> {
    let head = (PAGE_SIZE - (from.addr & PAGE_MASK)) & PAGE_MASK;
    let middle = (count - head) & !PAGE_MASK;
    let tail = count - head - middle;
    let (mut first, mut last) = ([0; PAGE], [0; PAGE]);
    let (first, last) = (&mut first[..head as usize], &mut last[..tail as usize]);
    let bad_source = |e: FaultError| Refused::Source(e.into());
    read(from.map, from.addr, first, may).map_err(bad_source)?;
    read(from.map, from.addr + head + middle, last, may).map_err(bad_source)?;
    if let Some(source) = pages_of(from.addr + head, middle) {
        let copy = from.map.copyin(source, may).map_err(|e| Refused::Source(e.into()))?;
        let at = Va::containing(RawAddr(to.addr + head));
        let done = to.map.overwrite_if(at, copy, Sharers::Refuse, may);
        done.map_err(|e| Refused::Destination(e.into()))?;
    }
    let bad_target = |e: FaultError| Refused::Destination(e.into());
    write(to.map, to.addr, first, may).map_err(bad_target)?;
    write(to.map, to.addr + head + middle, last, may).map_err(bad_target)
}

/// Every byte, page by page of the source, each read in one piece.
///
/// An overlap of addresses is a matter of the direction. Where the same memory may be at
/// several addresses that is not enough: then the bytes come out of a snapshot, unless
/// the destination is wired, whose pages a snapshot of the same object would replace.
fn by_bytes<P: Platform>(
    from: End<'_, '_, P>,
    to: End<'_, '_, P>,
    count: u64,
    (source, sources): (VaRange, crate::map::Sources),
    may: &mut MaySleep,
) -> Result<(), Refused> {
    let target = pages_of(to.addr, count).map(|r| to.map.sources_in(r, may)).unwrap_or_default();
    let upwards = core::ptr::eq(from.map, to.map) && from.addr < to.addr && to.addr - from.addr < count;
    let mixed = target.aliased && (sources.aliased || upwards);
    let snapshot = if sources.by_bytes || target.wired || !mixed {
        None
    } else {
        if sources.pager {
            // What is absent from a snapshot would have to be asked for again.
            for va in source.iter() {
                let f = Fault { addr: RawAddr(va.get()), access: Prot::R };
                from.map.fault(&f, may).map_err(|e| Refused::Source(e.into()))?;
            }
        }
        Some(from.map.copyin(source, may).map_err(|e| Refused::Source(e.into()))?)
    };
    // From the top, so that no byte is written before it is read; else from the bottom: a
    // page that is at two addresses of the destination keeps what the higher gets.
    let down = upwards && snapshot.is_none();
    let mut moved = 0;
    while moved < count {
        let left = count - moved;
        let (at, n) = if down { chunk_down(from.addr, left) } else { chunk_up(from.addr, moved, left) };
        let mut buf = [0; PAGE];
        let buf = &mut buf[..n];
        let got = match &snapshot {
            Some(s) => s.read_in_page((from.addr & PAGE_MASK) + at, buf, may),
            None => Ok(false),
        };
        if !got.map_err(|e| Refused::Source(Denied::Fault(e)))? {
            read(from.map, from.addr + at, buf, may).map_err(|e| Refused::Source(e.into()))?;
        }
        write(to.map, to.addr + at, buf, may).map_err(|e| Refused::Destination(e.into()))?;
        moved += n as u64;
    }
    Ok(())
}

/// The next bytes that lie in one page of the source: where from the start, how many.
fn chunk_up(from: u64, done: u64, left: u64) -> (u64, usize) {
    (done, (PAGE_SIZE - ((from + done) & PAGE_MASK)).min(left) as usize)
}

/// As [`chunk_up`], from the end; `left` bytes are still to be moved.
fn chunk_down(from: u64, left: u64) -> (u64, usize) {
    let n = (((from + left - 1) & PAGE_MASK) + 1).min(left);
    (left - n, n as usize)
}

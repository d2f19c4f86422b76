//! Moving bytes where a side is not in a window: part by part, through a buffer.
//!
//! Where both sides are the VM's, `machvm::task` moves pages. Here the rules of its calls
//! are kept for the rest: both ranges are looked at whole before the first byte moves, a
//! right is looked at again where each part is read and written, overlaps of addresses come
//! out as from `memmove`, and a range may begin outside and end inside.
//!
//! ```text
//!   check source, check destination          each: window by the VM, rest by Linux
//!   again:  source -> buffer -> destination  never inside the VM while Linux is asked
//! ```
//! No lock of the VM is held while memory outside is touched, so whatever a page of it
//! needs may be done meanwhile; and no more memory is used than the buffer.

use machvm::task::{
    Alignment, AllocateError, Denied, PlaceError, RawFlags, ReadError, VmCopyError, VmFlags, WriteError,
};
use machvm_hal::{MaySleep, PAGE_MASK, Prot, RawAddr, RawSize, Va, VaRange};
use machvm_linux::library::Hosted;

use crate::calls::here;
use crate::outside::{self, Part, bytes, snapshot, touches};
use crate::ports::TaskPort;

type Mach<'t> = machvm::task::Task<'t, 'static, Hosted>;

/// Bytes of the buffer.
const BUFFER: u64 = 64 << 10;

/// Which side refused.
enum Refused {
    Source(Denied),
    Destination(Denied),
}

/// One side of a transfer.
#[derive(Clone, Copy)]
struct Side<'a> {
    port: &'a TaskPort,
    addr: u64,
}

fn fits(addr: u64, size: u64) -> bool {
    VaRange::check(RawAddr(addr), RawSize(size)).is_ok()
}

impl<'a> Side<'a> {
    fn new(port: &'a TaskPort, addr: u64) -> Self {
        Side { port, addr }
    }

    fn parts(&self, offset: u64, size: u64) -> impl Iterator<Item = Part> {
        let addr = self.addr + offset;
        let all = self.port.own.then(|| outside::parts(addr, size));
        let one = if self.port.own { None } else { Some(Part::Inside(addr, size)) };
        all.into_iter().flatten().chain(one)
    }

    /// Makes a call inside the VM.
    fn inside<T>(
        &self,
        call: impl FnOnce(&Mach<'_>, &mut MaySleep) -> Result<T, Denied>,
    ) -> Result<T, Denied> {
        let (world, how) = here();
        let mut inside = world.inside().ok_or(Denied::Machine(Va::containing(RawAddr(self.addr))))?;
        call(&self.port.mach(how), inside.may())
    }

    fn check(&self, size: u64, need: Prot) -> Result<(), Denied> {
        self.parts(0, size).try_for_each(|part| match part {
            Part::Inside(a, n) => self.inside(|t, may| t.check_part(RawAddr(a), RawSize(n), need, may)),
            Part::Outside(start, end) => outside::check(start, end, need),
        })
    }

    fn read(&self, offset: u64, mut buf: &mut [u8]) -> Result<(), Denied> {
        let size = buf.len() as u64;
        self.parts(offset, size).try_for_each(|part| {
            let n = match part {
                Part::Inside(_, n) => n,
                Part::Outside(start, end) => end - start,
            };
            let (now, rest) = core::mem::take(&mut buf).split_at_mut(n as usize);
            buf = rest;
            match part {
                Part::Inside(a, _) => self.inside(|t, may| t.read_part(RawAddr(a), now, may)),
                Part::Outside(start, _) => bytes::read(start, now),
            }
        })
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> Result<(), Denied> {
        let size = data.len() as u64;
        self.parts(offset, size).try_for_each(|part| {
            let n = match part {
                Part::Inside(_, n) => n,
                Part::Outside(start, end) => end - start,
            };
            let (now, rest) = data.split_at(n as usize);
            data = rest;
            match part {
                Part::Inside(a, _) => self.inside(|t, may| t.write_part(RawAddr(a), now, may)),
                Part::Outside(start, _) => bytes::write(start, now),
            }
        })
    }

    /// Is it memory of the same task?
    fn same_task(&self, other: &Side<'_>) -> bool {
        core::ptr::eq(self.port, other.port)
    }
}

/// A buffer of so many bytes.
fn buffer(bytes: u64, addr: u64) -> Result<Vec<u8>, Refused> {
    let mut buf = Vec::new();
    let no_memory = |_| Refused::Source(Denied::NoMemory(Va::containing(RawAddr(addr))));
    buf.try_reserve_exact(bytes as usize).map_err(no_memory)?;
    buf.resize(bytes as usize, 0);
    Ok(buf)
}

/// Moves `count` bytes, which wrap on neither side and are not 0; nothing is written where
/// either side is refused.
fn transfer(from: Side<'_>, to: Side<'_>, count: u64) -> Result<(), Refused> {
    let in_place = from.same_task(&to) && from.addr == to.addr;
    if count > BUFFER || in_place {
        from.check(count, Prot::R).map_err(Refused::Source)?;
        to.check(count, Prot::W).map_err(Refused::Destination)?;
        return if in_place { Ok(()) } else { move_bytes(from, to, count) };
    }
    // To read it all is to check it, and what lies in one page is written whole or not.
    let mut buf = buffer(count, from.addr)?;
    from.read(0, &mut buf).map_err(Refused::Source)?;
    if (to.addr ^ (to.addr + (count - 1))) & !PAGE_MASK != 0 {
        to.check(count, Prot::W).map_err(Refused::Destination)?;
    }
    to.write(0, &buf).map_err(Refused::Destination)
}

/// Moves `count` bytes, which wrap on neither side and were checked on both.
fn move_bytes(from: Side<'_>, to: Side<'_>, count: u64) -> Result<(), Refused> {
    let mut buf = buffer(count.min(BUFFER), from.addr)?;
    // From the top where the destination lies behind the source in it.
    let down = from.same_task(&to) && from.addr < to.addr && to.addr - from.addr < count;
    let mut left = count;
    while left != 0 {
        // Each page of the source is read in one piece.
        let (at, n) = if down {
            let n = (BUFFER - ((from.addr + left).wrapping_neg() & PAGE_MASK)).min(left);
            (left - n, n)
        } else {
            let at = count - left;
            (at, (BUFFER - ((from.addr + at) & PAGE_MASK)).min(left))
        };
        let now = &mut buf[..n as usize];
        from.read(at, now).map_err(Refused::Source)?;
        to.write(at, now).map_err(Refused::Destination)?;
        left -= n;
    }
    Ok(())
}

/// Puts `data` at `addr` of this process, wherever that is.
///
/// => the thread is not inside the VM; `data` is not managed memory.
///
/// # Errors
/// [`Denied`]; nothing was written, unless rights were taken away meanwhile.
pub(crate) fn store(addr: u64, data: &[u8]) -> Result<(), Denied> {
    let (own, size) = (here().0.own(), data.len() as u64);
    if !fits(addr, size) {
        return Err(Denied::Hole(Va::containing(RawAddr(addr))));
    }
    let to = Side::new(own, addr);
    to.check(size, Prot::W)?;
    to.write(0, data)
}

/// Fresh memory of this process's task with the bytes of a range of `port`, from the start
/// of a page on.
///
/// => the thread is not inside the VM; `size` is not 0.
///
/// # Errors
/// [`ReadError`]; nothing is left.
pub(crate) fn read_fresh(port: &TaskPort, addr: u64, size: u64) -> Result<u64, ReadError> {
    if !fits(addr, size) {
        return Err(ReadError::Wraps(addr));
    }
    let from = Side::new(port, addr);
    from.check(size, Prot::R).map_err(ReadError::Source)?;
    let (world, how) = here();
    let own = world.own();
    let start = {
        let mut inside = world.inside().ok_or(ReadError::Place(PlaceError::NoSpace))?;
        let (any, flags) = (RawAddr(0), RawFlags::from(VmFlags::ANYWHERE));
        let got = own.mach(how).vm_allocate(any, RawSize(size), flags, inside.may());
        got.map_err(|e| match e {
            AllocateError::Place(e) => ReadError::Place(e),
            AllocateError::BadFlags(_) | AllocateError::BadSize | AllocateError::Wraps(_) => {
                ReadError::Place(PlaceError::NoSpace)
            }
        })?
    };
    move_bytes(from, Side::new(own, start), size).map(|()| start).map_err(|e| {
        if let Some(mut inside) = world.inside() {
            snapshot::free(&own.mach(how), start, size, inside.may());
        }
        match e {
            Refused::Source(d) => ReadError::Source(d),
            Refused::Destination(d) => ReadError::Destination(d),
        }
    })
}

/// `vm_read` (U14) into this process's task.
///
/// # Errors
/// [`ReadError`].
pub(crate) fn vm_read(port: &TaskPort, addr: u64, size: u64) -> Result<u64, ReadError> {
    let (world, how) = here();
    let own = world.own();
    if touches(port, addr, size) {
        if u32::try_from(size).is_err() {
            return Err(ReadError::TooLarge(size));
        }
        let hide = own.mach(how).hides_rights(size);
        return read_fresh(port, addr, size).map_err(|e| match e {
            ReadError::Source(d) => ReadError::Source(d.hidden(hide)),
            e => e,
        });
    }
    let mut inside = world.inside().ok_or(ReadError::Place(PlaceError::NoSpace))?;
    port.mach(how).vm_read(RawAddr(addr), RawSize(size), &own.mach(how), inside.may())
}

/// `vm_read_overwrite` (U17): into memory of this process's, wherever it is.
///
/// # Errors
/// [`ReadError`].
pub(crate) fn vm_read_overwrite(port: &TaskPort, addr: u64, size: u64, data: u64) -> Result<u64, ReadError> {
    let (world, how) = here();
    let own = world.own();
    if !touches(port, addr, size) && !touches(own, data, size) {
        let mut inside = world.inside().ok_or(ReadError::Place(PlaceError::NoSpace))?;
        let (from, to) = (port.mach(how), own.mach(how));
        return from.vm_read_overwrite(RawAddr(addr), RawSize(size), &to, RawAddr(data), inside.may());
    }
    if let Some(wraps) = [addr, data].into_iter().find(|a| !fits(*a, size)) {
        return Err(ReadError::Wraps(wraps));
    }
    let hide = own.mach(how).hides_rights(size);
    let (from, to) = (Side::new(port, addr), Side::new(own, data));
    transfer(from, to, size).map(|()| size).map_err(|e| match e {
        Refused::Source(d) => ReadError::Source(d.hidden(hide)),
        Refused::Destination(d) => ReadError::Destination(d.hidden(hide)),
    })
}

/// `vm_write` (U15) from memory of this process's, wherever it is. That memory is what a
/// message would carry, so it is looked at before anything else.
///
/// # Errors
/// [`WriteError`].
pub(crate) fn vm_write(port: &TaskPort, addr: u64, data: u64, count: u64) -> Result<(), WriteError> {
    if count == 0 {
        return Ok(());
    }
    let (world, how) = here();
    let own = world.own();
    if !fits(data, count) {
        return Err(WriteError::Data(Denied::Hole(Va::containing(RawAddr(data)))));
    }
    let (from, to) = (Side::new(own, data), Side::new(port, addr));
    let odd = [addr, data, count].into_iter().find(|n| n & PAGE_MASK != 0);
    let odd = odd.filter(|_| how.alignment == Alignment::Strict);
    if odd.is_some() || !fits(addr, count) {
        from.check(count, Prot::R).map_err(WriteError::Data)?;
        return Err(odd.map_or(WriteError::Wraps(addr), WriteError::Unaligned));
    }
    if !touches(port, addr, count) && !touches(own, data, count) {
        let mut inside = world.inside().ok_or(WriteError::Wraps(addr))?;
        let caller = own.mach(how);
        return port.mach(how).vm_write(RawAddr(addr), &caller, RawAddr(data), RawSize(count), inside.may());
    }
    let hide = own.mach(how).hides_rights(count);
    transfer(from, to, count).map_err(|e| match e {
        Refused::Source(d) => WriteError::Data(d),
        Refused::Destination(d) => WriteError::Destination(d.hidden(hide)),
    })
}

/// `vm_copy` (U16).
///
/// # Errors
/// [`VmCopyError`].
pub(crate) fn vm_copy(port: &TaskPort, src: u64, count: u64, dst: u64) -> Result<(), VmCopyError> {
    let (world, how) = here();
    if !touches(port, src, count) && !touches(port, dst, count) {
        let mut inside = world.inside().ok_or(VmCopyError::Wraps(src))?;
        return port.mach(how).vm_copy(RawAddr(src), RawSize(count), RawAddr(dst), inside.may());
    }
    if !fits(src, count) {
        return Err(VmCopyError::Wraps(src));
    }
    let hide = port.mach(how).hides_rights(count);
    let (from, to) = (Side::new(port, src), Side::new(port, dst));
    let source = |d: Denied| VmCopyError::Source(d.hidden(hide));
    if how.alignment == Alignment::Strict {
        from.check(count, Prot::R).map_err(source)?;
        if let Some(odd) = [dst, count, src].into_iter().find(|n| n & PAGE_MASK != 0) {
            return Err(VmCopyError::Unaligned(odd));
        }
    }
    if !fits(dst, count) {
        return Err(VmCopyError::Wraps(dst));
    }
    transfer(from, to, count).map_err(|e| match e {
        Refused::Source(d) => source(d),
        Refused::Destination(d) => VmCopyError::Destination(d.hidden(hide)),
    })
}

//! `vm_read` and `vm_read_overwrite` (U14, U17).

use machvm_hal::{MaySleep, PAGE_MASK, PAGE_SIZE, Prot, RawAddr, RawSize};

use super::Task;
use super::place::PlaceError;
use super::transfer::{self, Denied, End, Refused, pages_of};
use crate::map::{Attributes, Backing, Map, Place};
use crate::platform::Platform;

/// Why nothing was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// Address and size do not fit together (`KERN_INVALID_ADDRESS`).
    Wraps(u64),
    /// More than a message can say (`KERN_INVALID_ARGUMENT`).
    TooLarge(u64),
    /// The source cannot be read.
    Source(Denied),
    /// The memory of the caller's that was to receive it cannot be written
    /// (`vm_read_overwrite`).
    Destination(Denied),
    /// There is no place in the caller's map (`KERN_NO_SPACE`).
    Place(PlaceError),
}

/// `mach_msg_type_number_t`.
const MOST: u64 = u32::MAX as u64;

impl<'vm, P: Platform> Task<'_, 'vm, P> {
    /// Maps a snapshot of memory of this task into `caller`; gives the address of its
    /// first byte (U14). Pages are shared until either side writes; what goes through a
    /// buffer starts at the start of a page. No bytes: address 0, and nothing is looked
    /// at.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`ReadError`]; nothing changed.
    pub fn vm_read(
        &self,
        addr: RawAddr,
        size: RawSize,
        caller: &Task<'_, 'vm, P>,
        may: &mut MaySleep,
    ) -> Result<u64, ReadError> {
        if size.0 > MOST {
            return Err(ReadError::TooLarge(size.0));
        }
        if size.0 == 0 {
            return Ok(0);
        }
        let source = pages_of(addr.0, size.0).ok_or(ReadError::Wraps(addr.0))?;
        let hide = self.hides_rights(size.0);
        let denied = |d: Denied| ReadError::Source(d.hidden(hide));
        transfer::check(self.map, addr.0, size.0, Prot::R, may).map_err(denied)?;
        if size.0 < self.how.buffered_below || self.map.sources_in(source, may).by_bytes {
            return self.read_by_bytes(addr.0, size.0, caller.map, may).map_err(|e| match e {
                ReadError::Source(d) => denied(d),
                e => e,
            });
        }
        let mut copy = self.map.copyin(source, may).map_err(|e| denied(e.into()))?;
        let fresh = |_| Attributes::new(Prot::RW);
        let place = Place::Any(caller.map.search());
        let start = caller.map.copyout(place, &mut copy, fresh, may);
        let start = start.map_err(|e| ReadError::Place(e.into()))?;
        caller.wire_new(start, source.pages(), may).map_err(ReadError::Place)?;
        Ok(start.get() + (addr.0 & PAGE_MASK))
    }

    /// Into fresh memory, page by page.
    fn read_by_bytes(
        &self,
        addr: u64,
        size: u64,
        to: &Map<'_, P>,
        may: &mut MaySleep,
    ) -> Result<u64, ReadError> {
        let pages = size.div_ceil(PAGE_SIZE);
        let place = Place::Any(to.search());
        let start = to.find(place, pages, Backing::Anonymous, &Attributes::new(Prot::RW), may);
        let start = start.map_err(|e| ReadError::Place(e.into()))?;
        let (from, into) = (End { map: self.map, addr }, End { map: to, addr: start.get() });
        let mut done = 0;
        let mut result = Ok(());
        while done < size && result.is_ok() {
            let n = (size - done).min(PAGE_SIZE);
            let mut buf = [0; PAGE_SIZE as usize];
            let buf = &mut buf[..n as usize];
            result = transfer::read(from.map, from.addr + done, buf, may)
                .map_err(|e| ReadError::Source(e.into()))
                .and_then(|()| {
                    let wrote = transfer::write(into.map, into.addr + done, buf, may);
                    wrote.map_err(|e| ReadError::Destination(e.into()))
                });
            done += n;
        }
        if result.is_err()
            && let Some(r) = machvm_hal::VaRange::of_pages(start, pages)
        {
            // Joined to a neighbour it may have to be cut off; without memory for that it
            // stays, as zeroes would.
            let _ = to.delete(r, may);
        }
        result.map(|()| start.get())
    }

    /// Reads memory of this task into memory that the caller has (U17). Both may be
    /// unaligned, and `caller` may be this task.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn vm_read_overwrite(
        &self,
        addr: RawAddr,
        size: RawSize,
        caller: &Task<'_, 'vm, P>,
        data: RawAddr,
        may: &mut MaySleep,
    ) -> Result<u64, ReadError> {
        if size.0 == 0 {
            return Ok(0);
        }
        for a in [addr, data] {
            pages_of(a.0, size.0).ok_or(ReadError::Wraps(a.0))?;
        }
        let (from, to) = (End { map: self.map, addr: addr.0 }, End { map: caller.map, addr: data.0 });
        let hide = self.hides_rights(size.0);
        let done = transfer::transfer(from, to, size.0, self.how.buffered_below, may);
        done.map(|()| size.0).map_err(|e| match e {
            Refused::Source(d) => ReadError::Source(d.hidden(hide)),
            Refused::Destination(d) => ReadError::Destination(d.hidden(hide)),
        })
    }

    /// As [`Task::vm_read_overwrite`], into bytes that are in no map of ours.
    ///
    /// => no lock is held, and `buf` is not managed memory.
    ///
    /// # Errors
    /// [`ReadError`]; `buf` may be filled in part.
    pub fn vm_read_bytes(&self, addr: RawAddr, buf: &mut [u8], may: &mut MaySleep) -> Result<(), ReadError> {
        let size = buf.len() as u64;
        if size == 0 {
            return Ok(());
        }
        pages_of(addr.0, size).ok_or(ReadError::Wraps(addr.0))?;
        let hide = self.hides_rights(size);
        let denied = |d: Denied| ReadError::Source(d.hidden(hide));
        transfer::check(self.map, addr.0, size, Prot::R, may).map_err(denied)?;
        transfer::read(self.map, addr.0, buf, may).map_err(|e| denied(e.into()))
    }
}

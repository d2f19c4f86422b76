//! The pager of memory that processes share.

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

use machvm::PagerId;
use machvm_hal::{PAGE_SIZE, PageIn, Pager, PagerError, Pfn, Supply};
use machvm_pagers::FilePager;

use super::copy::{each_data, write_all};
use crate::phys::commons::Commons;
use crate::sys;

/// Its name; no other pager gets so high a number.
pub(in crate::library) const COMMONS: PagerId = PagerId(NonZeroU32::MAX);

/// Its data are the frames of the common files, its offsets the addresses of frames. So
/// what an object of its asks for is in place, and what is given back is where it belongs.
pub(in crate::library) struct CommonPager;

impl Pager for CommonPager {
    fn page_in(&self, req: PageIn<'_>) {
        let n = req.pages();
        req.supplied(n, Supply::Clean);
    }
    fn page_out(&self, _: u64, _: &[u8; PAGE_SIZE as usize]) -> Result<(), PagerError> {
        Ok(())
    }
}

/// A pager with the bytes that are in `[offset, offset + bytes)` of [`CommonPager`]'s data
/// now.
pub(in crate::library) fn snapshot(commons: &Commons, offset: u64, bytes: u64) -> io::Result<FilePager> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let (from, first) = commons.locate(Pfn(offset / PAGE_SIZE)).ok_or_else(gone)?;
    let file = sys::memfd_create(c"machvm-copy")?;
    sys::ftruncate(file.as_raw_fd(), (offset + bytes).cast_signed())?;
    each_data(from, first, first + bytes, |at, data| write_all(file.as_raw_fd(), at - first + offset, data))?;
    Ok(FilePager::read_only(File::from(file)))
}

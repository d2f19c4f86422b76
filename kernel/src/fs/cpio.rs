//! The "newc" format of initial file systems.

use super::initial::Initial;
use crate::errno::{EINVAL, Result};

/// How a header begins, and bytes of it.
pub(super) const MAGIC: &[u8] = b"07070";
const HEADER: u64 = 110;
/// Longer names are of no file.
const LONGEST: u64 = 4096;

/// An entry.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) number: usize,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: usize,
    pub(super) mtime: u32,
    /// Of a device file.
    pub(super) device: (u32, u32),
    pub(super) data: Initial,
}

/// Where the next header may begin: archives in memory follow one another, with zeroes in between.
fn skip_zeroes(archive: Initial, at: u64) -> u64 {
    let Initial::Memory(bytes) = archive else { return at };
    let rest = bytes.get(at as usize..).unwrap_or(&[]);
    at + (rest.iter().position(|b| *b != 0).unwrap_or(rest.len()) & !3) as u64
}

/// Calls `f` with each entry.
///
/// # Errors
/// EINVAL: the archive ends in the middle of an entry; EIO: the disk that it is on cannot be read.
pub(super) fn each(archive: Initial, mut f: impl FnMut(&Entry<'_>)) -> Result<()> {
    let mut at = 0;
    loop {
        at = skip_zeroes(archive, at);
        if archive.part(at, HEADER).is_none() {
            return Ok(());
        }
        let h = archive.copy(at, HEADER)?;
        if !h.starts_with(MAGIC) {
            return Ok(());
        }
        let field = |i: usize| {
            let text = core::str::from_utf8(&h[6 + 8 * i..14 + 8 * i]).unwrap_or("0");
            usize::from_str_radix(text, 16).unwrap_or(0)
        };
        let (size, name_size) = (field(6) as u64, field(11) as u64);
        if name_size > LONGEST {
            return Err(EINVAL);
        }
        let data_at = (at + HEADER + name_size).next_multiple_of(4);
        let name = archive.copy(at + HEADER, name_size)?;
        let data = archive.part(data_at, size).ok_or(EINVAL)?;
        let name = core::str::from_utf8(&name).unwrap_or("").trim_end_matches('\0');
        at = (data_at + size).next_multiple_of(4);
        if name == "TRAILER!!!" {
            // Behind an archive on a disk there is whatever was there before.
            if matches!(archive, Initial::Disk { .. }) {
                return Ok(());
            }
            continue;
        }
        if !name.is_empty() {
            f(&Entry {
                name,
                number: field(0),
                mode: field(1) as u32,
                uid: field(2) as u32,
                gid: field(3) as u32,
                links: field(4),
                mtime: field(5) as u32,
                device: (field(9) as u32, field(10) as u32),
                data,
            });
        }
    }
}

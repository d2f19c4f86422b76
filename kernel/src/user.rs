//! Values in programs' memory.

use alloc::string::String;
use alloc::vec::Vec;

use crate::arch::{copy_from_user, copy_to_user};
use crate::errno::{E2BIG, EFAULT, ENAMETOOLONG, Result};

/// Reads `buf.len()` bytes.
pub(crate) fn read(at: u64, buf: &mut [u8]) -> Result<()> {
    if copy_from_user(at, buf) == buf.len() { Ok(()) } else { Err(EFAULT) }
}
/// Writes bytes.
pub(crate) fn write(at: u64, data: &[u8]) -> Result<()> {
    if copy_to_user(at, data) == data.len() { Ok(()) } else { Err(EFAULT) }
}
/// Reads a word.
pub(crate) fn read_u64(at: u64) -> Result<u64> {
    let mut b = [0; 8];
    read(at, &mut b)?;
    Ok(u64::from_le_bytes(b))
}
/// Reads a half word.
pub(crate) fn read_u32(at: u64) -> Result<u32> {
    let mut b = [0; 4];
    read(at, &mut b)?;
    Ok(u32::from_le_bytes(b))
}
/// Writes words.
pub(crate) fn write_u64s(at: u64, words: &[u64]) -> Result<()> {
    for (i, w) in words.iter().enumerate() {
        write(at + 8 * i as u64, &w.to_le_bytes())?;
    }
    Ok(())
}

/// Most bytes of a path.
const PATH_MAX: usize = 4096;

/// Reads a string of at most `max` bytes.
pub(crate) fn string(at: u64, max: usize) -> Result<Vec<u8>> {
    let mut s = Vec::new();
    let mut chunk = [0; 64];
    loop {
        let from = at + s.len() as u64;
        // Not across a page: the next may be absent.
        let n = chunk.len().min((4096 - from % 4096) as usize);
        read(from, &mut chunk[..n])?;
        if let Some(end) = chunk[..n].iter().position(|b| *b == 0) {
            s.extend_from_slice(&chunk[..end]);
            return Ok(s);
        }
        s.extend_from_slice(&chunk[..n]);
        if s.len() >= max {
            return Err(ENAMETOOLONG);
        }
    }
}
/// Reads a path.
pub(crate) fn path(at: u64) -> Result<String> {
    // Names are bytes to Linux; ours are text.
    String::from_utf8(string(at, PATH_MAX)?).map_err(|_| crate::errno::ENOENT)
}

/// Reads a list of strings that ends with a null pointer (`argv`).
pub(crate) fn strings(at: u64) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    let mut bytes = 0;
    if at == 0 {
        return Ok(all);
    }
    loop {
        let p = read_u64(at + 8 * all.len() as u64)?;
        if p == 0 {
            break;
        }
        let s = string(p, 128 << 10).map_err(|e| if e == ENAMETOOLONG { E2BIG } else { e })?;
        bytes += s.len() + 9;
        if bytes > 2 << 20 {
            return Err(E2BIG);
        }
        all.push(s);
    }
    Ok(all)
}

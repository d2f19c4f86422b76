//! From an ELF program to the bytes that lie in memory: what loaders of Linux's images for AArch64 take.
//!
//! Such an image begins with a head of 64 bytes that the kernel brings itself; memory behind its end is the loader's to
//! leave alone.

use std::fs;
use std::path::{Path, PathBuf};

const HEADER: usize = 64;
const PT_LOAD: u64 = 1;

/// A little-endian number of `n` bytes.
fn number(elf: &[u8], at: usize, n: usize) -> Option<u64> {
    let b = elf.get(at..at.checked_add(n)?)?;
    Some(b.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
}

/// The loaded bytes from the lowest physical address on. `None`: it is no 64-bit ELF program, or is cut off.
fn flat(elf: &[u8]) -> Option<Vec<u8>> {
    if elf.len() < HEADER || !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (number(elf, 32, 8)?, number(elf, 54, 2)?, number(elf, 56, 2)?);
    let mut parts = Vec::new();
    for i in 0..count {
        let at = usize::try_from(table.checked_add(i * size)?).ok()?;
        let field = |n: usize| number(elf, at.checked_add(8 * n)?, 8);
        let (kind, offset, physical, bytes) = (number(elf, at, 4)?, field(1)?, field(3)?, field(4)?);
        if kind == PT_LOAD && bytes != 0 {
            let start = usize::try_from(offset).ok()?;
            parts.push((physical, elf.get(start..start.checked_add(usize::try_from(bytes).ok()?)?)?));
        }
    }
    parts.sort_by_key(|(physical, _)| *physical);
    let first = parts.first()?.0;
    let mut image = Vec::new();
    for (physical, bytes) in parts {
        let at = usize::try_from(physical - first).ok().filter(|at| *at >= image.len() && *at < 1 << 30)?;
        image.resize(at, 0);
        image.extend_from_slice(bytes);
    }
    Some(image)
}

/// Writes the image of a program beside it; gives where.
pub(super) fn write(program: &Path) -> Result<PathBuf, String> {
    let said = |p: &Path, e: std::io::Error| format!("{}: {e}", p.display());
    let elf = fs::read(program).map_err(|e| said(program, e))?;
    let image = flat(&elf).ok_or_else(|| format!("{}: no program", program.display()))?;
    let to = program.with_extension("image");
    fs::write(&to, image).map_err(|e| said(&to, e))?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF program of two segments, the second first: bytes, and where they lie in memory.
    fn elf(parts: [(&[u8], u64); 2]) -> Vec<u8> {
        let mut e = vec![0; HEADER + 2 * 56];
        e[..6].copy_from_slice(b"\x7fELF\x02\x01");
        e[32] = HEADER as u8;
        (e[54], e[56]) = (56, 2);
        for (i, (bytes, physical)) in parts.into_iter().rev().enumerate() {
            let (at, offset) = (HEADER + 56 * i, e.len() as u64);
            e[at] = 1;
            e[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
            e[at + 24..at + 32].copy_from_slice(&physical.to_le_bytes());
            e[at + 32..at + 40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            e.extend_from_slice(bytes);
        }
        e
    }

    #[test]
    fn segments_lie_where_they_are_loaded() {
        let e = elf([(b"abc", 0x4020_0000), (b"xyz", 0x4020_0008)]);
        assert_eq!(flat(&e).as_deref(), Some(&b"abc\0\0\0\0\0xyz"[..]));
        assert_eq!(flat(&e[..e.len() - 1]), None, "a segment is cut off");
        assert_eq!(flat(&elf([(b"abc", 8), (b"xyz", 9)])), None, "segments overlap");
        assert_eq!(flat(b"#!/bin/sh\n"), None);
    }
}

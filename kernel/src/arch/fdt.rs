//! The device tree that firmware leaves: memory, the command line, the initial file system, the clock's frequency.
//!
//! Devicetree Specification, chapter 5 "Flattened Devicetree (DTB) Format". Numbers are big-endian.

use super::{BootInfo, Span};

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
/// Longest command line that is kept.
const LINE: usize = 2048;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    /// As the kernel wants it.
    pub(super) info: BootInfo,
    /// Counts of the clock in a second; 0: not told.
    pub(super) timebase: u64,
}

/// The tree's bytes.
struct Blob(&'static [u8]);

impl Blob {
    fn word(&self, at: usize) -> Option<u32> {
        let b = self.0.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(b.try_into().ok()?))
    }
    /// The string that begins there.
    fn string(&self, at: usize) -> Option<&'static [u8]> {
        let rest = self.0.get(at..)?;
        Some(&rest[..rest.iter().position(|b| *b == 0)?])
    }
}

/// A number of one or two words.
fn number(b: &[u8]) -> u64 {
    b.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Notes a property of a node at the root (`node`), or of one below.
fn note(tree: &mut Tree, node: &[u8], name: &[u8], value: &'static [u8], line: &mut [u8; LINE]) -> usize {
    let initrd = &mut tree.info.initrd;
    match (node, name) {
        (b"chosen", b"bootargs") => {
            let text = value.strip_suffix(b"\0").unwrap_or(value);
            let n = text.len().min(LINE);
            line[..n].copy_from_slice(&text[..n]);
            return n;
        }
        (b"chosen", b"linux,initrd-start") => initrd.get_or_insert_default().start = number(value),
        (b"chosen", b"linux,initrd-end") => initrd.get_or_insert_default().end = number(value),
        (b"cpus", b"timebase-frequency") => tree.timebase = number(value),
        // Two words of address and two of size, as QEMU's machines have them.
        (n, b"reg") if n.starts_with(b"memory@") => {
            for r in value.chunks_exact(16) {
                if let Some(m) = tree.info.memory.get_mut(tree.info.ranges) {
                    *m = Span { start: number(&r[..8]), end: number(&r[..8]) + number(&r[8..]) };
                    tree.info.ranges += 1;
                }
            }
        }
        _ => {}
    }
    0
}

/// Walks the structure block. `None`: it is cut off, or no tree.
fn walk(blob: &Blob, tree: &mut Tree, line: &mut [u8; LINE]) -> Option<usize> {
    let (mut at, strings) = (blob.word(8)? as usize, blob.word(12)? as usize);
    let (mut depth, mut node, mut length) = (0, &b""[..], 0);
    loop {
        let token = blob.word(at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = blob.string(at)?;
                at = (at + name.len() + 1).next_multiple_of(4);
                depth += 1;
                if depth == 2 {
                    node = name;
                }
            }
            END_NODE => depth -= 1,
            PROP => {
                let (n, name) = (blob.word(at)? as usize, blob.word(at + 4)? as usize);
                let value = blob.0.get(at + 8..at + 8 + n)?;
                at = (at + 8 + n).next_multiple_of(4);
                if depth == 2 {
                    length = note(tree, node, blob.string(strings + name)?, value, line).max(length);
                }
            }
            NOP => {}
            // The end.
            _ => return Some(length),
        }
    }
}

unsafe extern "C" {
    #[link_name = "__kernel_end"]
    safe static KERNEL_END: u8;
}

/// Moves the initial file system from the midst of memory, where QEMU puts it, to the kernel's end: the rest is one
/// range.
///
/// # Safety
/// 1. The direct map reaches it and all that is below it, and nothing but the kernel is there.
unsafe fn move_down(initrd: &mut Span) {
    let to = (&raw const KERNEL_END as u64 - super::KVA).next_multiple_of(4096);
    let Some(bytes) = initrd.end.checked_sub(initrd.start) else { return };
    if to < initrd.start {
        // SAFETY: by 1; the ranges may overlap.
        unsafe {
            super::direct(to).copy_from(super::direct(initrd.start).cast_const(), bytes as usize);
        }
        *initrd = Span { start: to, end: to + bytes };
    }
}

/// Reads the tree at a physical address. The initial file system moves to the kernel's end.
///
/// # Safety
/// 1. The direct map reaches what is there, and nobody changes it meanwhile.
/// 2. Called once.
/// 3. The tree and the initial file system are above the kernel, and nothing that is needed lies between.
pub(super) unsafe fn read(at: u64) -> Tree {
    static mut COMMAND_LINE: [u8; LINE] = [0; LINE];
    let info =
        BootInfo { memory: [Span::default(); 16], ranges: 0, initrd: None, command_line: "", tables: at };
    let mut tree = Tree { info, timebase: 0 };
    let p = super::direct(at).cast_const();
    // SAFETY: by 1 the tree's head is there.
    let (magic, size) = unsafe { (p.cast::<u32>().read(), p.cast::<u32>().add(1).read()) };
    assert!(u32::from_be(magic) == MAGIC, "no device tree at {at:#x}: magic {magic:#x}");
    // SAFETY: by 1 as many bytes as the head says.
    let blob = Blob(unsafe { core::slice::from_raw_parts(p, u32::from_be(size) as usize) });
    let line = &raw mut COMMAND_LINE;
    // SAFETY: by 2 the only one that uses it.
    let line = unsafe { &mut *line };
    let length = walk(&blob, &mut tree, line).expect("a device tree that can be read");
    if let Some(initrd) = &mut tree.info.initrd {
        // SAFETY: by 1 and 3; of the tree all has been read.
        unsafe { move_down(initrd) }
    }
    tree.info.command_line = core::str::from_utf8(&line[..length]).unwrap_or("");
    tree
}

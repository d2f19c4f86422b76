//! Programs: ELF64, static or static-PIE.

use alloc::sync::Arc;
use alloc::vec::Vec;

use machvm::map::{Attributes, Backing, Place, SetProt, StackShape};
use machvm_hal::{MaySleep, PAGE_SIZE, Pindex, Prot, RawAddr, RawSize, Va, VaRange};

use crate::arch;
use crate::errno::{ENOEXEC, ENOMEM, Result};
use crate::fs::{Mappable, Node};
use crate::mapped;
use crate::process::Space;
use crate::syscall::memory::{FILE, copy_of};

/// Where programs without an address of their own go.
const PIE_BASE: u64 = 0x5555_5555_4000;
/// Room that the stack has at least and at most: its limit may be raised while the program runs, as in Linux up to where
/// mappings begin.
const STACK: (u64, u64) = (128 << 20, 1 << 30);
/// Mapped of it at the start, besides what is put there.
const FIRST_STACK: u64 = 128 << 10;
/// Of what is put there, the part that is always as long: words and the auxiliary vector.
const WORDS: u64 = 1024;

const PT_LOAD: u32 = 1;
const PT_PHDR: u32 = 6;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// A loaded program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    /// Where it begins.
    pub(crate) entry: u64,
    /// Where its heap begins.
    pub(crate) heap: u64,
    headers: u64,
    count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    va: u64,
    file: u64,
    memory: u64,
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}
fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from(u16_at(b, at)) | u32::from(u16_at(b, at + 2)) << 16
}
fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

struct Parsed {
    entry: u64,
    bias: u64,
    table: u64,
    segments: Vec<Segment>,
}

fn parse(node: &Node) -> Result<Parsed> {
    let mut h = [0; HEADER];
    if node.read_at(0, &mut h)? != HEADER || h[..4] != *b"\x7fELF" || h[4] != 2 || h[5] != 1 {
        return Err(ENOEXEC);
    }
    let kind = u16_at(&h, 16);
    if !(kind == 2 || kind == 3)
        || u16_at(&h, 18) != arch::ELF_MACHINE
        || usize::from(u16_at(&h, 54)) != PROGRAM_HEADER
    {
        return Err(ENOEXEC);
    }
    let (table, n) = (u64_at(&h, 32), usize::from(u16_at(&h, 56)));
    let mut b = alloc::vec![0; n * PROGRAM_HEADER];
    if n == 0 || n > 64 || node.read_at(table, &mut b)? != b.len() {
        return Err(ENOEXEC);
    }
    let segments: Vec<Segment> = b
        .chunks_exact(PROGRAM_HEADER)
        .map(|p| Segment {
            kind: u32_at(p, 0),
            flags: u32_at(p, 4),
            offset: u64_at(p, 8),
            va: u64_at(p, 16),
            file: u64_at(p, 32),
            memory: u64_at(p, 40),
        })
        .collect();
    let bias = if kind == 3 { PIE_BASE } else { 0 };
    let sane = |s: &Segment| {
        s.kind != PT_LOAD
            || s.file <= s.memory
                && s.offset.checked_add(s.file).is_some()
                && s.va % PAGE_SIZE == s.offset % PAGE_SIZE
                && s.va.checked_add(s.memory).is_some_and(|e| e < arch::USER_END - PIE_BASE)
    };
    // An interpreter (3) would be a dynamic program.
    if segments.iter().any(|s| s.kind == 3) || !segments.iter().all(sane) {
        return Err(ENOEXEC);
    }
    Ok(Parsed { entry: u64_at(&h, 24), bias, table, segments })
}

/// Is it a program that can be loaded?
pub(crate) fn check(node: &Node) -> Result<()> {
    parse(node).map(|_| ())
}

fn prot(flags: u32) -> Prot {
    let mut p = Prot::NONE;
    p.set(Prot::X, flags & 1 != 0);
    p.set(Prot::W, flags & 2 != 0);
    p.set(Prot::R, flags & 4 != 0);
    p
}

fn range(start: u64, end: u64) -> Result<VaRange> {
    VaRange::check(RawAddr(start), RawSize(end - start)).map_err(|_| ENOEXEC)
}

/// Maps a segment: what the file has of it copy-on-write, zeroes behind it.
fn segment(space: &Space, (node, tag): (&Node, u64), s: &Segment, start: u64, r: VaRange) -> Result<()> {
    let (map, mut may) = (space.map(), MaySleep::claim());
    let from_file = match s.file {
        0 => 0,
        n => (start % PAGE_SIZE + n).div_ceil(PAGE_SIZE),
    };
    let zeroes = start + s.file;
    let ends_inside = s.memory > s.file && from_file != 0 && !zeroes.is_multiple_of(PAGE_SIZE);
    let rights = prot(s.flags);
    if from_file != 0 {
        let Mappable::Object(object) = node.object()? else { return Err(ENOEXEC) };
        // The rest of its last page becomes zero before the program sees it.
        let mut a = Attributes::new(if ends_inside { rights | Prot::RW } else { rights });
        (a.tag, a.flags) = (tag, a.flags | FILE);
        let first = Pindex(s.offset / PAGE_SIZE);
        copy_of(map, (object, first), from_file, Place::At(r.start()), a)?;
    }
    if ends_inside {
        let tail = (PAGE_SIZE - zeroes % PAGE_SIZE).min(s.memory - s.file) as usize;
        map.write_in_page(zeroes, &[0; PAGE_SIZE as usize][..tail], &mut may).map_err(|_| ENOMEM)?;
        let file = VaRange::of_pages(r.start(), from_file).ok_or(ENOEXEC)?;
        map.protect(file, &SetProt::prot(rights), &mut may).map_err(|_| ENOMEM)?;
    }
    if let Some(rest) = VaRange::between(r.start().add(from_file), r.end()) {
        map.insert(rest, Backing::Anonymous, &Attributes::new(rights), &mut may).map_err(|_| ENOMEM)?;
    }
    Ok(())
}

/// Loads a program into an empty space; `path`: what its mappings are called.
pub(crate) fn load(space: &Space, node: &Arc<Node>, path: &str) -> Result<Image> {
    let p = parse(node)?;
    let tag = mapped::tag(node, || path.into());
    let (mut heap, mut headers) = (0, 0);
    for s in p.segments.iter().filter(|s| s.kind == PT_LOAD && s.memory != 0) {
        let (start, end) = (s.va + p.bias, s.va + p.bias + s.memory);
        let r = range(start, end)?;
        segment(space, (node, tag), s, start, r)?;
        heap = heap.max(r.end().get());
        if p.table >= s.offset && p.table < s.offset + s.file {
            headers = start + (p.table - s.offset);
        }
    }
    if let Some(s) = p.segments.iter().find(|s| s.kind == PT_PHDR) {
        headers = s.va + p.bias;
    }
    Ok(Image { entry: p.entry + p.bias, heap, headers, count: p.segments.len() as u64 })
}

/// Where signal handlers return to, where programs do not say so: the last page of programs' addresses, which is
/// above the stack.
pub(crate) const SIGNAL_RETURN: u64 = arch::USER_END - PAGE_SIZE;

/// Maps the instructions that end signal handlers, on machines that need some.
fn signal_return(space: &Space) -> Result<()> {
    if arch::SIGNAL_RETURN.is_empty() {
        return Ok(());
    }
    let (map, mut may) = (space.map(), MaySleep::claim());
    let r = range(SIGNAL_RETURN, SIGNAL_RETURN + PAGE_SIZE)?;
    map.insert(r, Backing::Anonymous, &Attributes::new(Prot::RW), &mut may).map_err(|_| ENOMEM)?;
    let code: Vec<u8> = arch::SIGNAL_RETURN.iter().flat_map(|i| i.to_le_bytes()).collect();
    map.write_in_page(SIGNAL_RETURN, &code, &mut may).map_err(|_| ENOMEM)?;
    map.protect(r, &SetProt::prot(Prot::R | Prot::X), &mut may).map_err(|_| ENOMEM)
}

/// Builds the first stack: arguments, environment, auxiliary vector. Gives the stack pointer and that vector.
pub(crate) fn stack(
    space: &Space,
    image: &Image,
    argv: &[Vec<u8>],
    envp: &[Vec<u8>],
    path: &str,
) -> Result<(u64, Vec<u8>)> {
    let top = arch::USER_END - PAGE_SIZE;
    signal_return(space)?;
    let map = space.map();
    let mut may = MaySleep::claim();
    // What is put there now, and Linux's first piece for the program; it grows into the rest.
    let texts = argv.iter().chain(envp).map(|s| s.len() as u64 + 9).sum::<u64>() + path.len() as u64;
    let initial = (texts + WORDS).div_ceil(PAGE_SIZE) + FIRST_STACK / PAGE_SIZE;
    let room = map.limits(&mut may).stack.clamp(STACK.0, STACK.1) & !(PAGE_SIZE - 1);
    let shape = StackShape { pages: room / PAGE_SIZE, initial, guard: 0 };
    let a = Attributes::new(Prot::R | Prot::W);
    map.stack(Place::At(Va::containing(RawAddr(top - room))), shape, &a, &mut may).map_err(|_| ENOMEM)?;
    let mut at = top;
    let mut put = |at: &mut u64, bytes: &[u8]| -> Result<u64> {
        *at -= bytes.len() as u64;
        let mut done = 0;
        while done < bytes.len() {
            let to = *at + done as u64;
            let n = ((PAGE_SIZE - to % PAGE_SIZE) as usize).min(bytes.len() - done);
            map.write_in_page(to, &bytes[done..done + n], &mut may).map_err(|_| ENOMEM)?;
            done += n;
        }
        Ok(*at)
    };
    let mut text = |at: &mut u64, s: &[u8]| -> Result<u64> {
        let mut z = s.to_vec();
        z.push(0);
        put(at, &z)
    };
    let name = text(&mut at, path.as_bytes())?;
    let platform = text(&mut at, arch::MACHINE.as_bytes())?;
    let envp: Vec<u64> = envp.iter().map(|s| text(&mut at, s)).collect::<Result<_>>()?;
    let argv: Vec<u64> = argv.iter().map(|s| text(&mut at, s)).collect::<Result<_>>()?;
    at &= !15;
    let mut random = [0; 16];
    crate::fs::random(&mut random);
    let random = put(&mut at, &random)?;
    let [uid, euid, gid, egid] = crate::process::own_ids();
    let aux = [
        (3, image.headers),
        (4, PROGRAM_HEADER as u64),
        (5, image.count),
        (6, PAGE_SIZE),
        (7, 0),
        (8, 0),
        (9, image.entry),
        (11, uid),
        (12, euid),
        (13, gid),
        (14, egid),
        (15, platform),
        (16, arch::hwcap()),
        (17, 100),
        (23, 0),
        (25, random),
        (26, 0),
        (31, name),
        (51, arch::signal_frame_bytes()),
        (0, 0),
    ];
    let mut words = Vec::new();
    words.push(argv.len() as u64);
    words.extend(&argv);
    words.push(0);
    words.extend(&envp);
    words.push(0);
    words.extend(aux.iter().flat_map(|(k, v)| [k, v]));
    at = (at - 8 * words.len() as u64) & !15;
    let sp = at;
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut end = sp + bytes.len() as u64;
    put(&mut end, &bytes)?;
    let auxiliary = bytes[bytes.len() - 16 * aux.len()..].to_vec();
    Ok((sp, auxiliary))
}

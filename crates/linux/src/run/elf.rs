//! What an ELF file says about itself, checked field by field before anything is
//! mapped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::error::{LoadError, Nonsense};

/// The page size of x86-64.
pub const PAGE: u64 = 4096;
/// One past the last address a program can have (4-level paging).
pub const TASK_SIZE: u64 = 0x7fff_ffff_f000;

const EHDR_SIZE: usize = 64;
const PHDR_SIZE: usize = 56;
/// Linux reads at most one 64 KiB table of program headers.
const MAX_PHDRS: usize = 65536 / PHDR_SIZE;
const PATH_MAX: u64 = 4096;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
/// The class of the x32 ABI's files, whose machine is ours.
const ELFCLASS32: u8 = 1;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;

/// Rounds down to a page.
#[must_use]
pub const fn page_down(addr: u64) -> u64 {
    addr & !(PAGE - 1)
}

/// Rounds up to a page. `addr` is at most [`TASK_SIZE`].
#[must_use]
pub const fn page_up(addr: u64) -> u64 {
    (addr + PAGE - 1) & !(PAGE - 1)
}

/// One `PT_LOAD` header, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it starts, before the load bias.
    pub vaddr: u64,
    /// Bytes in memory.
    pub memsz: u64,
    /// Where it starts in the file.
    pub offset: u64,
    /// Bytes that come from the file.
    pub filesz: u64,
    /// `PROT_*`.
    pub prot: i32,
}

impl Segment {
    /// One past its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.vaddr + self.memsz
    }

    /// One past its last byte that comes from the file.
    #[must_use]
    pub fn file_end(&self) -> u64 {
        self.vaddr + self.filesz
    }
}

/// An executable or interpreter whose headers make sense.
#[derive(Debug)]
pub struct Elf {
    /// Its segments, in the order of the file. They may overlap: the later one wins.
    pub segments: Vec<Segment>,
    /// It runs at any address (`ET_DYN`).
    pub relocatable: bool,
    /// Entry point, before the load bias.
    pub entry: u64,
    /// Address of the program headers in memory, before the load bias; 0 when no
    /// segment holds them.
    pub phdr_vaddr: u64,
    /// How many program headers.
    pub phnum: u64,
    /// Path of the interpreter.
    pub interp: Option<Vec<u8>>,
    /// `PT_GNU_STACK` asks for an executable stack.
    pub exec_stack: bool,
    /// Largest alignment any segment asks for, at least a page.
    pub align: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

struct Phdr {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

impl Phdr {
    fn parse(raw: &[u8]) -> Phdr {
        Phdr {
            kind: u32_at(raw, 0),
            flags: u32_at(raw, 4),
            offset: u64_at(raw, 8),
            vaddr: u64_at(raw, 16),
            filesz: u64_at(raw, 32),
            memsz: u64_at(raw, 40),
            align: u64_at(raw, 48),
        }
    }

    fn segment(&self, file_len: u64) -> Result<Segment, LoadError> {
        if self.filesz > self.memsz {
            return Err(LoadError::Malformed(Nonsense::FileLargerThanMemory));
        }
        let end = self.vaddr.checked_add(self.memsz);
        if end.is_none_or(|end| end > TASK_SIZE) {
            return Err(LoadError::Malformed(Nonsense::OutsideAddressSpace));
        }
        if self.filesz > 0 && self.vaddr % PAGE != self.offset % PAGE {
            return Err(LoadError::Malformed(Nonsense::Misaligned));
        }
        let file_end = self.offset.checked_add(self.filesz);
        if self.filesz > 0 && file_end.is_none_or(|end| end > file_len) {
            return Err(LoadError::Truncated);
        }
        let bit = |flag: u32, prot: i32| if self.flags & flag != 0 { prot } else { 0 };
        Ok(Segment {
            vaddr: self.vaddr,
            memsz: self.memsz,
            offset: self.offset,
            filesz: self.filesz,
            prot: bit(PF_R, libc::PROT_READ) | bit(PF_W, libc::PROT_WRITE) | bit(PF_X, libc::PROT_EXEC),
        })
    }
}

/// Reads exactly `len` bytes at `at`; a short file is `Truncated`.
fn read_at(file: &File, at: u64, len: usize) -> Result<Vec<u8>, LoadError> {
    let mut bytes = vec![0; len];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(LoadError::Truncated),
        Err(error) => Err(LoadError::Read(error)),
    }
}

impl Elf {
    /// Reads and checks the headers.
    ///
    /// # Errors
    /// [`LoadError::NotElf`], `Class32`, `WrongMachine`, `Truncated`, or what in the
    /// headers makes no sense.
    pub fn read(file: &File) -> Result<Elf, LoadError> {
        let file_len = file.metadata().map_err(LoadError::Read)?.len();
        let mut magic = [0; 20];
        let got = file.read_at(&mut magic, 0).map_err(LoadError::Read)?;
        if got < 4 || magic[..4] != *b"\x7fELF" {
            return Err(LoadError::NotElf);
        }
        if got < magic.len() {
            return Err(LoadError::Truncated);
        }
        check_ident(&magic)?;
        let ehdr = read_at(file, 0, EHDR_SIZE)?;
        let phnum = usize::from(u16_at(&ehdr, 56));
        let phentsize = usize::from(u16_at(&ehdr, 54));
        if phentsize != PHDR_SIZE && magic[4] == ELFCLASS32 {
            return Err(LoadError::Class32);
        }
        if phentsize != PHDR_SIZE || phnum == 0 || phnum > MAX_PHDRS {
            return Err(LoadError::Malformed(Nonsense::ProgramHeaders));
        }
        let phoff = u64_at(&ehdr, 32);
        if phoff.checked_add((phnum * PHDR_SIZE) as u64).is_none_or(|end| end > file_len) {
            return Err(LoadError::Truncated);
        }
        let table = read_at(file, phoff, phnum * PHDR_SIZE)?;
        let phdrs: Vec<Phdr> = table.chunks_exact(PHDR_SIZE).map(Phdr::parse).collect();

        let mut segments = Vec::new();
        let mut phdr_vaddr = 0;
        for phdr in phdrs.iter().filter(|p| p.kind == PT_LOAD && p.memsz > 0) {
            let segment = phdr.segment(file_len)?;
            if phdr_vaddr == 0 && phoff >= segment.offset && phoff - segment.offset < segment.filesz {
                phdr_vaddr = segment.vaddr + (phoff - segment.offset);
            }
            segments.push(segment);
        }
        if segments.is_empty() {
            return Err(LoadError::Malformed(Nonsense::NothingToLoad));
        }
        Ok(Elf {
            relocatable: u16_at(&ehdr, 16) == ET_DYN,
            entry: u64_at(&ehdr, 24),
            phdr_vaddr,
            phnum: phnum as u64,
            interp: interp(file, &phdrs)?,
            exec_stack: phdrs.iter().rfind(|p| p.kind == PT_GNU_STACK).is_some_and(|p| p.flags & PF_X != 0),
            align: alignment(&phdrs),
            segments,
        })
    }

    /// First and one past the last page, before the load bias.
    #[must_use]
    pub fn span(&self) -> (u64, u64) {
        let low = self.segments.iter().map(|s| s.vaddr).min().unwrap_or(0);
        let high = self.segments.iter().map(Segment::end).max().unwrap_or(0);
        (page_down(low), page_up(high))
    }
}

/// Linux looks at the machine and the type only; class and byte order follow.
fn check_ident(magic: &[u8; 20]) -> Result<(), LoadError> {
    match u16_at(magic, 18) {
        EM_X86_64 => {}
        EM_386 => return Err(LoadError::Class32),
        other => return Err(LoadError::WrongMachine(other)),
    }
    match u16_at(magic, 16) {
        ET_EXEC | ET_DYN => Ok(()),
        other => Err(LoadError::NotExecutableType(other)),
    }
}

/// As Linux: alignments that are not powers of two are ignored.
fn alignment(phdrs: &[Phdr]) -> u64 {
    phdrs
        .iter()
        .filter(|p| p.kind == PT_LOAD && p.align.is_power_of_two() && p.align <= TASK_SIZE / 4)
        .map(|p| p.align)
        .max()
        .unwrap_or(PAGE)
        .max(PAGE)
}

fn interp(file: &File, phdrs: &[Phdr]) -> Result<Option<Vec<u8>>, LoadError> {
    let Some(phdr) = phdrs.iter().find(|p| p.kind == PT_INTERP) else {
        return Ok(None);
    };
    if phdr.filesz < 2 || phdr.filesz > PATH_MAX {
        return Err(LoadError::Malformed(Nonsense::InterpreterPath));
    }
    let mut path = read_at(file, phdr.offset, phdr.filesz as usize)?;
    if path.last() != Some(&0) {
        return Err(LoadError::Malformed(Nonsense::InterpreterPath));
    }
    let end = path.iter().position(|&byte| byte == 0).unwrap_or(0);
    path.truncate(end);
    if path.is_empty() {
        return Err(LoadError::Malformed(Nonsense::InterpreterPath));
    }
    Ok(Some(path))
}

//! From a path to a program ready to jump into: `#!` lines, permissions, segments,
//! interpreter, stack.
//!
//! Two phases, because `execve` may fail only before the old program is gone:
//! [`prepare`] opens and checks everything and maps nothing, [`Prepared::map`] builds.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::creds::Creds;
use super::elf::{Elf, PAGE, Segment, page_down, page_up};
use super::error::LoadError;
use super::files::{copy_out, zero_out};
use super::layout::MmLayout;
use super::space::{Errno, Space};
use super::stack::{Addresses, StackPlan};

/// How much of a script's first line Linux looks at.
const SCRIPT_LINE: usize = 256;
/// How many scripts may stand before the ELF file.
const MAX_SCRIPTS: usize = 5;
/// Position-independent programs go here: where debuggers and sanitizers expect
/// them, and below the place where Linux itself put the `machvm` executable.
const PIE_BASE: u64 = 0x5500_0000_0000;
/// 256 GiB of random pages above it; the rest up to `machvm` is for the heap.
const PIE_RANDOM_PAGES: u64 = 1 << 26;
/// Linux moves the heap up to 32 MiB away from the data.
const BRK_RANDOM_PAGES: u64 = 1 << 13;

/// What to run.
#[derive(Debug)]
pub struct Source {
    /// The name as `execve` got it (`AT_EXECFN`, and the last argument of a script).
    pub path: Vec<u8>,
    /// Already open (`fexecve`); a descriptor of the VM's table.
    pub file: Option<OwnedFd>,
    /// The program's thread on whose behalf: its rights count.
    pub tid: i32,
}

/// Everything checked, nothing mapped.
#[derive(Debug)]
pub struct Prepared {
    program: Opened,
    interpreter: Option<Opened>,
    stack: StackPlan,
    stack_limit: u64,
    creds: Creds,
    comm: Vec<u8>,
}

/// A program in memory.
#[derive(Debug)]
pub struct Image {
    /// Where to jump.
    pub entry: u64,
    /// The stack pointer then.
    pub sp: u64,
    /// What `/proc/self/exe` natively names.
    pub exe_path: Vec<u8>,
    /// The thread's name, at most 15 bytes.
    pub comm: Vec<u8>,
    /// What the kernel should know about the layout.
    pub mm: MmLayout,
}

/// The soft `RLIMIT_STACK`; `u64::MAX` when there is none.
#[must_use]
pub fn stack_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) } != 0 {
        return 8 << 20;
    }
    limit.rlim_cur
}

/// [`prepare`] and [`Prepared::map`].
///
/// # Errors
/// Theirs.
pub fn load(
    space: &dyn Space,
    source: Source,
    argv: &[Vec<u8>],
    envp: &[Vec<u8>],
    stack_limit: u64,
) -> Result<Image, LoadError> {
    prepare(source, argv, envp, stack_limit)?.map(space)
}

/// Opens and checks the program, its interpreters and the size of its arguments.
///
/// => on a thread of the VM
///
/// # Errors
/// Whatever makes the program impossible to start.
pub fn prepare(
    source: Source,
    argv: &[Vec<u8>],
    envp: &[Vec<u8>],
    stack_limit: u64,
) -> Result<Prepared, LoadError> {
    let creds = Creds::of_thread(source.tid).map_err(LoadError::Open)?;
    creds.act(|| prepare_as(source, argv, envp, stack_limit, &creds))
}

fn prepare_as(
    source: Source,
    argv: &[Vec<u8>],
    envp: &[Vec<u8>],
    stack_limit: u64,
    creds: &Creds,
) -> Result<Prepared, LoadError> {
    let mut argv = argv.to_vec();
    if argv.is_empty() {
        // Linux has done so since a program without argv[0] was an exploit.
        argv.push(Vec::new());
    }
    let mut file = match source.file {
        Some(fd) => check_permission(File::from(fd), creds)?,
        None => open(&source.path, creds)?,
    };
    let mut name = source.path.clone();
    let mut scripts = 0;
    while let Some(line) = script_line(&file)? {
        if scripts == MAX_SCRIPTS {
            return Err(LoadError::TooManyScripts);
        }
        scripts += 1;
        argv[0] = name;
        if let Some(argument) = line.argument {
            argv.insert(0, argument);
        }
        argv.insert(0, line.interpreter.clone());
        name = line.interpreter;
        file = open(&name, creds).map_err(|cause| LoadError::Interpreter(name.clone(), Box::new(cause)))?;
    }
    let wrap = |cause: LoadError| {
        if scripts == 0 { cause } else { LoadError::Interpreter(name.clone(), Box::new(cause)) }
    };
    let program = Opened::read(file).map_err(wrap)?;
    let interpreter = match &program.elf.interp {
        None => None,
        Some(path) => {
            let opened = open(path, creds).and_then(Opened::read);
            Some(opened.map_err(|cause| LoadError::Interpreter(path.clone(), Box::new(cause)))?)
        }
    };
    let comm = source.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let comm = comm[..comm.len().min(15)].to_vec();
    let stack = StackPlan::new(argv, envp.to_vec(), source.path, stack_limit)?;
    Ok(Prepared { program, interpreter, stack, stack_limit, creds: creds.clone(), comm })
}

impl Prepared {
    /// Maps the segments, makes the stack and the heap. After a failure the address
    /// space is in pieces: the process cannot go on.
    ///
    /// # Errors
    /// [`LoadError::Map`], [`LoadError::Stack`], [`LoadError::Truncated`].
    pub fn map(self, space: &dyn Space) -> Result<Image, LoadError> {
        let bias = self.program.place(space, pie_hint())?;
        let interpreter_bias = match &self.interpreter {
            None => 0,
            Some(interpreter) => interpreter.place(space, 0)?,
        };
        let elf = &self.program.elf;
        let end_of_data = elf.span().1.wrapping_add(bias);
        space.set_brk_start(end_of_data + random_pages(BRK_RANDOM_PAGES) * PAGE);

        let program_entry = elf.entry.wrapping_add(bias);
        let entry = match &self.interpreter {
            None => program_entry,
            Some(interpreter) => interpreter.elf.entry.wrapping_add(interpreter_bias),
        };
        let addresses = Addresses {
            phdr: if elf.phdr_vaddr == 0 { 0 } else { elf.phdr_vaddr.wrapping_add(bias) },
            phnum: elf.phnum,
            base: interpreter_bias,
            entry: program_entry,
        };
        let top = space.make_stack(self.stack_limit, elf.exec_stack).map_err(LoadError::Stack)?;
        let stack = self.stack.build(top, &addresses, &self.creds);
        copy_out(stack.sp, &stack.bytes).map_err(LoadError::Stack)?;
        let exe_path = self.program.real_path();
        let mm = MmLayout::new(elf, bias, &stack, self.program.file);
        Ok(Image { entry, sp: stack.sp, exe_path, comm: self.comm, mm })
    }
}

/// An ELF file with its descriptor.
#[derive(Debug)]
struct Opened {
    file: File,
    elf: Elf,
}

impl Opened {
    fn read(file: File) -> Result<Opened, LoadError> {
        let elf = Elf::read(&file)?;
        Ok(Opened { file, elf })
    }

    /// The name of the file behind the descriptor, as `/proc/PID/exe` says it.
    fn real_path(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStringExt;
        let link = format!("/proc/thread-self/fd/{}", self.file.as_raw_fd());
        std::fs::read_link(link).map(|path| path.into_os_string().into_vec()).unwrap_or_default()
    }

    /// Reserves the whole span in one piece (so that segments keep their distances),
    /// maps every segment over it, gives the holes back. Returns the load bias.
    fn place(&self, space: &dyn Space, hint: u64) -> Result<u64, LoadError> {
        let (low, high) = self.elf.span();
        let len = high - low;
        let start = if self.elf.relocatable {
            reserve_aligned(space, hint, len, self.elf.align)?
        } else {
            reserve(space, low, len, libc::MAP_FIXED_NOREPLACE)?
        };
        let bias = start.wrapping_sub(low);
        for segment in &self.elf.segments {
            self.map_segment(space, segment, bias)?;
        }
        for (hole, len) in holes(&self.elf.segments) {
            let addr = hole.wrapping_add(bias);
            space.unmap(addr, len).map_err(|errno| LoadError::Map { addr, len, errno })?;
        }
        Ok(bias)
    }

    fn map_segment(&self, space: &dyn Space, segment: &Segment, bias: u64) -> Result<(), LoadError> {
        let start = page_down(segment.vaddr).wrapping_add(bias);
        let file_end = segment.file_end().wrapping_add(bias);
        let end = page_up(segment.end()).wrapping_add(bias);
        let mut zero_from = start;
        if segment.filesz > 0 {
            let len = page_up(file_end) - start;
            let fd = Some(self.file.as_raw_fd());
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
            space
                .map(start, len, segment.prot, flags, fd, page_down(segment.offset))
                .map_err(|errno| LoadError::Map { addr: start, len, errno })?;
            zero_from = page_up(file_end);
            if segment.memsz > segment.filesz && segment.prot & libc::PROT_WRITE != 0 {
                // Fails when the file was truncated after it was checked.
                zero_out(file_end, zero_from - file_end).map_err(|_| LoadError::Truncated)?;
            }
        }
        if end > zero_from {
            // Linux makes such memory writable whatever the header says.
            let prot = segment.prot | libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_ANONYMOUS;
            let len = end - zero_from;
            space.map(zero_from, len, prot, flags, None, 0).map_err(|errno| LoadError::Map {
                addr: zero_from,
                len,
                errno,
            })?;
        }
        Ok(())
    }
}

fn reserve(space: &dyn Space, addr: u64, len: u64, flags: i32) -> Result<u64, LoadError> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    space.map(addr, len, libc::PROT_NONE, flags, None, 0).map_err(|errno| LoadError::Map { addr, len, errno })
}

fn reserve_aligned(space: &dyn Space, hint: u64, len: u64, align: u64) -> Result<u64, LoadError> {
    if align <= PAGE {
        return reserve(space, hint, len, 0);
    }
    let slack = len + align - PAGE;
    let got = reserve(space, hint, slack, 0)?;
    let start = (got + align - 1) & !(align - 1);
    for (addr, len) in [(got, start - got), (start + len, got + slack - start - len)] {
        if len > 0 {
            space.unmap(addr, len).map_err(|errno| LoadError::Map { addr, len, errno })?;
        }
    }
    Ok(start)
}

/// Page ranges inside the span that no segment covers.
fn holes(segments: &[Segment]) -> Vec<(u64, u64)> {
    let mut covered: Vec<(u64, u64)> =
        segments.iter().map(|s| (page_down(s.vaddr), page_up(s.end()))).collect();
    covered.sort_unstable();
    let mut holes = Vec::new();
    let mut reached = covered.first().map_or(0, |first| first.0);
    for (start, end) in covered {
        if start > reached {
            holes.push((reached, start - reached));
        }
        reached = reached.max(end);
    }
    holes
}

fn randomises() -> bool {
    // SAFETY: 0xffffffff only asks.
    let persona = unsafe { libc::personality(0xffff_ffff) };
    persona != -1 && persona & libc::ADDR_NO_RANDOMIZE == 0
}

/// A random number of pages below `limit` (a power of two); 0 without randomisation.
fn random_pages(limit: u64) -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is 8 bytes long.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 8 && randomises() { u64::from_le_bytes(bytes) % limit } else { 0 }
}

fn pie_hint() -> u64 {
    PIE_BASE + random_pages(PIE_RANDOM_PAGES) * PAGE
}

fn open(path: &[u8], creds: &Creds) -> Result<File, LoadError> {
    let path = CString::new(path).map_err(|_| LoadError::Open(io::Error::from_raw_os_error(libc::ENOENT)))?;
    // O_NONBLOCK: opening a FIFO must fail the check below, not wait for a writer.
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
    // SAFETY: `path` is a C string.
    let fd = unsafe { libc::open(path.as_ptr(), flags) };
    if fd < 0 {
        return Err(LoadError::Open(io::Error::last_os_error()));
    }
    // SAFETY: `fd` was just opened and is ours.
    check_permission(unsafe { File::from_raw_fd(fd) }, creds)
}

/// May this file be executed, and without rights we do not have?
fn check_permission(file: File, creds: &Creds) -> Result<File, LoadError> {
    let meta = file.metadata().map_err(LoadError::Read)?;
    if !meta.is_file() {
        return Err(LoadError::NotRegular);
    }
    let fd = file.as_raw_fd();
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor.
    let denied = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            fd,
            c"".as_ptr(),
            libc::X_OK,
            libc::AT_EMPTY_PATH | libc::AT_EACCESS,
        )
    } != 0
        && io::Error::last_os_error().raw_os_error() == Some(libc::EACCES);
    if denied || meta.mode() & 0o111 == 0 || mounted(fd, libc::ST_NOEXEC) {
        return Err(LoadError::NotPermitted);
    }
    if grants_rights(&file, &meta, creds) {
        return Err(LoadError::Privileged);
    }
    Ok(file)
}

fn mounted(fd: i32, flag: libc::c_ulong) -> bool {
    // SAFETY: all-zero is a valid statvfs.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is a valid statvfs.
    (unsafe { libc::fstatvfs(fd, &raw mut stat) }) == 0 && stat.f_flag & flag != 0
}

fn grants_rights(file: &File, meta: &std::fs::Metadata, creds: &Creds) -> bool {
    let fd = file.as_raw_fd();
    let mode = meta.mode();
    let ids = (mode & libc::S_ISUID != 0 && meta.uid() != creds.euid)
        // Without group execute permission, set-group-ID means something else.
        || (mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP && meta.gid() != creds.egid);
    // SAFETY: a null value of size 0 asks for the size only.
    let has_caps =
        || unsafe { libc::fgetxattr(fd, c"security.capability".as_ptr(), std::ptr::null_mut(), 0) } > 0;
    (ids || (creds.euid != 0 && has_caps())) && !mounted(fd, libc::ST_NOSUID)
}

#[derive(Debug, PartialEq, Eq)]
struct ScriptLine {
    interpreter: Vec<u8>,
    argument: Option<Vec<u8>>,
}

fn script_line(file: &File) -> Result<Option<ScriptLine>, LoadError> {
    let mut head = [0_u8; SCRIPT_LINE];
    let mut len = 0;
    while len < head.len() {
        match file.read_at(&mut head[len..], len as u64) {
            Ok(0) => break,
            Ok(got) => len += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(LoadError::Read(error)),
        }
    }
    parse_script(&head[..len])
}

/// The first line as Linux reads it: an interpreter and at most one argument, which
/// is the whole rest of the line.
fn parse_script(head: &[u8]) -> Result<Option<ScriptLine>, LoadError> {
    let Some(line) = head.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let ends = line.iter().position(|&byte| byte == b'\n' || byte == 0);
    let complete = ends.is_some() || head.len() < SCRIPT_LINE;
    let line = &line[..ends.unwrap_or(line.len())];
    let line = line.trim_ascii_start_blank();
    let line = &line[..line.iter().rposition(|byte| !blank(byte)).map_or(0, |at| at + 1)];
    let word_end = line.iter().position(blank);
    if line.is_empty() || (word_end.is_none() && !complete) {
        return Err(LoadError::BadScript);
    }
    let (interpreter, rest) = line.split_at(word_end.unwrap_or(line.len()));
    let rest = rest.trim_ascii_start_blank();
    let argument = (!rest.is_empty()).then(|| rest.to_vec());
    Ok(Some(ScriptLine { interpreter: interpreter.to_vec(), argument }))
}

trait TrimBlank {
    fn trim_ascii_start_blank(&self) -> &Self;
}

impl TrimBlank for [u8] {
    fn trim_ascii_start_blank(&self) -> &[u8] {
        let start = self.iter().position(|&byte| byte != b' ' && byte != b'\t').unwrap_or(self.len());
        &self[start..]
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        parse_script(text).unwrap().map(|line| (line.interpreter, line.argument))
    }

    #[test]
    fn script_lines_are_read_as_linux_does() {
        assert_eq!(line(b"\x7fELF"), None);
        assert_eq!(line(b"#!/bin/sh\nrest"), Some((b"/bin/sh".to_vec(), None)));
        assert_eq!(line(b"#!  /bin/sh\t \nrest"), Some((b"/bin/sh".to_vec(), None)));
        assert_eq!(
            line(b"#! /usr/bin/env -S a b \n"),
            Some((b"/usr/bin/env".to_vec(), Some(b"-S a b".to_vec())))
        );
        assert_eq!(line(b"#!/bin/sh"), Some((b"/bin/sh".to_vec(), None)));
        assert!(matches!(parse_script(b"#!\n"), Err(LoadError::BadScript)));
        assert!(matches!(parse_script(b"#!   \n"), Err(LoadError::BadScript)));
    }

    #[test]
    fn a_script_line_that_does_not_fit_is_refused_unless_only_its_argument_is_cut() {
        let mut long = b"#!/".to_vec();
        long.resize(SCRIPT_LINE, b'x');
        assert!(matches!(parse_script(&long), Err(LoadError::BadScript)));
        long[20] = b' ';
        assert_eq!(line(&long).unwrap().1.unwrap().len(), SCRIPT_LINE - 21);
    }

    #[test]
    fn holes_are_what_no_segment_covers() {
        let segment = |vaddr, memsz| Segment { vaddr, memsz, offset: 0, filesz: 0, prot: 0 };
        assert_eq!(holes(&[segment(0, 0x1000), segment(0x1000, 1)]), vec![]);
        assert_eq!(
            holes(&[segment(0x10, 1), segment(0x5010, 1), segment(0x2000, 0x1000)]),
            vec![(0x1000, 0x1000), (0x3000, 0x2000)]
        );
    }
}

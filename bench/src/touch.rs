//! A program that touches pages at random and says how long each touch took: `touch` of this
//! command, which is run with less memory than it uses.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::ptr;
use std::time::Instant;

use machvm_hal::PAGE_SIZE;

use crate::swap::{Page, Random, page};

const PAGE: usize = PAGE_SIZE as usize;

/// Memory that is never given back.
struct Memory {
    at: *mut u64,
    pages: usize,
}

impl Memory {
    fn map(pages: usize, file: Option<&File>) -> io::Result<Memory> {
        let (flags, fd) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a new mapping, where nothing was.
        let at = unsafe {
            libc::mmap(ptr::null_mut(), pages * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0)
        };
        if at == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Memory { at: at.cast(), pages })
        }
    }
    /// Its first word.
    fn word(&self, page: usize) -> *mut u64 {
        assert!(page < self.pages);
        // SAFETY: within the mapping.
        unsafe { self.at.add(page * (PAGE / 8)) }
    }
    fn fill(&self, n: usize, from: &Page) {
        // SAFETY: a page of the mapping, that nothing refers to.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.word(n).cast(), PAGE) };
    }
    /// Nanoseconds until it was there. Every fourth time its second word is changed.
    fn touch(&self, n: usize, write: bool) -> u64 {
        let at = self.word(n);
        let begun = Instant::now();
        // SAFETY: words of the mapping, that nothing refers to.
        let name = unsafe {
            if write {
                at.add(1).write_volatile(begun.elapsed().as_nanos() as u64);
            }
            at.read_volatile()
        };
        let took = begun.elapsed().as_nanos() as u64;
        assert_eq!(name, n as u64, "another page's contents");
        took
    }
}

/// As a heap, a quarter noise; its number first.
fn contents(r: &mut Random, n: usize) -> Page {
    let mut p = page(r, n % 4 == 3);
    p[..8].copy_from_slice(&(n as u64).to_le_bytes());
    p
}

/// `touch PAGES TOUCHES [FILE]`: with a file its pages, each once, after the page cache forgot them.
pub(crate) fn child(args: &[String]) -> ExitCode {
    let number = |i: usize| args.get(i).and_then(|a| a.parse::<usize>().ok());
    let (Some(pages), Some(touches)) = (number(0), number(1)) else { return ExitCode::from(2) };
    let took = match args.get(2) {
        Some(file) => of_file(file.as_ref(), pages, touches),
        None => anonymous(pages, touches),
    };
    match took.and_then(|took| print(&took)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("machvm-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn anonymous(pages: usize, touches: usize) -> io::Result<Vec<u64>> {
    let mut r = Random::new();
    let memory = Memory::map(pages, None)?;
    // All there before the first measurement, so that it is no page-in itself.
    let mut took = vec![1; touches];
    (0..pages).for_each(|n| memory.fill(n, &contents(&mut r, n)));
    (0..pages / 2).for_each(|_| {
        memory.touch(r.below(pages), false);
    });
    for (i, took) in took.iter_mut().enumerate() {
        *took = memory.touch(r.below(pages), i % 4 == 0);
    }
    Ok(took)
}

fn of_file(path: &Path, pages: usize, touches: usize) -> io::Result<Vec<u64>> {
    let mut r = Random::new();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    for n in 0..pages {
        file.write_all_at(&contents(&mut r, n), (n * PAGE) as u64)?;
    }
    file.sync_all()?;
    // SAFETY: advice about an open file.
    let failed = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    let memory = Memory::map(pages, Some(&file))?;
    // SAFETY: advice about a mapping of ours.
    if unsafe { libc::madvise(memory.at.cast(), pages * PAGE, libc::MADV_RANDOM) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let order = r.order(pages);
    Ok(order.into_iter().take(touches).map(|n| memory.touch(n, false)).collect())
}

fn print(took: &[u64]) -> io::Result<()> {
    let text: Vec<String> = took.iter().map(u64::to_string).collect();
    io::stdout().write_all(text.join("\n").as_bytes())
}

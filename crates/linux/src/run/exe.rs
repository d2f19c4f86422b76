//! Making `/proc/self/exe` the program: shells start their applets by it, run-times
//! find their libraries by it, and children inherit it.
//!
//! The kernel lets a process name another file only when no mapping of the old one is
//! left. So `machvm` first moves its own code and data to anonymous memory, in place:
//! a copy is made elsewhere and moved over the original, which nothing can notice.

use std::os::unix::fs::MetadataExt;

use super::layout::may_name_exe;

/// Set to keep our own mappings, which profilers and debuggers need for symbols.
const KEEP_VARIABLE: &str = "MACHVM_KEEP_EXE";

/// One of our mappings of our own file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mapping {
    start: u64,
    len: usize,
    prot: i32,
}

/// Moves this executable's code and data to anonymous memory. Where that is not
/// possible, [`MmLayout::apply`] says so and `/proc/self/exe` stays `machvm`.
///
/// [`MmLayout::apply`]: super::layout::MmLayout::apply
///
/// # Safety
/// This is the only thread of the process.
pub unsafe fn leave_own_file() {
    if std::env::var_os(KEEP_VARIABLE).is_some() || !may_name_exe() {
        return;
    }
    for mapping in own_mappings().unwrap_or_default() {
        // SAFETY: by contract; the mappings are this executable's, as the kernel lists them.
        if !unsafe { replace(mapping) } {
            return;
        }
    }
}

fn own_mappings() -> Option<Vec<Mapping>> {
    let own = std::fs::metadata("/proc/self/exe").ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let device = (libc::major(own.dev()), libc::minor(own.dev()));
    parse(&maps, device, own.ino())
}

/// The mappings of one file in the text of `/proc/PID/maps`; `None` when the text is
/// not understood.
fn parse(maps: &str, device: (u32, u32), inode: u64) -> Option<Vec<Mapping>> {
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (range, flags, _offset) = (fields.next()?, fields.next()?, fields.next()?);
        let (major, minor) = fields.next()?.split_once(':')?;
        let listed = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
        if listed != device || fields.next()?.parse::<u64>().ok()? != inode {
            continue;
        }
        let (start, end) = range.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let has = |flag: char, prot: i32| if flags.contains(flag) { prot } else { 0 };
        let prot = has('r', libc::PROT_READ) | has('w', libc::PROT_WRITE) | has('x', libc::PROT_EXEC);
        found.push(Mapping { start, len: (end - start) as usize, prot });
    }
    Some(found)
}

/// Copies a mapping to anonymous memory and moves the copy over it.
///
/// # Safety
/// 1. `mapping` is a whole private mapping of this process.
/// 2. Nobody writes to it meanwhile: this is the only thread, and between the copy and
///    the move this function writes to its own stack only.
unsafe fn replace(mapping: Mapping) -> bool {
    let Mapping { start, len, prot } = mapping;
    let old = start as *mut libc::c_void;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of our own; the copy reads a readable mapping; the move
    // replaces bytes by the same bytes with the same rights.
    unsafe {
        let new = libc::mmap(std::ptr::null_mut(), len, rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if new == libc::MAP_FAILED {
            return false;
        }
        if prot & libc::PROT_READ != 0 {
            std::ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast::<u8>(), len);
        }
        let moved = libc::mprotect(new, len, prot) == 0
            && libc::mremap(new, len, len, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, old) == old;
        if !moved {
            libc::munmap(new, len);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_files_own_mappings_are_found() {
        let maps = "\
1000-3000 r-xp 00001000 fe:01 77                         /usr/bin/x
3000-4000 rw-p 00000000 00:00 0 \n\
5000-6000 r--p 00003000 fe:01 78                         /usr/bin/y
6000-7000 rw-p 00003000 fe:01 77                         /usr/bin/x (deleted)
7000-8000 r--p 00003000 fe:02 77                         /usr/lib/x
";
        let (rw, rx) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
        let expected = [
            Mapping { start: 0x1000, len: 0x2000, prot: rx },
            Mapping { start: 0x6000, len: 0x1000, prot: rw },
        ];
        assert_eq!(parse(maps, (0xfe, 1), 77).unwrap(), expected);
        assert_eq!(parse("garbage", (0, 0), 1), None);
    }
}

//! Two descriptor tables in one process: the program's, which no descriptor of the
//! VM may be in, and the VM's, which holds none of the program's. And copying
//! between the VM's memory and the program's.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::space::Errno;
use super::vmthread::program_threads;

/// Opens a pidfd that names one thread, and so its descriptor table.
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

/// Every descriptor that is open in this thread's table.
#[must_use]
pub fn open_descriptors() -> Vec<i32> {
    let listed = std::fs::read_dir("/proc/thread-self/fd").map(|entries| {
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok()).collect::<Vec<_>>()
    });
    // The descriptor that listed the directory is closed by now.
    let candidates = listed.unwrap_or_else(|_| (0..4096).collect());
    // SAFETY: F_GETFD only asks.
    candidates.into_iter().filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0).collect()
}

/// Closes every descriptor of this thread's table for which `doomed` holds.
pub fn close_if(doomed: impl Fn(i32) -> bool) {
    for fd in open_descriptors() {
        if doomed(fd) {
            // SAFETY: the caller gives up these descriptors; nothing in this table
            // refers to them any more.
            unsafe { libc::close(fd) };
        }
    }
}

/// The descriptor `fd` of the thread `tid` of the program, as one of the VM's own.
///
/// # Errors
/// EBADF when the program has no such descriptor.
pub fn program_fd(tid: i32, fd: i32) -> io::Result<OwnedFd> {
    let pidfd = open_thread(tid)?;
    // SAFETY: no memory is passed.
    let got = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(got as i32) })
}

/// Fills the standard numbers of the VM's table, so that nothing which writes to
/// "standard error" can hit a descriptor that matters.
pub fn plug_standard_descriptors() {
    // SAFETY: the path is a C string; the numbers belong to nobody in this table.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for fd in 0..3 {
            // Fails, rightly, where `null` itself got the number.
            libc::dup3(null, fd, libc::O_CLOEXEC);
        }
        if null > 2 {
            libc::close(null);
        }
    }
}

/// Says something on the program's standard error, if it has one: the VM's own table
/// has none.
pub fn tell_user(text: &str) {
    let stderr = program_threads().into_iter().find_map(|tid| program_fd(tid, 2).ok());
    if let Some(stderr) = stderr {
        use std::io::Write;
        let _ = std::fs::File::from(stderr).write_all(format!("machvm: {text}\n").as_bytes());
    }
}

/// Ends the process from a thread of the VM, when the program cannot be served any
/// more: without an answer its threads would wait for ever.
pub fn give_up(text: &str) -> ! {
    tell_user(text);
    // SAFETY: the call has no preconditions.
    unsafe { libc::_exit(125) }
}

fn open_thread(tid: i32) -> io::Result<OwnedFd> {
    // Kernels before 6.9 name processes only; all threads of the program share one
    // table unless it asks otherwise.
    let tries = [(tid, PIDFD_THREAD), (std::process::id() as i32, 0)];
    for (pid, flags) in tries {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
        if fd >= 0 {
            // SAFETY: the descriptor is new and ours.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
    }
    Err(io::Error::last_os_error())
}

fn memfd() -> Result<OwnedFd, Errno> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"machvm-copy".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn last_errno() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Writes `bytes` into the program's memory at `addr`.
///
/// The kernel does the stores, on behalf of a `read`: an address that is not mapped
/// is an error and not a signal, a page that is absent is waited for, and nothing is
/// pinned.
///
/// => no lock of the VM is held; not on a thread that serves faults.
///
/// # Errors
/// EFAULT, after a prefix may have been written.
pub fn copy_out(addr: u64, bytes: &[u8]) -> Result<(), Errno> {
    let source = memfd()?;
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        // SAFETY: the buffer is `rest`.
        let wrote =
            unsafe { libc::pwrite(source.as_raw_fd(), rest.as_ptr().cast(), rest.len(), done as i64) };
        if wrote <= 0 {
            return Err(last_errno());
        }
        done += wrote as usize;
    }
    read_into(&source, addr, bytes.len() as u64)
}

/// Zeroes program memory, as [`copy_out`].
///
/// => as [`copy_out`]
///
/// # Errors
/// EFAULT, after a prefix may have been zeroed.
pub fn zero_out(addr: u64, len: u64) -> Result<(), Errno> {
    if len == 0 {
        return Ok(());
    }
    let source = memfd()?;
    // SAFETY: no memory is passed.
    if unsafe { libc::ftruncate(source.as_raw_fd(), len as i64) } != 0 {
        return Err(last_errno());
    }
    read_into(&source, addr, len)
}

fn read_into(source: &OwnedFd, addr: u64, len: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < len {
        // SAFETY: the target is memory of the program, which no Rust reference in this
        // process covers; the kernel checks that it is mapped.
        let got = unsafe {
            libc::pread(
                source.as_raw_fd(),
                (addr + done) as *mut libc::c_void,
                (len - done) as usize,
                done as i64,
            )
        };
        match got {
            0 => return Err(Errno(libc::EFAULT)),
            got if got > 0 => done += got as u64,
            _ if last_errno().0 == libc::EINTR => {}
            _ => return Err(last_errno()),
        }
    }
    Ok(())
}

/// Reads program memory at `addr` until `buf` is full or something unreadable
/// begins; returns how much was read.
///
/// => as [`copy_out`]
pub fn copy_in(addr: u64, buf: &mut [u8]) -> usize {
    let mut done = 0;
    while done < buf.len() {
        // Page by page: a transfer that meets an unreadable page keeps what came before.
        let at = addr.wrapping_add(done as u64);
        let len = (buf.len() - done).min(4096 - (at % 4096) as usize);
        let local = libc::iovec { iov_base: buf[done..].as_mut_ptr().cast(), iov_len: len };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: len };
        // Our own thread's id, not the process's: the latter stops working when the
        // program's main thread has ended.
        // SAFETY: `local` is within `buf`; the kernel checks `remote`.
        let got =
            unsafe { libc::process_vm_readv(libc::gettid(), &raw const local, 1, &raw const remote, 1, 0) };
        if got <= 0 {
            break;
        }
        done += got as usize;
    }
    done
}

/// The C string at `addr`, without its NUL; `None` when it is unreadable or longer
/// than `limit`.
///
/// => as [`copy_out`]
#[must_use]
pub fn copy_in_string(addr: u64, limit: usize) -> Option<Vec<u8>> {
    let mut string = Vec::new();
    let mut chunk = [0; 256];
    while string.len() <= limit {
        let got = copy_in(addr.wrapping_add(string.len() as u64), &mut chunk);
        match chunk[..got].iter().position(|&byte| byte == 0) {
            Some(end) => {
                string.extend_from_slice(&chunk[..end]);
                return (string.len() <= limit).then_some(string);
            }
            None if got < chunk.len() => return None,
            None => string.extend_from_slice(&chunk),
        }
    }
    None
}

/// What came of looking for a program.
#[derive(Debug)]
pub enum Found {
    /// Its path.
    At(Vec<u8>),
    /// No directory of `PATH` has it.
    Nowhere,
}

/// Finds `program` as a shell does: a name with a slash is a path, others are looked
/// up in `PATH`. A file that is there and not executable is taken when nothing better
/// is: the error is then about permissions.
#[must_use]
pub fn find_program(program: &OsStr) -> Found {
    let name = program.as_bytes();
    if name.contains(&b'/') {
        return Found::At(name.to_vec());
    }
    if name.is_empty() {
        return Found::Nowhere;
    }
    let path =
        std::env::var_os("PATH").map_or_else(|| b"/bin:/usr/bin".to_vec(), |path| path.as_bytes().to_vec());
    let mut second_best = Found::Nowhere;
    for dir in path.split(|&byte| byte == b':') {
        let candidate = if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() };
        let Ok(c_path) = CString::new(candidate.as_slice()) else {
            continue;
        };
        let is_file = std::fs::metadata(OsStr::from_bytes(&candidate)).is_ok_and(|meta| meta.is_file());
        // SAFETY: the path is a C string.
        let executable =
            unsafe { libc::faccessat(libc::AT_FDCWD, c_path.as_ptr(), libc::X_OK, libc::AT_EACCESS) } == 0;
        if is_file && executable {
            return Found::At(candidate);
        }
        if is_file && matches!(second_best, Found::Nowhere) {
            second_best = Found::At(candidate);
        }
    }
    second_best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_memory_is_written_zeroed_and_read_by_the_kernel() {
        let mut target = vec![1_u8; 10_000];
        let addr = target.as_mut_ptr() as u64;
        let text: Vec<u8> = (0..9000_u32).map(|i| i as u8).collect();
        copy_out(addr, &text).unwrap();
        assert_eq!(target[..9000], text);
        assert_eq!(target[9000], 1);
        zero_out(addr + 5, 3000).unwrap();
        assert!(target[5..3005].iter().all(|&byte| byte == 0));
        assert_eq!(target[3005], text[3005]);
        let mut back = vec![0; 9000];
        assert_eq!(copy_in(addr, &mut back), 9000);
        assert_eq!(back, target[..9000]);
    }

    #[test]
    fn unmapped_program_memory_is_an_error_and_no_signal() {
        assert_eq!(copy_out(4096, b"x"), Err(Errno(libc::EFAULT)));
        assert_eq!(zero_out(4096, 4096), Err(Errno(libc::EFAULT)));
        assert_eq!(copy_in(4096, &mut [0; 10]), 0);
        assert_eq!(copy_in_string(4096, 100), None);
    }

    #[test]
    fn strings_are_read_up_to_their_end_and_limit() {
        let text = [vec![b'a'; 1000], vec![0], vec![b'b'; 400]].concat();
        let addr = text.as_ptr() as u64;
        assert_eq!(copy_in_string(addr, 4096).unwrap().len(), 1000);
        assert_eq!(copy_in_string(addr, 1000).unwrap().len(), 1000);
        assert_eq!(copy_in_string(addr, 999), None);
    }

    #[test]
    fn another_threads_descriptor_is_fetched_into_ours() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        // SAFETY: gettid has no preconditions.
        let tid = unsafe { libc::gettid() };
        let got = program_fd(tid, file.as_raw_fd()).unwrap();
        assert_ne!(got.as_raw_fd(), file.as_raw_fd());
        assert_eq!(program_fd(tid, 9999).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}

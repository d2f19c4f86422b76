//! What only a thread that serves faults can do.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread;

use crate::{PAGE, load, store};
use machvm_linux::library::Fork;
use machvm_linux::{Config, Faults, Prot, Swap, Vm};

fn vm(config: Config) -> Vm {
    Vm::new(Config { window: 1 << 30, faults: Faults::Thread, ..config })
        .expect("a VM; the tests run as root")
}

fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, which are ours then.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1]))
    }
}

fn read(file: &File, at: *mut u8, len: usize) -> io::Result<usize> {
    // SAFETY: a part of a task's window; what is denied there is what is tested.
    let n = unsafe { libc::read(file.as_raw_fd(), at.cast(), len) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn write(file: &File, at: *const u8, len: usize) -> io::Result<usize> {
    // SAFETY: as above.
    let n = unsafe { libc::write(file.as_raw_fd(), at.cast(), len) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn is_efault(r: &io::Result<usize>) -> bool {
    r.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EFAULT))
}

#[test]
fn system_calls_wait_for_absent_pages() {
    let vm = vm(Config { memory: Some(4 << 20), ..Config::default() });
    assert_eq!(vm.faults(), Faults::Thread);
    let task = vm.task().expect("a task");
    let a = task.allocate(64 << 20).expect("addresses");
    let mut file = tempfile();
    let all: Vec<u8> = (0..8 << 20).map(|i: u32| (i / 7 + i / 4096) as u8).collect();
    file.write_all(&all).expect("written");
    io::Seek::rewind(&mut file).expect("at its start");
    // Twice what there is, in one call; and back, mostly from the pool.
    assert_eq!(read(&file, task.as_ptr(a + 100), all.len()).expect("read"), all.len());
    let mut out = tempfile();
    assert_eq!(write(&out, task.as_ptr(a + 100), all.len()).expect("written"), all.len());
    io::Seek::rewind(&mut out).expect("at its start");
    let mut back = Vec::new();
    out.read_to_end(&mut back).expect("read");
    assert!(back == all);
    assert!(vm.statistics().expect("statistics").core.swapouts > 1000);
}

fn tempfile() -> File {
    // SAFETY: a good name; the descriptor is ours.
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: as above.
    unsafe { File::from_raw_fd(fd) }
}

#[test]
fn system_calls_on_denied_memory_fail_with_efault_and_change_nothing() {
    let vm = vm(Config::default());
    let task = vm.task().expect("a task");
    let a = task.allocate(3 * PAGE).expect("memory");
    task.write(a, &[7; 3 * PAGE]).expect("written");
    task.protect(a + PAGE, PAGE, Prot::R).expect("protected");
    let (r, mut w) = pipe();
    w.write_all(b"data").expect("room");
    assert!(is_efault(&read(&r, task.as_ptr(a + PAGE), 4)));
    assert!(is_efault(&read(&r, task.as_ptr(a + 3 * PAGE), 4)), "not mapped");
    assert_eq!(load(&task, a + PAGE), 0x0707_0707_0707_0707);
    assert_eq!(read(&r, task.as_ptr(a), 4).expect("still there"), 4);
    let mut four = [0; 4];
    task.read(a, &mut four).expect("read");
    assert_eq!(&four, b"data");
    task.protect(a, PAGE, Prot::NONE).expect("protected");
    assert!(is_efault(&write(&w, task.as_ptr(a), 4)));
    assert_eq!(write(&w, task.as_ptr(a + PAGE), 4).expect("readable"), 4);
}

/// What only the map denies: there the page is poisoned, and not for longer than needed.
#[test]
fn a_page_without_memory_is_denied_and_can_be_had_later() {
    let vm = vm(Config { memory: Some(1 << 20), swap: Swap::None, ..Config::default() });
    let task = vm.task().expect("a task");
    let a = task.allocate(4 << 20).expect("addresses");
    let (r, mut w) = pipe();
    w.write_all(&[9; 100]).expect("room");
    task.write(a, &vec![1; (1 << 20) - 16 * PAGE]).expect("room");
    let filled = (0..1024).find(|i| task.write(a + i * PAGE, &[1]).is_err()).expect("an end");
    assert_eq!(filled, 256);
    // In a system call, and the data stays where it was.
    let last = a + 300 * PAGE;
    assert!(is_efault(&read(&r, task.as_ptr(last), 100)));
    // A page that is there, but write-protected: the child's copy is yet to be made.
    let child = task.fork().expect("a child");
    assert!(is_efault(&read(&r, task.as_ptr(a), 100)));
    assert!(task.write(a, &[2]).is_err());
    assert_eq!(load(&task, a), 0x0101_0101_0101_0101, "and still readable");
    drop(child);
    task.deallocate(a, 64 * PAGE).expect("freed");
    thread::sleep(std::time::Duration::from_millis(50)); // the longest that poison stays
    assert_eq!(read(&r, task.as_ptr(last), 100).expect("memory"), 100);
    assert_eq!(load(&task, last), 0x0909_0909_0909_0909);
    store(&task, last, 1);
}

#[test]
fn faults_are_served_while_every_signal_is_blocked() {
    let vm = vm(Config { memory: Some(1 << 20), ..Config::default() });
    let task = vm.task().expect("a task");
    let a = task.allocate(4 << 20).expect("addresses");
    thread::scope(|s| {
        s.spawn(|| {
            // SAFETY: good sets; the thread ends with it.
            unsafe {
                let mut all = core::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, core::ptr::null_mut());
            }
            (0..1024).for_each(|i| store(&task, a + i * PAGE, i as u64));
            assert!((0..1024).all(|i| load(&task, a + i * PAGE) == i as u64));
        });
    });
}

#[test]
fn systems_with_threads_come_and_go() {
    let count = || std::fs::read_dir("/proc/self/task").expect("threads").count();
    for _ in 0..50 {
        let vm = vm(Config { memory: Some(1 << 20), ..Config::default() });
        let task = vm.task().expect("a task");
        let a = task.allocate(PAGE).expect("memory");
        store(&task, a, 1);
    }
    assert!(count() < 50, "{} threads", count());
    let auto = Vm::new(Config { window: 1 << 30, faults: Faults::Auto, ..Config::default() }).expect("a VM");
    assert_eq!(auto.faults(), Faults::Thread, "root may");
}

/// Threads fault all the while; each child has a thread of its own to serve its faults.
#[test]
fn forks_and_faults_do_not_wait_for_each_other() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let vm = vm(Config { memory: Some(2 << 20), fork: Fork::Follow, ..Config::default() });
    let task = vm.task().expect("a task");
    let a = task.allocate(8 << 20).expect("addresses");
    (0..2048).for_each(|i| store(&task, a + i * PAGE, i as u64));
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        for n in 0..2 {
            let (task, stop) = (&task, &stop);
            s.spawn(move || {
                let mut i = n;
                while !stop.load(Relaxed) {
                    assert_eq!(load(task, a + i % 2048 * PAGE), (i % 2048) as u64);
                    i += 97;
                }
            });
        }
        for _ in 0..10 {
            // SAFETY: the child makes loads, stores and system calls only.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let fine = (0..2048).all(|i| {
                    let was = load(&task, a + i * PAGE);
                    store(&task, a + i * PAGE, 7);
                    was == i as u64
                });
                // SAFETY: ends the child.
                unsafe { libc::_exit(if fine { 50 } else { 51 }) };
            }
            let mut status = 0;
            // SAFETY: our child.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 50), "{status:x}");
        }
        stop.store(true, Relaxed);
    });
    assert!((0..2048).all(|i| load(&task, a + i * PAGE) == i as u64));
}

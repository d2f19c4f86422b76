//! Memory whose data pagers in C and Python have.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::{PAGE, load, small_vm, store, vm};
use machvm_linux::{Error, ExternalPager, PagerOptions, Prot, Vm};

/// Nothing takes as long unless it hangs.
const LONG: Duration = Duration::from_secs(60);

/// A pager's process, killed when dropped.
struct Process {
    child: Child,
    socket: PathBuf,
}

fn unique(what: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Relaxed);
    std::env::temp_dir().join(format!("machvm-library-{what}-{}-{n}", std::process::id()))
}

fn pagers(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pagers").join(path)
}

impl Process {
    fn start(command: &mut Command) -> Process {
        let socket = unique("socket");
        let child = command.arg(&socket).spawn().expect("the pager starts");
        let end = Instant::now() + LONG;
        // Of the wrong kind for a packet socket: refused with EPROTOTYPE once somebody listens.
        let listens = || {
            let wrong = UnixDatagram::unbound().and_then(|d| d.connect(&socket)).expect_err("another kind");
            wrong.raw_os_error() == Some(91)
        };
        while !listens() {
            assert!(Instant::now() < end, "the pager does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Process { child, socket }
    }
    fn in_c() -> Process {
        let program = unique("program");
        let done = Command::new("cc")
            .args(["-O1", "-pthread", "-I"])
            .arg(pagers("include"))
            .arg("-o")
            .arg(&program)
            .arg(pagers("examples/pager.c"))
            .status();
        assert!(done.expect("cc").success());
        let p = Process::start(&mut Command::new(&program));
        let _ = std::fs::remove_file(program);
        p
    }
    fn in_python() -> Process {
        Process::start(Command::new("python3").arg(pagers("examples/pager.py")))
    }
    /// All its threads have stopped.
    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        threads.flatten().all(|t| {
            let stat = std::fs::read_to_string(t.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }
    fn connect(&self, vm: &Vm, timeout: Duration) -> ExternalPager {
        let options = PagerOptions { timeout, reconnect: false, ..PagerOptions::default() };
        vm.pager(&self.socket, options).expect("connects")
    }
}
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Memory of a pager is written, paged, returned, and is there for the next kernel.
fn written_and_read_again(p: &Process) {
    const PAGES: usize = 1000;
    let word = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    {
        let vm = small_vm(1 << 20);
        let pager = p.connect(&vm, LONG);
        let data = pager.open(b"data").expect("opens");
        let task = vm.task().expect("a task");
        let at = task.map_object(&data, 16 * PAGE as u64, PAGES * PAGE, Prot::RW, false).expect("maps");
        for i in 0..PAGES {
            assert_eq!(load(&task, at + i * PAGE), 0);
            store(&task, at + i * PAGE + 8 * (i % 512), word(i));
        }
        for i in 0..PAGES {
            assert_eq!(load(&task, at + i * PAGE + 8 * (i % 512)), word(i), "page {i}");
        }
        let traffic = data.object().traffic();
        assert!(traffic.pages_out > 700 && traffic.errors == 0, "{traffic:?}");
        task.sync(at, PAGES * PAGE).expect("they are returned");
        assert!(vm.statistics().expect("statistics").core.frames_peak <= 256);
        let s = pager.client().stats();
        assert_eq!(s.misfits + s.stray + s.garbage + s.timeouts, 0, "{s:?}");
    }
    let vm = vm();
    let pager = p.connect(&vm, LONG);
    let data = pager.open(b"data").expect("opens");
    let (one, two) = (vm.task().expect("a task"), vm.task().expect("a task"));
    let at = one.map_object(&data, 16 * PAGE as u64, PAGES * PAGE, Prot::RW, false).expect("maps");
    for i in 0..PAGES {
        assert_eq!(load(&one, at + i * PAGE + 8 * (i % 512)), word(i), "page {i}");
    }
    // Who maps it sees what others store; a copy keeps what it was.
    let same = two.map_object(&data, 0, 32 * PAGE, Prot::R, false).expect("maps");
    let copy = two.map_object(&data, 16 * PAGE as u64, PAGE, Prot::RW, true).expect("maps");
    assert_eq!(load(&two, copy), word(0));
    store(&one, at, 77);
    assert_eq!((load(&two, same + 16 * PAGE), load(&two, copy)), (77, word(0)));
    store(&two, copy, 88);
    assert_eq!(load(&one, at), 77);
}

#[test]
fn e05_e11_memory_of_a_pager_in_c() {
    written_and_read_again(&Process::in_c());
}

#[test]
fn e05_e11_memory_of_a_pager_in_python() {
    written_and_read_again(&Process::in_python());
}

#[test]
fn e02_mappings_have_the_rights_that_the_pager_gives() {
    let p = Process::in_python();
    let vm = vm();
    let pager = p.connect(&vm, LONG);
    let numbers = pager.open(b"numbers").expect("opens");
    let task = vm.task().expect("a task");
    let map = |offset, size, prot, copy| task.map_object(&numbers, offset, size, prot, copy);
    for (offset, size, prot) in [
        (0, PAGE, Prot::RW),
        (1, PAGE, Prot::R),
        (0, 0, Prot::R),
        (numbers.size(), PAGE, Prot::R),
        (u64::MAX - 4095, 2 * PAGE, Prot::R),
    ] {
        let refused = map(offset, size, prot, false).expect_err("refused");
        assert!(matches!(refused, Error::InvalidArgument(_)), "{refused:?}");
    }
    assert_eq!(task.regions().expect("regions").len(), 0);
    let at = map(100 * PAGE as u64, 50 * PAGE, Prot::R, false).expect("maps");
    for i in 0..50 {
        assert_eq!(load(&task, at + i * PAGE), 100 + i as u64);
    }
    assert!(matches!(task.write(at, &[1]), Err(Error::Protection(a)) if a == at));
    assert!(matches!(task.protect(at, PAGE, Prot::RW), Err(Error::Protection(_))));
    let copy = map(7 * PAGE as u64, PAGE, Prot::RW, true).expect("maps");
    store(&task, copy + 8, 5);
    assert_eq!((load(&task, copy), load(&task, copy + 8)), (7, 5));
    let other = crate::vm();
    let foreign = other.task().expect("a task").map_object(&numbers, 0, PAGE, Prot::R, false);
    assert!(matches!(foreign, Err(Error::InvalidArgument(_))));
    assert!(matches!(pager.open(b""), Err(Error::Pager(_))));
    assert!(matches!(vm.pager(Path::new("/nonexistent/socket"), PagerOptions::default()), Err(Error::Io(_))));
}

/// Kill -9 while four threads use its memory: right contents, then errors, at once; anonymous
/// memory is as it was, and the system ends.
#[test]
fn z116_a_pager_that_is_killed_costs_its_own_objects_an_error() {
    const PAGES: usize = 4096;
    let mut p = Process::in_c();
    let vm = small_vm(1 << 20);
    let pager = p.connect(&vm, LONG);
    let numbers = pager.open(b"numbers").expect("opens");
    let task = vm.task().expect("a task");
    let at = task.map_object(&numbers, 0, PAGES * PAGE, Prot::R, false).expect("maps");
    let mine = task.allocate(512 * PAGE).expect("allocates");
    (0..512).for_each(|i| store(&task, mine + i * PAGE, i as u64 ^ 0x5555));
    let (read, begun) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|s| {
        for t in 0..4_usize {
            let (task, read, begun) = (&task, &read, &begun);
            s.spawn(move || {
                let mut i = t * 1000;
                begun.fetch_add(1, Relaxed);
                loop {
                    i = (i + 37) % PAGES;
                    let mut word = [0; 8];
                    match task.read(at + i * PAGE, &mut word) {
                        Ok(()) => assert_eq!(u64::from_ne_bytes(word), i as u64),
                        Err(Error::Memory(a)) => {
                            assert_eq!(a, at + i * PAGE);
                            break;
                        }
                        Err(e) => panic!("{e}"),
                    }
                    read.fetch_add(1, Relaxed);
                }
            });
        }
        let end = Instant::now() + LONG;
        while begun.load(Relaxed) < 4 || read.load(Relaxed) < 500 {
            assert!(Instant::now() < end, "{read:?} reads");
            std::thread::sleep(Duration::from_millis(1));
        }
        p.child.kill().expect("kill");
    });
    (0..512).for_each(|i| assert_eq!(load(&task, mine + i * PAGE), i as u64 ^ 0x5555));
    let anew = task.allocate(64 * PAGE).expect("allocates");
    (0..64).for_each(|i| store(&task, anew + i * PAGE, i as u64));
    assert!(numbers.object().traffic().errors > 0);
    assert_eq!(pager.client().stats().pending, 0);
    task.deallocate(at, PAGES * PAGE).expect("unmaps");
}

/// A pager that is stopped: a deadline for the first, and little for the others.
#[test]
fn z116_z122_a_pager_that_stalls_costs_a_deadline() {
    let p = Process::in_c();
    let vm = vm();
    let pager = p.connect(&vm, Duration::from_millis(500));
    let data = pager.open(b"data").expect("opens");
    let task = vm.task().expect("a task");
    let at = task.map_object(&data, 0, 64 * PAGE, Prot::RW, false).expect("maps");
    store(&task, at, 11);
    let signal = |name: &str| {
        let done = Command::new("kill").arg(name).arg(p.child.id().to_string()).status();
        assert!(done.expect("kill").success());
    };
    signal("-STOP");
    while !p.is_stopped() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut word = [0; 8];
    for i in 32..40 {
        assert!(matches!(task.read(at + i * PAGE, &mut word), Err(Error::Memory(_))), "page {i}");
    }
    // What cannot be returned stays.
    assert!(matches!(task.sync(at, 64 * PAGE), Err(Error::Memory(_))));
    assert_eq!(load(&task, at), 11);
    signal("-CONT");
    // It answers again, the late answers first.
    let end = Instant::now() + LONG;
    while task.read(at + 32 * PAGE, &mut word).is_err() || task.sync(at, PAGE).is_err() {
        assert!(Instant::now() < end, "it does not come again");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((u64::from_ne_bytes(word), load(&task, at)), (0, 11));
    let s = pager.client().stats();
    assert!(s.timeouts >= 9 && s.stray + s.misfits + s.garbage == 0, "{s:?}");
}

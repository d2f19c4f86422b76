//! Files that tasks map (G02, G04, G13): mmap(2), msync(2), ftruncate(2).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::{PAGE, Rng, load, small_vm, store, vm};
use machvm_linux::{Error, MappedFile, Prot, SyncHow, Task, Vm};

/// A file that is removed again.
struct Temp(PathBuf);

impl Temp {
    fn new(content: &[u8]) -> Temp {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("machvm-mapped-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).expect("a temporary directory that can be written");
        Temp(path)
    }
    fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.0).expect("open")
    }
    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.0).expect("read")
    }
}
impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8 | 1).collect()
}
fn map(task: &Task, file: &MappedFile, pages: usize) -> usize {
    task.map_file(file, 0, pages * PAGE, Prot::RW, false).expect("maps")
}
fn bytes(task: &Task, at: usize, len: usize) -> Vec<u8> {
    let mut b = vec![0; len];
    task.read(at, &mut b).expect("readable");
    b
}
/// SIGBUS, caught.
fn is_beyond(task: &Task, at: usize) -> bool {
    matches!(task.read(at, &mut [0]), Err(Error::Memory(a)) if a == at)
        && matches!(task.write(at, &[1]), Err(Error::Memory(a)) if a == at)
}

/// A file four times as large as memory: stores of two tasks are one memory, and the file has
/// them afterwards.
#[test]
fn g13_two_tasks_store_into_one_file() {
    const PAGES: usize = 1000;
    let file = Temp::new(&content(PAGES * PAGE - 100));
    let vm = small_vm(1 << 20);
    let mapped = vm.file(file.open()).expect("a file");
    let (one, two) = (vm.task().expect("a task"), vm.task().expect("a task"));
    let (a, b) = (map(&one, &mapped, PAGES), map(&two, &mapped, PAGES));
    let mut want = content(PAGES * PAGE - 100);
    for i in 0..PAGES {
        let (at, word) = (i * PAGE + 8 * (i % 400), i as u64 + 1);
        let (t, base) = if i % 2 == 0 { (&one, a) } else { (&two, b) };
        store(t, base + at, word);
        want[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        assert_eq!((load(&one, a + at), load(&two, b + at)), (word, word), "page {i}");
    }
    one.sync_file(&mapped, a, PAGES * PAGE, SyncHow::empty()).expect("written");
    assert!(file.bytes() == want);
    for i in 0..PAGES {
        let at = i * PAGE;
        let end = want.len().min(at + PAGE);
        assert!(bytes(&two, b + at, end - at) == want[at..end], "page {i}");
    }
    let t = mapped.traffic();
    assert!(t.pages_out >= PAGES as u64 && t.errors == 0, "{t:?}");
    assert!(t.runs < t.pages_out, "neighbours are written together: {t:?}");
    assert!(vm.statistics().expect("statistics").core.frames_peak <= 256);
}

/// The same file under two names, opened twice: one memory, which lives as long as anybody
/// maps it.
#[test]
fn g02_g04_a_file_has_one_object() {
    let file = Temp::new(&content(4 * PAGE));
    let link = file.0.with_extension("link");
    std::fs::hard_link(&file.0, &link).expect("link");
    let vm = vm();
    let task = vm.task().expect("a task");
    let reader = vm.file(File::open(&link).expect("open")).expect("a file");
    std::fs::remove_file(link).expect("remove");
    let a = task.map_file(&reader, 0, 4 * PAGE, Prot::R, false).expect("maps");
    let before = load(&task, a);
    let writer = vm.file(file.open()).expect("a file");
    let b = map(&task, &writer, 4);
    store(&task, b, before + 1);
    assert_eq!(load(&task, a), before + 1);
    // Only the mapping is left, and still it is the same.
    drop((reader, writer));
    let again = vm.file(file.open()).expect("a file");
    let c = map(&task, &again, 4);
    store(&task, c, 77);
    assert_eq!((load(&task, a), load(&task, b)), (77, 77));
    for at in [a, b, c] {
        task.deallocate(at, 4 * PAGE).expect("unmaps");
    }
    drop(again);
    // What was modified is in the file when the last user has gone.
    assert_eq!(file.bytes()[..8], 77u64.to_ne_bytes());
    let other = vm.file(file.open()).expect("a file");
    let d = map(&task, &other, 4);
    assert_eq!(load(&task, d), 77);
}

/// ftruncate(2), mmap(2): behind the end is SIGBUS, in every mapping; the tail is zero; what was
/// cut off does not come back.
#[test]
fn g13_truncation_under_a_mapping() {
    let data = content(20 * PAGE);
    let file = Temp::new(&data);
    let vm = vm();
    let mapped = vm.file(file.open()).expect("a file");
    let (one, two) = (vm.task().expect("a task"), vm.task().expect("a task"));
    let (a, b) = (map(&one, &mapped, 24), map(&two, &mapped, 24));
    assert!(is_beyond(&one, a + 20 * PAGE));
    for i in 0..20 {
        store(&one, a + i * PAGE + 512, i as u64);
        assert_eq!(load(&two, b + i * PAGE + 512), i as u64);
    }
    mapped.set_size(5 * PAGE as u64 + 516).expect("cut");
    assert_eq!(mapped.size().expect("size"), 5 * PAGE as u64 + 516);
    for (t, at) in [(&one, a), (&two, b)] {
        for i in 6..24 {
            assert!(is_beyond(t, at + i * PAGE), "page {i}");
        }
        let last = bytes(t, at + 5 * PAGE, PAGE);
        assert!(last[..512] == data[5 * PAGE..][..512] && last[512..516] == [5, 0, 0, 0]);
        assert!(last[516..].iter().all(|b| *b == 0));
    }
    mapped.set_size(22 * PAGE as u64).expect("grown");
    for (t, at) in [(&one, a), (&two, b)] {
        assert!(bytes(t, at + 5 * PAGE + 516, 16 * PAGE - 516).iter().all(|b| *b == 0));
        assert!(is_beyond(t, at + 22 * PAGE));
    }
    store(&two, b + 21 * PAGE, 9);
    two.sync_file(&mapped, b, 24 * PAGE, SyncHow::empty()).expect("written");
    let now = file.bytes();
    assert_eq!(now.len(), 22 * PAGE);
    assert_eq!(now[21 * PAGE], 9);
    assert!(now[5 * PAGE + 516..21 * PAGE].iter().all(|b| *b == 0));
}

/// Stores into a private mapping stay there, also when the file shrinks.
#[test]
fn g13_private_mappings_keep_what_they_wrote() {
    let data = content(4 * PAGE);
    let file = Temp::new(&data);
    let vm = vm();
    let mapped = vm.file(File::open(&file.0).expect("open")).expect("a file");
    let task = vm.task().expect("a task");
    let refused = task.map_file(&mapped, 0, PAGE, Prot::RW, false);
    assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{refused:?}");
    let at = task.map_file(&mapped, PAGE as u64, 3 * PAGE, Prot::RW, true).expect("maps");
    assert!(bytes(&task, at, 3 * PAGE) == data[PAGE..]);
    store(&task, at + PAGE, 1);
    assert!(file.bytes() == data);
    assert!(matches!(mapped.set_size(0), Err(Error::Protection(_))), "it is open for reading");
    let writer = vm.file(file.open()).expect("a file");
    writer.set_size(0).expect("cut");
    assert_eq!(load(&task, at + PAGE), 1);
    assert_eq!(bytes(&task, at + PAGE + 8, 100), data[2 * PAGE + 8..][..100]);
}

/// What can not be mapped is said.
#[test]
fn g02_what_is_no_file_for_mapping_is_refused() {
    let file = Temp::new(&content(PAGE));
    let (vm, other) = (vm(), crate::vm());
    let refused = |f: File| matches!(vm.file(f), Err(Error::InvalidArgument(_)));
    assert!(refused(File::open(std::env::temp_dir()).expect("open")));
    assert!(refused(OpenOptions::new().write(true).open(&file.0).expect("open")));
    assert!(refused(OpenOptions::new().read(true).append(true).open(&file.0).expect("open")));
    assert!(refused(File::open("/dev/null").expect("open")));
    let mapped = vm.file(file.open()).expect("a file");
    let task = vm.task().expect("a task");
    let try_map = |t: &Task, offset, size| t.map_file(&mapped, offset, size, Prot::R, false);
    assert!(matches!(try_map(&task, 1, PAGE), Err(Error::InvalidArgument(_))));
    assert!(matches!(try_map(&task, 1 << 63, PAGE), Err(Error::InvalidArgument(_))));
    assert!(matches!(try_map(&task, !0xfff, PAGE), Err(Error::InvalidArgument(_))));
    assert!(try_map(&task, 0, 0).is_err());
    assert!(matches!(try_map(&other.task().expect("a task"), 0, PAGE), Err(Error::InvalidArgument(_))));
    drop(mapped);
    // Nothing is left over: the file's descriptor is closed.
    let name = std::fs::canonicalize(&file.0).expect("a name");
    let mine = std::fs::read_dir("/proc/self/fd").expect("descriptors");
    let open = mine.flatten().filter(|f| std::fs::read_link(f.path()).is_ok_and(|l| l == name)).count();
    assert_eq!(open, 0);
}

/// msync(2): MS_INVALIDATE sees what write(2) wrote; MS_ASYNC writes, and leaves the device to
/// Linux.
#[test]
fn g13_invalidation_looks_at_the_file_again() {
    let file = Temp::new(&content(4 * PAGE));
    let vm = vm();
    let mapped = vm.file(file.open()).expect("a file");
    let task = vm.task().expect("a task");
    let at = map(&task, &mapped, 4);
    let handle = file.open();
    for i in 0..4 {
        load(&task, at + i * PAGE);
    }
    handle.write_all_at(&[0xaa; 4 * PAGE], 0).expect("write");
    store(&task, at + PAGE, 5);
    task.sync_file(&mapped, at, 4 * PAGE, SyncHow::START | SyncHow::INVALIDATE).expect("written");
    assert!(bytes(&task, at, PAGE) == [0xaa; PAGE]);
    assert_eq!(load(&task, at + PAGE), 5);
    assert!(bytes(&task, at + 2 * PAGE, 2 * PAGE) == [0xaa; 2 * PAGE]);
    store(&task, at, 6);
    task.msync(at, PAGE, libc::MS_ASYNC).expect("written");
    assert_eq!(file.bytes()[..8], 6u64.to_ne_bytes());
    task.msync(at, 4 * PAGE, libc::MS_SYNC | libc::MS_INVALIDATE).expect("written");
    assert_eq!(load(&task, at), 6);
    // Locked memory is not forgotten.
    task.mlock(at, PAGE).expect("locks");
    let refused = task.sync_file(&mapped, at, PAGE, SyncHow::INVALIDATE);
    assert!(matches!(refused, Err(Error::Protection(a)) if a == at), "{refused:?}");
    assert_eq!(task.msync(at, PAGE, libc::MS_INVALIDATE), Err(libc::EBUSY));
}

/// No process of this program has a limit: the test runs again in one that has.
fn with_limit(name: &str, body: fn()) {
    if std::env::var("MACHVM_APART").is_ok_and(|v| v == name) {
        return body();
    }
    let me = std::env::current_exe().expect("the test program");
    let path = format!("library::files::{name}");
    let out = std::process::Command::new(me)
        .args(["--exact", &path, "--nocapture", "--test-threads=1"])
        .env("MACHVM_APART", name)
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{}: {text}{errors}", out.status);
}

/// setrlimit(2): writes behind this byte of any file fail with EFBIG.
fn limit_files(bytes: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a good rlimit; a handler that is one of the two that are always good.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit), 0);
        limit.rlim_cur = bytes;
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

fn refused_writes() {
    let file = Temp::new(&content(16 * PAGE));
    let vm: Vm = small_vm(1 << 20);
    let (one, two) = (vm.file(file.open()).expect("a file"), vm.file(file.open()).expect("a file"));
    let task = vm.task().expect("a task");
    let at = map(&task, &one, 16);
    for i in 0..16 {
        store(&task, at + i * PAGE, i as u64 + 1);
    }
    limit_files(10 * PAGE as u64);
    let refused = task.sync_file(&one, at, 16 * PAGE, SyncHow::empty());
    let Err(Error::Write(e)) = refused else { panic!("{refused:?}") };
    assert_eq!((e.errno, e.offset), (libc::EFBIG, Some(10 * PAGE as u64)));
    // Each who has it open is told once.
    assert_eq!((one.write_error(), two.write_error(), two.write_error()), (None, Some(e), None));
    let three = vm.file(file.open()).expect("a file");
    assert_eq!(three.write_error(), None);
    // What was refused is there, and is tried again, as often as it is refused.
    for i in 0..16 {
        assert_eq!(load(&task, at + i * PAGE), i as u64 + 1);
    }
    assert_eq!(task.msync(at, 16 * PAGE, libc::MS_SYNC), Err(libc::EIO));
    assert!(matches!(task.sync(at, 16 * PAGE), Err(Error::Memory(a)) if a == at));
    // Page-out is refused, too, when nobody asks; who asks later is told.
    let more = task.allocate(2 << 20).expect("memory");
    for i in 0..512 {
        store(&task, more + i * PAGE, 1);
    }
    assert!(one.write_error().is_some() && two.write_error().is_some());
    assert!(three.write_error().is_some() && three.write_error().is_none());
    limit_files(libc::RLIM_INFINITY);
    task.sync_file(&one, at, 16 * PAGE, SyncHow::empty()).expect("written");
    let now = file.bytes();
    for i in 0..16 {
        assert_eq!(now[i * PAGE..i * PAGE + 8], (i as u64 + 1).to_ne_bytes(), "page {i}");
    }
    assert_eq!((one.write_error(), two.write_error()), (None, None));
}

#[test]
fn g13_write_errors_are_kept_and_told_once_to_each() {
    with_limit("g13_write_errors_are_kept_and_told_once_to_each", refused_writes);
}

/// Loads and stores of two threads while the file shrinks and grows, in little memory: each
/// finds its own store, zeros, or the end.
#[test]
fn g13_stores_race_with_truncations() {
    const PAGES: usize = 300;
    let file = Temp::new(&[0; PAGES * PAGE]);
    let vm = small_vm(512 << 10);
    let mapped = vm.file(file.open()).expect("a file");
    let stop = AtomicBool::new(false);
    let mut rng = Rng::new(7);
    std::thread::scope(|s| {
        for me in 1..=2u64 {
            let (vm, mapped, stop, mut rng) = (&vm, &mapped, &stop, Rng::new(rng.draw()));
            s.spawn(move || {
                let task = vm.task().expect("a task");
                let at = map(&task, mapped, PAGES);
                let mut done = 0;
                while !stop.load(Relaxed) || done < 2000 {
                    done += 1;
                    let place = at + rng.below(PAGES) * PAGE + 8 * me as usize;
                    let mut word = [0; 8];
                    let end = |e: Error| assert!(matches!(e, Error::Memory(_)), "{e}");
                    if rng.below(2) == 0 {
                        task.write(place, &me.to_ne_bytes()).map_or_else(end, drop);
                    }
                    task.read(place, &mut word).map_or_else(end, drop);
                    let word = u64::from_ne_bytes(word);
                    assert!(word == me || word == 0, "{word:#x} at {place:#x}");
                }
            });
        }
        for _ in 0..200 {
            let bytes = rng.below(PAGES * PAGE + 1) as u64;
            mapped.set_size(bytes).expect("resized");
            assert_eq!(std::fs::metadata(&file.0).expect("metadata").len(), bytes);
        }
        stop.store(true, Relaxed);
    });
    mapped.set_size((PAGES * PAGE) as u64).expect("resized");
    let task = vm.task().expect("a task");
    let at = map(&task, &mapped, PAGES);
    task.sync_file(&mapped, at, PAGES * PAGE, SyncHow::empty()).expect("written");
    let now = file.bytes();
    assert_eq!(now.len(), PAGES * PAGE);
    assert!(bytes(&task, at, PAGES * PAGE) == now);
}

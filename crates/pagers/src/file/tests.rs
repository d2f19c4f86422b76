//! Tails, truncation, errors (rows G05, G07, G13).

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use machvm_hal::{MAX_CLUSTER, PageInSink, PageNo};

use super::*;

type Completion = (usize, Result<Supply, PagerError>);

/// Keeps what a request got. Pages begin as garbage, like reused frames.
struct Sink {
    pages: Mutex<Vec<[u8; PAGE]>>,
    done: Mutex<Vec<Completion>>,
}
impl PageInSink for Sink {
    fn fill(&self, page: PageNo, off: usize, data: &[u8]) {
        let mut pages = self.pages.lock().expect("no panic");
        pages[page.0.get() as usize - 1][off..off + data.len()].copy_from_slice(data);
    }
    fn complete(&self, _: &[PageNo], got: usize, how: Result<Supply, PagerError>) {
        self.done.lock().expect("no panic").push((got, how));
    }
}
impl Sink {
    fn new() -> Self {
        Sink { pages: Mutex::new(vec![[0xee; PAGE]; MAX_CLUSTER]), done: Mutex::default() }
    }
    fn request(&self, pages: usize, offset: u64) -> PageIn<'_> {
        let list: Vec<_> = (1..=pages as u32).filter_map(NonZeroU32::new).map(PageNo).collect();
        PageIn::new(self, &list, offset)
    }
    /// The one completion, and the bytes.
    fn result(&self) -> (Completion, Vec<u8>) {
        let done = self.done.lock().expect("no panic");
        assert_eq!(done.len(), 1, "completed exactly once");
        (done[0], self.pages.lock().expect("no panic").concat())
    }
}
fn page_in(pager: &FilePager, pages: usize, offset: u64) -> (Completion, Vec<u8>) {
    let sink = Sink::new();
    pager.page_in(sink.request(pages, offset));
    sink.result()
}

/// A file that is removed again.
struct Temp(PathBuf);
impl Temp {
    fn new(content: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("machvm-file-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).expect("writable temporary directory");
        Temp(path)
    }
    fn open(&self, options: &mut OpenOptions) -> File {
        options.open(&self.0).expect("open")
    }
    fn both(&self) -> File {
        self.open(OpenOptions::new().read(true).write(true))
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

#[test]
fn g13_every_cluster_of_every_tail_is_right() {
    for len in [1, 100, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE + 77, 16 * PAGE, 20 * PAGE + 4095] {
        let bytes = content(len);
        let file = Temp::new(&bytes);
        let pager = FilePager::read_only(file.both());
        for pages in 1..=MAX_CLUSTER {
            for first in 0..23 {
                let at = first * PAGE;
                let ((got, how), data) = page_in(&pager, pages, at as u64);
                let there = len.saturating_sub(at).div_ceil(PAGE).min(pages);
                if there == 0 {
                    assert_eq!((got, how), (0, Err(PagerError::Beyond)), "{len} {pages} {first}");
                    continue;
                }
                assert_eq!((got, how), (there, Ok(Supply::Clean)), "{len} {pages} {first}");
                let mut want = bytes[at..len.min(at + there * PAGE)].to_vec();
                want.resize(there * PAGE, 0);
                assert!(data[..there * PAGE] == want, "{len} {pages} {first}");
                assert!(data[there * PAGE..].iter().all(|b| *b == 0xee), "wrote behind the end");
            }
        }
    }
}

#[test]
fn offsets_without_bytes_are_beyond() {
    let file = Temp::new(&content(PAGE));
    let pager = FilePager::read_only(file.both());
    for at in [1 << 40, i64::MAX as u64 - 4095, 1 << 63, u64::MAX - 4095] {
        assert_eq!(page_in(&pager, 16, at).0, (0, Err(PagerError::Beyond)), "{at:#x}");
    }
}

#[test]
fn g05_short_and_interrupted_reads_go_on() {
    let bytes = content(6 * PAGE);
    let sink = Sink::new();
    let mut calls = 0u32;
    supply::<{ 4 * PAGE }>(
        &mut |buf, at| {
            calls += 1;
            if calls.is_multiple_of(3) {
                return Err(ErrorKind::Interrupted.into());
            }
            let n = buf.len().min(1000);
            buf[..n].copy_from_slice(&bytes[at as usize..at as usize + n]);
            Ok(n)
        },
        sink.request(6, 0),
    );
    let (how, data) = sink.result();
    assert_eq!(how, (6, Ok(Supply::Clean)));
    assert!(data[..6 * PAGE] == bytes);
}

#[test]
fn g05_an_error_spares_the_pages_before_it() {
    for (good, pages) in [(0, 0), (PAGE - 1, 0), (PAGE, 1), (5 * PAGE + 10, 5)] {
        let sink = Sink::new();
        supply::<{ 4 * PAGE }>(
            &mut |buf, at| match good as u64 - at {
                0 => Err(std::io::Error::from_raw_os_error(5)),
                left => Ok(buf.len().min(left as usize)),
            },
            sink.request(8, 0),
        );
        assert_eq!(sink.result().0, (pages, Err(PagerError::Io)), "{good} bytes are good");
    }
}

#[test]
fn endless_interruption_is_an_error() {
    let sink = Sink::new();
    supply::<PAGE>(&mut |_, _| Err(ErrorKind::Interrupted.into()), sink.request(1, 0));
    assert_eq!(sink.result().0, (0, Err(PagerError::Io)));
}

#[test]
fn a_write_only_file_cannot_be_read() {
    let file = Temp::new(&content(PAGE));
    let pager = FilePager::read_only(file.open(OpenOptions::new().write(true)));
    assert_eq!(page_in(&pager, 2, 0).0, (0, Err(PagerError::Io)));
}

#[test]
fn a_directory_cannot_be_read() {
    let pager = FilePager::read_only(File::open(std::env::temp_dir()).expect("open"));
    assert_eq!(page_in(&pager, 1, 0).0, (0, Err(PagerError::Io)));
}

#[test]
fn g13_truncation_while_reading_is_the_old_the_tail_or_beyond() {
    let bytes = content(16 * PAGE);
    let file = Temp::new(&bytes);
    let pager = FilePager::read_only(file.both());
    let handle = file.both();
    std::thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            for i in 0..3000usize {
                handle.set_len((i * 1237 % bytes.len()) as u64).expect("truncate");
                handle.write_all_at(&bytes, 0).expect("write");
            }
        });
        let mut reads = 0;
        while !cutter.is_finished() || reads < 100 {
            reads += 1;
            let ((got, how), data) = page_in(&pager, 16, 0);
            assert_eq!(how, if got == 0 { Err(PagerError::Beyond) } else { Ok(Supply::Clean) });
            // The file holds its old bytes or, where a write has yet to come, zeros.
            for (i, b) in data[..got * PAGE].iter().enumerate() {
                assert!(*b == bytes[i] || *b == 0, "byte {i} is neither old nor zero");
            }
        }
    });
}

#[test]
fn g07_write_back_never_extends() {
    for len in [PAGE, PAGE + 1, 2 * PAGE - 1] {
        let file = Temp::new(&content(len));
        let pager = FilePager::shared(file.both()).expect("not for appending");
        let second = pager.page_out(PAGE as u64, &[9; PAGE]);
        assert_eq!(second, if len == PAGE { Err(PagerError::Beyond) } else { Ok(()) });
        assert_eq!(pager.page_out(0, &[8; PAGE]), Ok(()));
        assert_eq!(pager.page_out(1 << 63, &[8; PAGE]), Err(PagerError::Beyond));
        let now = std::fs::read(&file.0).expect("read");
        let mut want = vec![8; PAGE];
        want.resize(len, 9);
        assert!(now == want, "length {len}");
    }
}

#[test]
fn g07_short_writes_go_on_and_errors_are_told() {
    let mut out = vec![0; PAGE];
    let mut calls = 0u32;
    let write = &mut |buf: &[u8], at: u64| {
        calls += 1;
        if calls.is_multiple_of(2) {
            return Err(ErrorKind::Interrupted.into());
        }
        let n = buf.len().min(700);
        out[at as usize..at as usize + n].copy_from_slice(&buf[..n]);
        Ok(n)
    };
    assert_eq!(write_back(3000, write, 0, &[5; PAGE]), Ok(()));
    assert!(out[..3000].iter().all(|b| *b == 5) && out[3000..].iter().all(|b| *b == 0));
    assert_eq!(write_back(3000, &mut |_, _| Ok(0), 0, &[5; PAGE]), Err(PagerError::Io));
    let full = &mut |_: &[u8], _| Err(ErrorKind::StorageFull.into());
    assert_eq!(write_back(3000, full, 0, &[5; PAGE]), Err(PagerError::Io));
}

#[test]
fn who_may_not_write_does_not() {
    let file = Temp::new(&content(PAGE));
    let reader = FilePager::read_only(file.both());
    assert_eq!(reader.page_out(0, &[1; PAGE]), Err(PagerError::Gone));
    let unwritable = FilePager::shared(file.open(OpenOptions::new().read(true))).expect("not for appending");
    assert_eq!(unwritable.page_out(0, &[1; PAGE]), Err(PagerError::Io));
    let mut appending = file.open(OpenOptions::new().append(true));
    appending.write_all(b"x").expect("append");
    assert_eq!(FilePager::shared(appending).expect_err("refused").kind(), ErrorKind::InvalidInput);
    let mut want = content(PAGE);
    want.push(b'x');
    assert!(std::fs::read(&file.0).expect("read") == want);
}

#[test]
fn fdinfo_without_flags_is_an_error() {
    assert_eq!(status_flags("pos:\t0\nflags:\t0102002\nmnt_id:\t1\n").expect("flags"), 0o102_002);
    assert!(status_flags("pos:\t0\n").is_err());
    assert!(status_flags("flags:\t9\n").is_err());
}

//! Tails, truncation, errors (rows G05, G07, G13).

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use machvm_hal::{MAX_CLUSTER, PageInSink, PageNo, Supply};

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

/// Pages to be written: page n is full of byte n + 1.
struct Pages;
impl PageOutSource for Pages {
    fn read(&self, page: PageNo, _: usize, buf: &mut [u8]) {
        buf.fill(page.0.get() as u8);
    }
}
fn run_of(pages: usize, offset: u64) -> PageOut<'static> {
    let mut run = PageOut::new(&Pages, None, offset, true);
    for n in 1..=pages as u32 {
        assert!(run.push(PageNo(NonZeroU32::new(n).expect("not 0")), true));
    }
    run
}
fn results(run: &PageOut<'_>) -> Vec<Result<(), PagerError>> {
    run.results().map(|(_, r)| r).collect()
}

#[test]
fn g07_short_writes_go_on_and_errors_are_told() {
    let mut out = vec![0; 3 * PAGE];
    let mut calls = 0u32;
    let mut run = run_of(3, 0);
    let write = &mut |buf: &[u8], at: u64| {
        calls += 1;
        if calls.is_multiple_of(2) {
            return Err(ErrorKind::Interrupted.into());
        }
        let n = buf.len().min(700);
        out[at as usize..at as usize + n].copy_from_slice(&buf[..n]);
        Ok(n)
    };
    assert_eq!(write_back(2 * PAGE as u64 + 3000, write, &mut [0; 2 * PAGE], &mut run), Ok(()));
    assert_eq!(results(&run), [Ok(()); 3]);
    for (i, b) in out.iter().enumerate() {
        assert_eq!(*b, if i < 2 * PAGE + 3000 { (i / PAGE) as u8 + 1 } else { 0 }, "byte {i}");
    }
    let mut run = run_of(1, 0);
    let stopped = write_back(3000, &mut |_, _| Ok(0), &mut [0; PAGE], &mut run);
    assert_eq!((stopped, results(&run)), (Err(Stopped { errno: 0, at: 0 }), vec![Err(PagerError::Io)]));
}

/// Of a run that stops in the middle the pages before are done, and each page is said to be
/// what it is.
#[test]
fn g07_a_run_that_stops_says_which_pages_are_written() {
    const ENOSPC: i32 = 28;
    for room in [0, 1, PAGE - 1, PAGE, 2 * PAGE + 5, 4 * PAGE, 5 * PAGE + 1] {
        for buffer in [1, 2, 4, 16] {
            let mut run = run_of(8, 0);
            let full = &mut |b: &[u8], at: u64| match (room as u64).saturating_sub(at) {
                0 => Err(io::Error::from_raw_os_error(ENOSPC)),
                left => Ok(b.len().min(left as usize)),
            };
            // Two of the pages are behind the end.
            let how = write_back(5 * PAGE as u64 + 10, full, &mut vec![0; buffer * PAGE], &mut run);
            assert_eq!(how, Err(Stopped { errno: ENOSPC, at: room as u64 }), "{room} {buffer}");
            let mut want = vec![Ok(()); room / PAGE];
            want.resize(6, Err(PagerError::Io));
            want.resize(8, Err(PagerError::Beyond));
            assert_eq!(results(&run), want, "{room} {buffer}");
        }
    }
}

/// pwrite(2): one call writes the run.
#[test]
fn g07_a_run_is_one_write() {
    let file = Temp::new(&content(20 * PAGE - 100));
    let pager = FilePager::shared(file.both()).expect("not for appending");
    let mut run = run_of(16, 4 * PAGE as u64);
    pager.page_out_run(&mut run);
    assert_eq!(results(&run), [Ok(()); 16]);
    let t = pager.traffic();
    // Another test may have the buffer: then it is four.
    assert!(t.writes == 1 || t.writes == 4, "{t:?}");
    assert_eq!((t.runs, t.pages_out, t.errors), (1, 16, 0));
    let now = std::fs::read(&file.0).expect("read");
    assert_eq!(now.len(), 20 * PAGE - 100);
    for page in 0..16 {
        let from = (4 + page) * PAGE;
        let part = &now[from..now.len().min(from + PAGE)];
        assert!(part.iter().all(|b| usize::from(*b) == page + 1), "page {page}");
    }
}

#[test]
fn g08_a_file_says_how_far_it_goes() {
    let file = Temp::new(&content(20 * PAGE + 1));
    let pager = FilePager::read_only(file.both());
    let has = |page: u64| pager.has_page(page * PAGE_SIZE);
    let most = MAX_CLUSTER as u32 - 1;
    assert_eq!(has(0), HasPage::Yes { before: 0, after: most });
    assert_eq!(has(3), HasPage::Yes { before: 3, after: most });
    assert_eq!(has(19), HasPage::Yes { before: most, after: 1 });
    assert_eq!(has(20), HasPage::Yes { before: most, after: 0 });
    for page in [21, 1 << 40, (1 << 52) - 1] {
        assert_eq!(has(page), HasPage::No);
    }
    file.both().set_len(0).expect("truncate");
    assert_eq!(has(0), HasPage::No);
}

/// Once to each who has it open, whenever they look (fsync(2) of Linux 4.13 and later).
#[test]
fn g13_write_errors_are_told_once_to_each() {
    let file = Temp::new(&content(4 * PAGE));
    // Opened for reading: every write fails with EBADF.
    let pager = FilePager::shared(file.open(OpenOptions::new().read(true))).expect("not for appending");
    let (one, two) = (pager.opened(), pager.opened());
    assert_eq!(pager.new_error(&one), None);
    assert_eq!(pager.page_out(PAGE as u64, &[1; PAGE]), Err(PagerError::Io));
    let first = WriteError { errno: 9, offset: Some(PAGE as u64) };
    assert_eq!(pager.new_error(&one), Some(first));
    assert_eq!(pager.new_error(&one), None);
    // Nobody who opens it now is told what somebody was told already.
    let three = pager.opened();
    assert_eq!(pager.new_error(&three), None);
    assert_eq!(pager.page_out(0, &[1; PAGE]), Err(PagerError::Io));
    // Who did not look meanwhile is told of both at once.
    let second = WriteError { errno: 9, offset: Some(0) };
    for seen in [&one, &two, &three] {
        assert_eq!(pager.new_error(seen), Some(second));
        assert_eq!(pager.new_error(seen), None);
    }
    assert_eq!(pager.page_out(0, &[1; PAGE]), Err(PagerError::Io));
    // But of what nobody was told one who opens it is.
    let four = pager.opened();
    for seen in [&four, &one, &two, &three] {
        assert!(pager.new_error(seen).is_some());
        assert_eq!(pager.new_error(seen), None);
    }
    assert_eq!(pager.traffic().errors, 3);
}

/// Whatever threads fail and look: no error is told twice to one, and after the last none is
/// kept from any.
#[test]
fn g13_write_errors_are_told_once_under_threads() {
    let errors = errors::WriteErrors::default();
    std::thread::scope(|scope| {
        let write = |errno| {
            let errors = &errors;
            move || (0..2000).for_each(|at| errors.record(Stopped { errno, at }))
        };
        let writers = [scope.spawn(write(5)), scope.spawn(write(28))];
        let look = || {
            let (seen, mut told) = (errors.opened(), 0);
            while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                told += u64::from(errors.take(&seen).is_some());
            }
            told += u64::from(errors.take(&seen).is_some());
            assert_eq!(errors.take(&seen), None);
            told
        };
        let told = look();
        assert!((1..=4000).contains(&told), "{told}");
    });
}

/// ftruncate(2) through the pager and writes of pages: never longer than it was cut last.
#[test]
fn g13_no_write_undoes_a_truncation() {
    let file = Temp::new(&content(16 * PAGE));
    let pager = FilePager::shared(file.both()).expect("not for appending");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..500 {
                let mut run = run_of(16, 0);
                pager.page_out_run(&mut run);
                // First the pages inside, then those behind the end.
                let all = results(&run);
                let inside = all.iter().take_while(|r| r.is_ok()).count();
                assert!(all[inside..].iter().all(|r| *r == Err(PagerError::Beyond)), "{all:?}");
            }
        });
        let mut i = 0u64;
        while !writer.is_finished() {
            i += 1;
            let len = i * 7919 % (16 * PAGE_SIZE);
            pager.set_len(len).expect("truncate");
            assert_eq!(pager.size().expect("size"), len);
        }
    });
    let reader = FilePager::read_only(file.both());
    assert_eq!(reader.set_len(1).expect_err("refused").kind(), ErrorKind::PermissionDenied);
}

#[test]
fn g02_g04_a_file_is_known_by_what_it_is() {
    let (file, other) = (Temp::new(&content(PAGE)), Temp::new(&content(PAGE)));
    let link = file.0.with_extension("link");
    std::fs::hard_link(&file.0, &link).expect("link");
    let id = |f: &File| FileId::of(f).expect("stat");
    assert_eq!(id(&file.both()), id(&File::open(&link).expect("open")));
    assert_ne!(id(&file.both()), id(&other.both()));
    std::fs::remove_file(link).expect("remove");
    // Who opened it for reading first can write when somebody can.
    let pager = FilePager::read_only(file.open(OpenOptions::new().read(true)));
    assert!(!pager.is_writable());
    assert_eq!(pager.page_out(0, &[3; PAGE]), Err(PagerError::Gone));
    assert_eq!(pager.write_through(other.both()).expect_err("refused").kind(), ErrorKind::InvalidInput);
    assert!(!pager.is_writable());
    pager.write_through(file.both()).expect("the same file");
    assert_eq!(pager.page_out(0, &[3; PAGE]), Ok(()));
    assert_eq!(pager.flush(), Ok(()));
    assert!(std::fs::read(&file.0).expect("read") == [3; PAGE]);
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

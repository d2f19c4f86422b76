//! The pagers in C and Python, each in a process of its own (rows E05, E06,
//! E11, E22 over the wire), and what becomes of their kernels when they are killed.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use machvm_hal::{PAGE_SIZE, PageIn, PageInSink, PageNo, Pager, PagerError, Supply, Swap, SwapSlot};
use machvm_pagers::external::{Client, ExternalSwap, Options};
use machvm_pagers::{Tier, Tiers};

const PAGE: usize = PAGE_SIZE as usize;
const LONG: Duration = Duration::from_secs(60);

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A pager's process, killed when dropped.
struct Process {
    child: Child,
    socket: PathBuf,
}

impl Process {
    fn start(command: &mut Command, socket: PathBuf) -> Process {
        let _ = std::fs::remove_file(&socket);
        let child = command.arg(&socket).spawn().expect("the pager starts");
        let p = Process { child, socket };
        let end = Instant::now() + LONG;
        while Client::connect(&p.socket, options(LONG)).is_err() {
            assert!(Instant::now() < end, "the pager does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        p
    }
    /// As the user's `kill -9`.
    fn kill(&mut self) {
        self.child.kill().expect("kill");
        assert_eq!(self.child.wait().expect("wait").signal(), Some(9));
    }
}
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn unique(what: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Relaxed);
    std::env::temp_dir().join(format!("machvm-{what}-{}-{n}", std::process::id()))
}

/// The example in C, compiled with every warning.
fn in_c() -> Process {
    let program = unique("pager-c");
    let done = Command::new("cc")
        .args(["-O1", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread", "-I"])
        .arg(here("include"))
        .arg("-o")
        .arg(&program)
        .arg(here("examples/pager.c"))
        .output()
        .expect("cc");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let p = Process::start(&mut Command::new(&program), unique("c.sock"));
    let _ = std::fs::remove_file(program);
    p
}

fn in_python() -> Process {
    Process::start(Command::new("python3").arg(here("examples/pager.py")), unique("py.sock"))
}

fn options(timeout: Duration) -> Options {
    Options { timeout, reconnect: false, ..Options::default() }
}

/// Fails the test unless it is what a request is to get.
struct Expect<'a>(&'a (dyn Fn(&[u8]) -> bool + Sync));
impl PageInSink for Expect<'_> {
    fn fill(&self, _: PageNo, off: usize, data: &[u8]) {
        assert!(off == 0 && (self.0)(data));
    }
    fn complete(&self, _: &[PageNo], got: usize, how: Result<Supply, PagerError>) {
        assert_eq!((got, how), (1, Ok(Supply::Clean)));
    }
}
fn one() -> [PageNo; 1] {
    [PageNo(std::num::NonZeroU32::MIN)]
}

fn objects(p: &Process) {
    let client = Client::connect(&p.socket, options(LONG)).expect("connect");
    let numbers = client.open(b"numbers").expect("opens").object;
    for n in [0_u64, 1, 77, (1 << 18) - 1] {
        let right = |d: &[u8]| d[..8] == n.to_le_bytes() && d[8..].iter().all(|b| *b == 0);
        numbers.page_in(PageIn::new(&Expect(&right), &one(), n * PAGE_SIZE));
    }
    assert_eq!(numbers.page_out(0, &[1; PAGE]), Err(PagerError::Gone), "they cannot be written");
    let data = client.open("Daten\0 \u{fc}".as_bytes()).expect("opens").object;
    assert_eq!(data.page_out(5 * PAGE_SIZE, &[9; PAGE]), Ok(()));
    assert_eq!(data.page_out(1 << 30, &[9; PAGE]), Err(PagerError::Beyond));
    data.page_in(PageIn::new(&Expect(&|d| d.iter().all(|b| *b == 9)), &one(), 5 * PAGE_SIZE));
    // It is still there for another kernel.
    let other = Client::connect(&p.socket, options(LONG)).expect("connect");
    let data = other.open("Daten\0 \u{fc}".as_bytes()).expect("opens").object;
    data.page_in(PageIn::new(&Expect(&|d| d.iter().all(|b| *b == 9)), &one(), 5 * PAGE_SIZE));
    assert_eq!(client.stats().misfits + client.stats().stray + client.stats().garbage, 0);
}

fn page(n: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for (i, w) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *w = (n * 1000 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    }
    page
}

/// Swap that is nowhere but at the pager.
fn only(p: &Process, pages: u64, options: Options) -> (Arc<ExternalSwap>, Tiers) {
    let pager = ExternalSwap::connect(&p.socket, pages * PAGE_SIZE, options).expect("connect");
    let (pager, tiers) = (Arc::new(pager), Tiers::new());
    tiers.on(Box::new(Arc::clone(&pager)), 0).expect("it can be used");
    (pager, tiers)
}

fn swap(p: &mut Process) {
    const PAGES: u64 = 300;
    let (pager, swap) = only(p, PAGES, options(LONG));
    let mut slots: Vec<SwapSlot> = (0..PAGES).map(|n| swap.put(&page(n)).expect("room")).collect();
    assert!(swap.put(&page(0)).is_err(), "it is full");
    for n in (0..PAGES).step_by(3) {
        swap.free(slots[n as usize]);
        slots[n as usize] = swap.put(&page(n + 5000)).expect("room");
    }
    let mut seen = 0;
    for (chunk, part) in slots.chunks(16).enumerate() {
        swap.get_run(part, &mut |i, got| {
            let n = (chunk * 16 + i) as u64;
            let want = page(if n.is_multiple_of(3) { n + 5000 } else { n });
            assert!(got.expect("it is there") == &want, "page {n}");
            seen += 1;
        });
    }
    assert_eq!(seen, PAGES);
    // Kill -9 while pages are read and written: errors, at once, and nothing else.
    std::thread::scope(|s| {
        for t in 0..3_u64 {
            let (swap, slots) = (&swap, &slots);
            s.spawn(move || {
                let mut buf = [0; PAGE];
                let mut n = t * 97;
                loop {
                    n = (n + 1) % PAGES;
                    match swap.get(slots[n as usize], &mut buf) {
                        Ok(()) => assert!(buf == page(if n.is_multiple_of(3) { n + 5000 } else { n })),
                        Err(_) => break,
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(30));
        p.kill();
    });
    swap.free(slots[0]);
    assert!(swap.put(&page(1)).is_err());
    assert_eq!(pager.stats().damaged, 0);
    assert_eq!(pager.client().stats().pending, 0);
}

#[test]
fn e05_e11_objects_of_a_pager_in_c() {
    objects(&in_c());
}

#[test]
fn e05_e11_objects_of_a_pager_in_python() {
    objects(&in_python());
}

#[test]
fn e22_memory_kept_by_a_pager_in_c_until_it_is_killed() {
    swap(&mut in_c());
}

#[test]
fn e22_memory_kept_by_a_pager_in_python_until_it_is_killed() {
    swap(&mut in_python());
}

/// A pager that is started again has lost what it had: errors, not other data.
#[test]
fn e22_contents_that_a_pager_lost_are_errors() {
    let mut p = in_c();
    let again = Options { timeout: LONG, ..Options::default() };
    let (pager, swap) = only(&p, 64, again);
    let slots: Vec<SwapSlot> = (0..10).map(|n| swap.put(&page(n)).expect("room")).collect();
    let socket = p.socket.clone();
    p.kill();
    drop(p);
    let program = Process::start(Command::new("python3").arg(here("examples/pager.py")), socket);
    let mut buf = [0; PAGE];
    for slot in &slots {
        assert!(swap.get(*slot, &mut buf).is_err());
    }
    // And it is of use again.
    let slot = swap.put(&page(77)).expect("room");
    swap.get(slot, &mut buf).expect("it is there");
    assert!(buf == page(77));
    assert_eq!(pager.stats().pages, 11);
    drop(program);
}

/// Prints what requests cost: `cargo test -p machvm-pagers --release --test languages -- --ignored --nocapture cost`.
#[test]
#[ignore = "prints figures and asserts nothing; docs/external-pagers.md has the command"]
fn cost() {
    const PAGES: u64 = 4096;
    for (language, p) in [("C", in_c()), ("Python", in_python())] {
        let (_pager, swap) = only(&p, PAGES, options(LONG));
        let mut slots = Vec::new();
        let figure = |what: &str, work: &mut dyn FnMut()| {
            let begun = Instant::now();
            work();
            let each = begun.elapsed().as_secs_f64() / PAGES as f64;
            println!(
                "{language:<7} {what:<28} {:>8.2} us a page {:>8.1} MiB/s",
                each * 1e6,
                each.recip() / 256.0
            );
        };
        figure("page-out, one at a time", &mut || {
            slots.extend((0..PAGES).map(|n| swap.put(&page(n)).expect("room")))
        });
        let mut buf = [0; PAGE];
        figure("page-in, one at a time", &mut || {
            slots.iter().for_each(|s| swap.get(*s, &mut buf).expect("there"))
        });
        figure("page-in, 16 at a time", &mut || {
            slots.chunks(16).for_each(|c| swap.get_run(c, &mut |_, got| assert!(got.is_ok())));
        });
    }
}

/// The numbers in the header, in the script and in the manual are those of the crate.
#[test]
fn every_number_is_the_same_in_every_language() {
    use machvm_pagers::external::wire::{Kind, Status};
    let read = |path: &str| std::fs::read_to_string(here(path)).expect("readable");
    let (c, python, manual) =
        (read("include/machvm/pager.h"), read("examples/pager.py"), read("../../docs/external-pagers.md"));
    let upper = |name: String| {
        let mut out = String::new();
        for (i, ch) in name.chars().enumerate() {
            if ch.is_uppercase() && i > 0 {
                out.push('_');
            }
            out.extend(ch.to_uppercase());
        }
        out
    };
    for kind in Kind::ALL {
        let (name, n) = (upper(format!("{kind:?}")), *kind as u16);
        assert!(c.contains(&format!("MACHVM_{name} = {n}")), "{name} in C");
        assert!(python.contains(&name), "{name} in Python");
        assert!(manual.contains(&format!("| {n} | {name} |")), "{name} in the manual");
    }
    for status in Status::ALL {
        let (name, n) = (upper(format!("{status:?}")), status as u32);
        assert!(c.contains(&format!("MACHVM_{name} = {n}")), "{name} in C");
        assert!(manual.contains(&format!("| {n} | {name} |")), "{name} in the manual");
    }
}

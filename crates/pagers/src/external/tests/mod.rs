//! The protocol over real sockets: rows E01 to E27, Z113 to Z121.

mod bad;
mod calls;
mod pages;

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use machvm_hal::{MAX_CLUSTER, PAGE_SIZE, PageIn, PageInSink, PageNo, Pager as _, PagerError, Prot, Supply};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::link::{Link, Received};
use super::ring::Ring;
use super::server::{About, Control, DataRequest, DataReturn, Pager, Proxy, Server, Told, Unlock};
use super::wire::{Kind, MAGIC, Message, Status, VERSION};
use super::*;

const PAGE: usize = PAGE_SIZE as usize;
/// A deadline that no test reaches unless something hangs.
const NEVER: Duration = Duration::from_secs(120);
/// A deadline that a test waits for.
const SHORT: Duration = Duration::from_secs(1);

/// A name for a socket, removed again.
pub(super) struct Socket(PathBuf);
impl Socket {
    fn new() -> Socket {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("machvm-pager-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        Socket(std::env::temp_dir().join(name))
    }
    fn path(&self) -> &Path {
        &self.0
    }
    fn listen(&self) -> OwnedFd {
        let _ = std::fs::remove_file(&self.0);
        let s =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let s = s.expect("socket");
        rustix::net::bind(&s, &SocketAddrUnix::new(&*self.0).expect("short")).expect("bind");
        rustix::net::listen(&s, 8).expect("listen");
        s
    }
}
impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Waits for what other threads do.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + NEVER;
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn options(timeout: Duration, reconnect: bool) -> Options {
    Options { timeout, reconnect, ..Options::default() }
}

type Completion = (usize, Result<Supply, PagerError>, Prot);

/// Keeps what a request got. Pages begin as garbage, like reused frames.
struct Sink {
    pages: Mutex<Vec<[u8; PAGE]>>,
    done: Mutex<Vec<Completion>>,
}
impl PageInSink for Sink {
    fn fill(&self, page: PageNo, off: usize, data: &[u8]) {
        self.pages.lock().expect("no panic")[page.0.get() as usize - 1][off..off + data.len()]
            .copy_from_slice(data);
    }
    fn complete(&self, pages: &[PageNo], got: usize, how: Result<Supply, PagerError>) {
        self.complete_locked(pages, got, how, Prot::NONE);
    }
    fn complete_locked(&self, _: &[PageNo], got: usize, how: Result<Supply, PagerError>, lock: Prot) {
        self.done.lock().expect("no panic").push((got, how, lock));
    }
}

/// What one request gets, as the core would make it.
fn page_in(object: &Object, pages: usize, offset: u64) -> (Completion, Vec<u8>) {
    let control = machvm_hal::ControlId(std::num::NonZeroU64::MIN);
    let sink = Sink { pages: Mutex::new(vec![[0; PAGE]; MAX_CLUSTER]), done: Mutex::default() };
    let list: Vec<_> = (1..=pages as u32).filter_map(NonZeroU32::new).map(PageNo).collect();
    object.page_in(PageIn::new(&sink, &list, offset).of_object(Some(control), Prot::R));
    let done = sink.done.into_inner().expect("no panic");
    assert_eq!(done.len(), 1, "completed exactly once");
    (done[0], sink.pages.into_inner().expect("no panic").concat())
}

/// The page of an object as the store makes it.
fn content(offset: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for (i, word) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = (offset + 8 * i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    }
    page
}

/// What a pager was told, for tests to look at.
type Log = Arc<Mutex<Vec<String>>>;

/// A pager of many talents: `data` is a store that can be written; `parts` supplies a page a
/// time; `holes` has no data; `errors` has none that can be read; `locked` is locked against
/// writing; `precious` is; `beyond` ends at 4 pages; `window` is a part of `data`; a name with
/// `kept:` is kept in `held` for the test to answer.
#[derive(Default)]
struct Store {
    pages: Mutex<std::collections::HashMap<u64, Vec<u8>>>,
    log: Log,
    held: Arc<Mutex<Vec<DataRequest>>>,
    controls: Arc<Mutex<Vec<Control>>>,
    instance: u64,
}

struct Open(String);

impl Store {
    fn say(&self, text: String) {
        self.log.lock().expect("no panic").push(text);
    }
}

impl Pager for Store {
    type Object = Open;

    fn instance(&self) -> u64 {
        self.instance
    }
    fn init(&self, name: &[u8], control: &Control) -> Result<(Open, About), Status> {
        let name = String::from_utf8_lossy(name).into_owned();
        self.say(format!("init {name}"));
        self.controls.lock().expect("no panic").push(control.clone());
        match &*name {
            "nothing" => Err(Status::Unknown),
            "secret" => Err(Status::Denied),
            _ => Ok((Open(name), About::read_write(1 << 30))),
        }
    }
    fn proxy(&self, name: &[u8], _: &Control) -> Option<Proxy> {
        let object = self.controls.lock().expect("no panic").first().map_or(77, Control::object);
        let (offset, size) = (8 * PAGE_SIZE, 2 * PAGE_SIZE);
        match name {
            b"window" => Some(Proxy { object, offset, size, rights: Prot::R }),
            b"outside" => Some(Proxy { object, offset: 1 << 30, size, rights: Prot::R }),
            _ => None,
        }
    }
    fn create(&self, size: u64, _: &Control) -> Option<Open> {
        self.say(format!("create {size}"));
        Some(Open("data".into()))
    }
    fn data_request(&self, object: &Open, request: DataRequest) {
        let first = request.offset();
        let data = |n: u64| -> Vec<u8> {
            let pages = self.pages.lock().expect("no panic");
            let page = |i: u64| first + i * PAGE_SIZE;
            (0..n)
                .flat_map(|i| pages.get(&page(i)).cloned().unwrap_or_else(|| content(page(i)).to_vec()))
                .collect()
        };
        let all = request.size() / PAGE_SIZE;
        match &*object.0 {
            "parts" => request.supply(&data(1)),
            "short" => request.supply(&[7; 100]),
            "holes" => request.unavailable(),
            "errors" => request.error(Status::Error),
            "locked" => request.supply_how(&data(all), Prot::W, false),
            "precious" => request.supply_how(&data(all), Prot::NONE, true),
            "beyond" if request.offset() >= 4 * PAGE_SIZE => request.error(Status::Beyond),
            "dropped" => drop(request),
            name if name.starts_with("kept:") => self.held.lock().expect("no panic").push(request),
            _ => request.supply(&data(all)),
        }
    }
    fn data_return(&self, object: &Open, data: &DataReturn<'_>) -> Result<(), Status> {
        match &*object.0 {
            "full" => return Err(Status::Full),
            "shut" => return Err(Status::Denied),
            _ => {}
        }
        self.say(format!(
            "return {} {} dirty={} first={}",
            data.offset(),
            data.size(),
            data.is_dirty(),
            data.is_first()
        ));
        let bytes = data.read()?;
        let mut pages = self.pages.lock().expect("no panic");
        for (i, page) in bytes.chunks(PAGE).enumerate() {
            pages.insert(data.offset() + (i * PAGE) as u64, page.to_vec());
        }
        Ok(())
    }
    fn data_unlock(&self, _: &Open, u: &Unlock, _: &Control) {
        self.say(format!("unlock {} {} {:?}", u.offset, u.size, u.access));
    }
    fn synchronize(&self, object: &Open, offset: u64, size: u64) -> Result<(), Status> {
        self.say(format!("synchronize {offset} {size}"));
        if object.0 == "full" { Err(Status::Full) } else { Ok(()) }
    }
    fn told(&self, _: &Open, what: Told, _: &Control) {
        self.say(format!("{what:?}"));
    }
    fn terminate(&self, object: Open) {
        self.say(format!("terminate {}", object.0));
    }
}

/// A server in this process, until it is dropped.
struct Running {
    socket: Socket,
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    log: Log,
    held: Arc<Mutex<Vec<DataRequest>>>,
    controls: Arc<Mutex<Vec<Control>>>,
}

impl Running {
    fn start() -> Running {
        let store = Store { instance: 42, ..Store::default() };
        let (log, held, controls) = (store.log.clone(), store.held.clone(), store.controls.clone());
        let socket = Socket::new();
        let server = Server::bind(socket.path()).expect("bind");
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread =
            std::thread::spawn(move || server.run_until(store, || asked.load(Relaxed)).expect("serve"));
        Running { socket, stop, thread: Some(thread), log, held, controls }
    }
    fn client(&self) -> Client {
        Client::connect(self.socket.path(), options(NEVER, true)).expect("connect")
    }
    fn heard(&self, what: &str) -> bool {
        self.log.lock().expect("no panic").iter().any(|line| line.starts_with(what))
    }
    fn hears(&self, what: &str) {
        until(what, || self.heard(what));
    }
}
impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(ended.is_none_or(|e| e.is_ok()), "the server panicked");
    }
}

/// The pager's end of a connection, for saying anything at all.
struct Raw {
    link: Link,
    ring: Ring,
}

impl Raw {
    /// Accepts a kernel and welcomes it.
    fn accept(listener: &OwnedFd) -> Raw {
        let link = Link::new(rustix::net::accept_with(listener, SocketFlags::CLOEXEC).expect("accept"));
        let (Received::Message(hello), Some(fd)) = link.receive_with(Instant::now() + NEVER).expect("hello")
        else {
            panic!("no hello");
        };
        assert_eq!((hello.kind, hello.object, hello.how), (Kind::Hello, MAGIC, VERSION));
        let ring = Ring::shared(fd, hello.size, hello.place).expect("ring");
        let raw = Raw { link, ring };
        raw.send(&Message { object: MAGIC, how: VERSION, ..Message::new(Kind::Welcome) });
        raw
    }
    fn send(&self, m: &Message) {
        self.link.send(m, Instant::now() + NEVER).expect("send");
    }
    /// The next message; `None`: the kernel has hung up.
    fn next(&self) -> Option<Message> {
        match self.link.receive_until(Instant::now() + NEVER).expect("a message") {
            Received::Message(m) => Some(m),
            Received::End => None,
            other => panic!("{other:?}"),
        }
    }
    /// Answers inits until something else comes.
    fn ready(&self) -> Option<Message> {
        loop {
            let m = self.next()?;
            if m.kind != Kind::Init {
                return Some(m);
            }
            self.send(&Message {
                size: 1 << 30,
                access: 7,
                how: 2,
                ..m.answer(Kind::Ready, Status::Success)
            });
        }
    }
    fn supply_of(&self, m: &Message) -> Message {
        Message {
            offset: m.offset,
            size: m.size,
            place: m.place,
            ..m.answer(Kind::DataSupply, Status::Success)
        }
    }
    fn supply(&self, m: &Message) {
        for i in 0..m.pages() as u64 {
            self.ring.write(m.place + i * PAGE_SIZE, &content(m.offset + i * PAGE_SIZE)).expect("ring");
        }
        self.send(&self.supply_of(m));
    }
}

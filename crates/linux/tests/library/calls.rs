//! The calls that a pager makes, over its socket, into a VM of a library (E04 to E20).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machvm_hal::{Attributes, CopyStrategy, Return};
use machvm_pagers::external::server::{self, About, Control, DataRequest, DataReturn, Lock, Server, Told};
use machvm_pagers::external::wire::Status;

use crate::{PAGE, load, small_vm, store, vm};
use machvm_linux::{Error, ExternalPager, MemoryObject, PagerOptions, Prot, Task, Vm};

/// Nothing takes as long unless it hangs.
const LONG: Duration = Duration::from_secs(60);
const PAGES: u64 = 64;
const BYTES: usize = PAGES as usize * PAGE;

/// What the pager has, and what happened to it.
struct Store {
    pages: Mutex<HashMap<u64, Vec<u8>>>,
    requests: AtomicU64,
    unlocks: AtomicU64,
    /// Pages are given without write access.
    locked: AtomicBool,
    control: Mutex<Sender<Control>>,
    told: Mutex<Sender<Told>>,
}

impl Store {
    fn word(&self, page: u64) -> u64 {
        let pages = self.pages.lock().unwrap();
        pages.get(&page).map_or(0, |p| u64::from_le_bytes(p[..8].try_into().unwrap()))
    }
    fn set(&self, page: u64, word: u64) {
        self.pages.lock().unwrap().insert(page, page_of(word));
    }
}

fn page_of(word: u64) -> Vec<u8> {
    let mut data = vec![0; PAGE];
    data[..8].copy_from_slice(&word.to_le_bytes());
    data
}

struct Pager(Arc<Store>);

impl server::Pager for Pager {
    type Object = ();
    fn init(&self, _name: &[u8], control: &Control) -> Result<((), About), Status> {
        self.0.control.lock().unwrap().send(control.clone()).expect("the test waits");
        Ok(((), About::read_write(BYTES as u64)))
    }
    fn data_request(&self, (): &(), request: DataRequest) {
        self.0.requests.fetch_add(1, SeqCst);
        let (first, n) = (request.offset() / PAGE as u64, request.size() / PAGE as u64);
        let mut data = Vec::new();
        {
            let pages = self.0.pages.lock().unwrap();
            for p in first..first + n {
                data.extend(pages.get(&p).cloned().unwrap_or_else(|| vec![0; PAGE]));
            }
        }
        let lock = if self.0.locked.load(SeqCst) { Prot::W } else { Prot::NONE };
        request.supply_how(&data, lock, false);
    }
    fn data_return(&self, (): &(), data: &DataReturn<'_>) -> Result<(), Status> {
        let first = data.offset() / PAGE as u64;
        for (i, page) in data.read()?.chunks(PAGE).enumerate() {
            self.0.pages.lock().unwrap().insert(first + i as u64, page.to_vec());
        }
        Ok(())
    }
    fn data_unlock(&self, (): &(), unlock: &server::Unlock, control: &Control) {
        assert!(unlock.access.contains(Prot::W));
        self.0.unlocks.fetch_add(1, SeqCst);
        let none = Lock { ret: Return::None, flush: false, lock: Some(Prot::NONE) };
        control.lock_request(99, unlock.offset, unlock.size, none).expect("there is a kernel");
    }
    fn told(&self, (): &(), what: Told, _control: &Control) {
        // The test may have ended.
        let _ = self.0.told.lock().unwrap().send(what);
    }
}

/// A pager on threads of this process, and one object of it, mapped by a task.
struct Rig {
    store: Arc<Store>,
    control: Control,
    told: Mutex<Receiver<Told>>,
    task: Task,
    at: usize,
    object: MemoryObject,
    _pager: ExternalPager,
    stop: Arc<AtomicBool>,
    socket: PathBuf,
}

impl Rig {
    fn new(vm: &Vm) -> Rig {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, SeqCst);
        let socket = std::env::temp_dir().join(format!("machvm-calls-{}-{n}", std::process::id()));
        let (controls, told) = (channel(), channel());
        let store = Arc::new(Store {
            pages: Mutex::default(),
            requests: AtomicU64::new(0),
            unlocks: AtomicU64::new(0),
            locked: AtomicBool::new(false),
            control: Mutex::new(controls.0),
            told: Mutex::new(told.0),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let server = Server::bind(&socket).expect("listens");
        let (pager, stopped) = (Pager(Arc::clone(&store)), Arc::clone(&stop));
        std::thread::spawn(move || server.run_until(pager, || stopped.load(SeqCst)));
        let options = PagerOptions { timeout: LONG, reconnect: false, ..PagerOptions::default() };
        let pager = vm.pager(&socket, options).expect("connects");
        let object = pager.open(b"it").expect("opens");
        let control = controls.1.recv_timeout(LONG).expect("an object");
        let task = vm.task().expect("a task");
        let at = task.map_object(&object, 0, BYTES, Prot::RW, false).expect("maps");
        Rig { store, control, told: Mutex::new(told.1), task, at, object, _pager: pager, stop, socket }
    }
    fn load(&self, page: u64) -> u64 {
        load(&self.task, self.at + page as usize * PAGE)
    }
    fn store(&self, page: u64, word: u64) {
        store(&self.task, self.at + page as usize * PAGE, word);
    }
    /// What the pager is told next.
    fn next(&self) -> Told {
        self.told.lock().unwrap().recv_timeout(LONG).expect("it is told")
    }
    /// The completion with that number.
    fn completion(&self, id: u64) -> Status {
        loop {
            match self.next() {
                Told::LockCompleted(n, status) | Told::ChangeCompleted(n, status) if n == id => {
                    return status;
                }
                _ => {}
            }
        }
    }
    fn lock_request(&self, id: u64, page: u64, pages: u64, how: Lock) -> Status {
        let (offset, size) = (page * PAGE as u64, pages * PAGE as u64);
        self.control.lock_request(id, offset, size, how).expect("there is a kernel");
        self.completion(id)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Data that nobody asked for is taken, once (E06, E07).
#[test]
fn e06_e07_data_that_nobody_asked_for() {
    let vm = vm();
    let r = Rig::new(&vm);
    let size = 2 * PAGE as u64;
    let data = [page_of(0x1111), page_of(0x2222)].concat();
    let supplied = |offset| loop {
        match r.next() {
            Told::SupplyCompleted(_, status, at) => return (status, at),
            other => assert!(!matches!(other, Told::LockCompleted(..)), "{other:?} of {offset}"),
        }
    };
    r.control.supply(8 * PAGE as u64, &data, Prot::NONE, false).expect("sent");
    assert_eq!(supplied(8).0, Status::Success);
    assert_eq!((r.load(8), r.load(9)), (0x1111, 0x2222));
    assert_eq!(r.store.requests.load(SeqCst), 0, "they were there");
    // The second page is there already: the first is taken, and it is said where that ended.
    r.control.supply(7 * PAGE as u64, &data, Prot::NONE, false).expect("sent");
    assert_eq!(supplied(7), (Status::Present, size / 2 + 7 * PAGE as u64));
    assert_eq!((r.load(7), r.load(8)), (0x1111, 0x1111));
    assert_eq!(r.store.requests.load(SeqCst), 0);
}

/// A store to a page given without write access asks for it, once (E14), and goes on when the
/// pager takes the lock away (E15, E16).
#[test]
fn e14_e15_e16_a_store_waits_for_the_lock_to_go() {
    let vm = vm();
    let r = Rig::new(&vm);
    r.store.locked.store(true, SeqCst);
    r.store.set(3, 77);
    assert_eq!(r.load(3), 77);
    assert_eq!(r.store.unlocks.load(SeqCst), 0, "reading is allowed");
    r.store(3, 78);
    assert_eq!(r.load(3), 78);
    assert_eq!(r.store.unlocks.load(SeqCst), 1);
    assert_eq!(r.completion(99), Status::Success);
    r.store(3, 79);
    assert_eq!(r.store.unlocks.load(SeqCst), 1);
    // Cleaned and locked again: the next store asks again.
    let clean = Lock { ret: Return::All, flush: false, lock: Some(Prot::W) };
    assert_eq!(r.lock_request(1, 3, 1, clean), Status::Success);
    assert_eq!(r.store.word(3), 79);
    r.store(3, 80);
    assert_eq!((r.load(3), r.store.unlocks.load(SeqCst)), (80, 2));
}

/// A flush returns what was modified and forgets everything: the pager's data is seen anew
/// (E11, E15).
#[test]
fn e11_e15_a_flush_brings_the_pagers_new_data() {
    let vm = vm();
    let r = Rig::new(&vm);
    for p in 0..PAGES {
        r.store.set(p, 100 + p);
    }
    for p in 0..PAGES {
        assert_eq!(r.load(p), 100 + p);
    }
    for p in (0..PAGES).step_by(3) {
        r.store(p, 500 + p);
    }
    let flush = Lock { ret: Return::All, flush: true, lock: None };
    assert_eq!(r.lock_request(1, 0, PAGES, flush), Status::Success);
    for p in 0..PAGES {
        let there = r.store.word(p);
        assert_eq!(there, if p % 3 == 0 { 500 + p } else { 100 + p });
        r.store.set(p, there + 1000);
    }
    for p in 0..PAGES {
        assert_eq!(r.load(p), 1000 + if p % 3 == 0 { 500 + p } else { 100 + p });
    }
}

/// Destroyed by its pager, the object's memory fails; everything else goes on (E04).
#[test]
fn e04_a_destroyed_object_fails() {
    let vm = vm();
    let r = Rig::new(&vm);
    r.store(1, 5);
    r.control.destroy(Status::Gone).expect("sent");
    // The call has no completion: a later one is answered when it has been carried out.
    let nothing = Lock { ret: Return::None, flush: false, lock: None };
    let _ = r.lock_request(1, 0, 1, nothing);
    let mut b = [0; 8];
    for p in [1, 2] {
        let e = r.task.read(r.at + p * PAGE, &mut b).expect_err("it is gone");
        assert!(matches!(e, Error::Memory { .. }), "{e:?}");
    }
    assert!(!r.object.object().is_usable());
    let other = r.task.allocate(PAGE).expect("memory");
    store(&r.task, other, 9);
    assert_eq!(load(&r.task, other), 9);
}

/// Attributes change and are told (E17, E18, E20).
#[test]
fn e17_e18_e20_attributes() {
    let vm = vm();
    let r = Rig::new(&vm);
    let how = Attributes { may_cache: true, copy: CopyStrategy::Call };
    r.control.change_attributes(4, how).expect("sent");
    assert_eq!(r.completion(4), Status::Success);
    r.control.get_attributes(5).expect("sent");
    let told = loop {
        if let Told::Attributes(5, status, ready, how) = r.next() {
            break (status, ready, how);
        }
    };
    assert_eq!(told, (Status::Success, true, how));
    assert_eq!(r.object.object().attributes(), how);
    // With `Call` the pager hears of copies (E21).
    r.store(0, 1);
    let copy = r.task.allocate(BYTES).expect("memory");
    r.task.copy(r.at, BYTES, &r.task, copy).expect("copies");
    let copied = loop {
        if let Told::Copied(offset, size) = r.next() {
            break (offset, size);
        }
    };
    assert_eq!(copied, (0, BYTES as u64));
}

/// A pager that flushes all the time, under memory pressure, loses nothing.
#[test]
fn e15_flushes_while_pages_come_and_go() {
    let vm = small_vm(128 * PAGE as u64);
    let r = Rig::new(&vm);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let flush = Lock { ret: Return::All, flush: true, lock: None };
            let mut id = 1000;
            while !done.load(SeqCst) {
                assert_eq!(r.lock_request(id, 0, PAGES, flush), Status::Success);
                id += 1;
            }
        });
        for round in 1..=30 {
            for p in 0..PAGES {
                assert_eq!(r.load(p), if round == 1 { 0 } else { (round - 1) * 1000 + p }, "page {p}");
                r.store(p, round * 1000 + p);
            }
        }
        done.store(true, SeqCst);
    });
    for p in 0..PAGES {
        assert_eq!(r.load(p), 30_000 + p);
    }
}

/// A VM that ends while its pager calls: the calls end too.
#[test]
fn z115_calls_after_the_end_are_refused() {
    let control = {
        let vm = vm();
        let r = Rig::new(&vm);
        r.store(0, 1);
        r.control.clone()
    };
    let flush = Lock { ret: Return::All, flush: true, lock: None };
    // Nobody is there, or the connection has just ended.
    for id in 0..100 {
        let _ = control.lock_request(id, 0, PAGE as u64, flush);
    }
}

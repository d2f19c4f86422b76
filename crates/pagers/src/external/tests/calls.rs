//! The calls that pagers make: memory_object_lock_request, memory_object_data_supply
//! without a request, memory_object_change_attributes, memory_object_destroy; and what
//! pagers are told.

use super::server::Lock;
use super::*;
use machvm_hal::{
    Attributes, ControlError, ControlId, CopyStrategy, LockRequest, MaySleep, ObjectControl, Return,
    SupplyError,
};

/// Says what it was asked to do.
#[derive(Default)]
struct Core(Mutex<Vec<String>>);

impl Core {
    fn say(&self, text: String) {
        self.0.lock().expect("no panic").push(text);
    }
    fn hears(&self, what: &str) {
        until(what, || self.0.lock().expect("no panic").iter().any(|l| l == what));
    }
}

impl ObjectControl for Core {
    fn ready(&self, _: ControlId, _: Attributes, _: &mut MaySleep) -> Result<(), ControlError> {
        Ok(())
    }
    fn data_supply(
        &self,
        c: ControlId,
        offset: u64,
        data: &[u8],
        lock: Prot,
        how: Supply,
        _: &mut MaySleep,
    ) -> Result<(), SupplyError> {
        assert!(data[..PAGE] == content(offset));
        self.say(format!("supply {} {offset} {} {lock:?} {how:?}", c.0, data.len()));
        if data.len() > PAGE { Err(SupplyError::Present(offset + PAGE_SIZE)) } else { Ok(()) }
    }
    fn data_unavailable(&self, _: ControlId, _: u64, _: u64, _: &mut MaySleep) -> Result<(), ControlError> {
        Ok(())
    }
    fn data_error(
        &self,
        _: ControlId,
        _: u64,
        _: u64,
        _: PagerError,
        _: &mut MaySleep,
    ) -> Result<(), ControlError> {
        Ok(())
    }
    fn lock_request(&self, c: ControlId, r: &LockRequest, _: &mut MaySleep) -> Result<(), ControlError> {
        self.say(format!("lock {} {r:?}", c.0));
        if r.offset == 0 { Ok(()) } else { Err(ControlError::Pager(PagerError::Io)) }
    }
    fn change_attributes(&self, _: ControlId, how: Attributes, _: &mut MaySleep) -> Result<(), ControlError> {
        self.say(format!("change {how:?}"));
        Ok(())
    }
    fn get_attributes(&self, _: ControlId) -> Result<(bool, Attributes), ControlError> {
        Ok((true, Attributes { may_cache: true, copy: CopyStrategy::Call }))
    }
    fn destroy(&self, c: ControlId, _: &mut MaySleep) -> Result<(), ControlError> {
        self.say(format!("destroy {}", c.0));
        Ok(())
    }
}

fn id(n: u64) -> ControlId {
    ControlId(n.try_into().expect("not 0"))
}

/// A server, a client of it with a core, and an object in use with its pager's control.
fn set_up(name: &[u8]) -> (Running, Client, Arc<Core>, Arc<Object>, Control) {
    let server = Running::start();
    let client = server.client();
    let core = Arc::new(Core::default());
    let weak: Kernel = Arc::downgrade(&(Arc::clone(&core) as Arc<dyn ObjectControl + Send + Sync>));
    client.set_kernel(weak).expect("a thread");
    let object = client.open(name).expect("opens").object;
    object.init(id(5), 1 << 20);
    let control = server.controls.lock().expect("no panic")[0].clone();
    (server, client, core, object, control)
}

#[test]
fn e15_e16_lock_requests_are_carried_out_and_completed() {
    let (server, _client, core, _object, control) = set_up(b"data");
    let how = Lock { ret: Return::Dirty, flush: true, lock: Some(Prot::W) };
    control.lock_request(9, 0, 2 * PAGE_SIZE, how).expect("sent");
    let r = LockRequest { offset: 0, bytes: 8192, ret: Return::Dirty, flush: true, lock: Some(Prot::W) };
    core.hears(&format!("lock 5 {r:?}"));
    server.hears("LockCompleted(9, Success)");
    let how = Lock { ret: Return::All, flush: false, lock: None };
    control.lock_request(10, PAGE_SIZE, PAGE_SIZE, how).expect("sent");
    let r = LockRequest { offset: 4096, bytes: 4096, ret: Return::All, flush: false, lock: None };
    core.hears(&format!("lock 5 {r:?}"));
    server.hears("LockCompleted(10, Error)");
}

#[test]
fn e06_e07_supply_without_a_request_is_completed() {
    let (server, _client, core, _object, control) = set_up(b"data");
    let data = |pages: u64| (0..pages).flat_map(|i| content((8 + i) * PAGE_SIZE)).collect::<Vec<_>>();
    control.supply(8 * PAGE_SIZE, &data(1), Prot::W, true).expect("sent");
    core.hears(&format!("supply 5 32768 4096 {:?} Precious", Prot::W));
    server.hears("SupplyCompleted(0, Success, 0)");
    // Z113: it stops at what is there.
    control.supply(8 * PAGE_SIZE, &data(3), Prot::NONE, false).expect("sent");
    server.hears("SupplyCompleted(0, Present, 36864)");
    // Slots come back: more of them than there are.
    for _ in 0..3 * ring::PAGER_SLOTS {
        until("a free slot", || control.supply(8 * PAGE_SIZE, &data(2), Prot::NONE, false).is_ok());
    }
    let bad = control.supply(0, &[0; 100], Prot::NONE, false).expect_err("no whole page");
    assert_eq!(bad.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn e17_e18_e20_attributes_are_changed_and_read() {
    let (server, _client, core, object, control) = set_up(b"data");
    let how = Attributes { may_cache: true, copy: CopyStrategy::None };
    control.change_attributes(3, how).expect("sent");
    core.hears(&format!("change {how:?}"));
    server.hears("ChangeCompleted(3, Success)");
    assert_eq!(object.attributes(), how);
    control.get_attributes(4).expect("sent");
    server.hears("Attributes(4, Success, true, Attributes { may_cache: true, copy: Call })");
}

#[test]
fn e04_destroy_ends_waiting_and_every_later_request() {
    let (server, client, core, object, control) = set_up(b"kept:a");
    std::thread::scope(|s| {
        let waiting = s.spawn(|| page_in(&object, 1, 0).0);
        until("the request", || server.held.lock().expect("no panic").len() == 1);
        control.destroy(Status::Gone).expect("sent");
        assert_eq!(waiting.join().expect("no panic"), (0, Err(PagerError::Gone), Prot::NONE));
    });
    core.hears("destroy 5");
    assert_eq!(page_in(&object, 1, 0).0.1, Err(PagerError::Gone));
    assert_eq!(object.page_out(0, &[0; PAGE]), Err(PagerError::Gone));
    // An answer after that is nobody's.
    server.held.lock().expect("no panic").clear();
    let other = client.open(b"data").expect("another object is well");
    assert_eq!(page_in(&other.object, 1, 0).0.1, Ok(Supply::Clean));
}

#[test]
fn e14_e21_e23_e24_what_pagers_are_told() {
    let (server, client, _core, object, _control) = set_up(b"data");
    object.data_unlock(id(5), PAGE_SIZE, PAGE_SIZE, Prot::W);
    server.hears(&format!("unlock 4096 4096 {:?}", Prot::W));
    object.copied(id(5), 0, 2 * PAGE_SIZE);
    server.hears("Copied(0, 8192)");
    object.map(id(5));
    server.hears("Mapped");
    object.last_unmap(id(5));
    server.hears("LastUnmap");
    assert_eq!(object.synchronize(id(5), 0, 100), Ok(()));
    assert!(server.heard("synchronize 0 4096"));
    let full = client.open(b"full").expect("opens").object;
    assert_eq!(full.synchronize(id(5), 0, PAGE_SIZE), Err(PagerError::Io));
}

#[test]
fn calls_for_an_object_that_the_core_does_not_use_are_completed() {
    let (server, _client, core, object, control) = set_up(b"data");
    object.terminated(id(5));
    control.lock_request(1, 0, PAGE_SIZE, Lock { ret: Return::All, flush: true, lock: None }).expect("sent");
    server.hears("LockCompleted(1, Success)");
    control.supply(0, &[0; PAGE], Prot::NONE, false).expect("sent");
    server.hears("SupplyCompleted(0, Gone, 0)");
    assert!(core.0.lock().expect("no panic").is_empty());
}

#[test]
fn without_a_core_calls_are_refused() {
    let server = Running::start();
    let client = server.client();
    let _object = client.open(b"data").expect("opens");
    let control = server.controls.lock().expect("no panic")[0].clone();
    control.lock_request(1, 0, PAGE_SIZE, Lock { ret: Return::All, flush: true, lock: None }).expect("sent");
    server.hears("LockCompleted(1, Unsupported)");
}

//! Objects, pages in and out: memory_object_init to memory_object_data_error of the
//! OSF Mach kernel interface manual.

use super::*;
use machvm_hal::{ControlId, PageOut, PageOutSource};

#[test]
fn e01_e02_an_object_is_ready_with_its_size_and_rights() {
    let server = Running::start();
    let client = server.client();
    assert_eq!(client.instance(), 42);
    let opened = client.open(b"data").expect("opens");
    assert_eq!((opened.offset, opened.size, opened.rights), (0, 1 << 30, Prot::ALL));
    let again = client.open(b"data").expect("opens");
    assert!(Arc::ptr_eq(&opened.object, &again.object), "one name, one object (Z120)");
    assert_eq!(server.log.lock().expect("no panic").iter().filter(|l| *l == "init data").count(), 1);
    assert_eq!(client.open(b"nothing").expect_err("refused"), OpenError::Refused(Status::Unknown));
    assert_eq!(client.open(b"secret").expect_err("refused"), OpenError::Refused(Status::Denied));
    assert_eq!(client.open(b"").expect_err("refused"), OpenError::Name);
    assert_eq!(client.open(&[b'x'; 1025]).expect_err("refused"), OpenError::Name);
    assert!(client.open(&[b'x'; 1024]).is_ok());
}

#[test]
fn e03_the_pager_is_told_when_nobody_has_an_object() {
    let server = Running::start();
    let client = server.client();
    let opened = client.open(b"data").expect("opens");
    opened.object.terminate();
    assert!(!server.heard("terminate"), "it is still held");
    drop(opened);
    server.hears("terminate data");
    // Z115: a later use is a new one.
    let again = client.open(b"data").expect("opens");
    assert_eq!(page_in(&again.object, 1, 0).0.1, Ok(Supply::Clean));
    drop((again, client));
    until("the second terminate", || {
        server.log.lock().expect("no panic").iter().filter(|l| *l == "terminate data").count() == 2
    });
}

#[test]
fn e05_e06_requests_of_every_length_get_their_pages() {
    let server = Running::start();
    let client = server.client();
    let object = client.open(b"data").expect("opens").object;
    for pages in 1..=MAX_CLUSTER {
        for first in [0, 3, 1000] {
            let at = first * PAGE_SIZE;
            let (done, data) = page_in(&object, pages, at);
            assert_eq!(done, (pages, Ok(Supply::Clean), Prot::NONE));
            for i in 0..pages {
                assert!(data[i * PAGE..][..PAGE] == content(at + (i * PAGE) as u64), "page {i} of {pages}");
            }
        }
    }
    let stats = client.stats();
    assert_eq!((stats.pending, stats.stray, stats.misfits, stats.timeouts), (0, 0, 0, 0));
    assert_eq!(object.traffic().pages_in, 3 * (1..=16).sum::<u64>());
}

#[test]
fn e06_fewer_pages_locks_and_precious_ones() {
    let server = Running::start();
    let client = server.client();
    let get = |name: &[u8], pages| page_in(&client.open(name).expect("opens").object, pages, 0);
    let (done, data) = get(b"parts", 8);
    assert_eq!(done, (1, Ok(Supply::Clean), Prot::NONE));
    assert!(data[..PAGE] == content(0) && data[PAGE..].iter().all(|b| *b == 0));
    assert_eq!(get(b"locked", 2).0, (2, Ok(Supply::Clean), Prot::W));
    assert_eq!(get(b"precious", 2).0, (2, Ok(Supply::Precious), Prot::NONE));
    // The slot has the bytes of earlier requests: what is not given is zero.
    let (done, data) = get(b"short", 3);
    assert_eq!(done, (1, Ok(Supply::Clean), Prot::NONE));
    assert!(data[..100].iter().all(|b| *b == 7) && data[100..PAGE].iter().all(|b| *b == 0));
}

#[test]
fn e09_e10_no_data_and_errors() {
    let server = Running::start();
    let client = server.client();
    let get = |name: &[u8], at| page_in(&client.open(name).expect("opens").object, 2, at);
    let (done, data) = get(b"holes", 0);
    assert_eq!(done, (2, Ok(Supply::Clean), Prot::NONE));
    assert!(data.iter().all(|b| *b == 0));
    assert_eq!(get(b"errors", 0).0, (0, Err(PagerError::Io), Prot::NONE));
    assert_eq!(get(b"dropped", 0).0, (0, Err(PagerError::Io), Prot::NONE));
    assert_eq!(get(b"beyond", 4 * PAGE_SIZE).0, (0, Err(PagerError::Beyond), Prot::NONE));
    let errors = client.open(b"errors").expect("opens").object;
    assert!(page_in(&errors, 1, 7 * PAGE_SIZE).0.1.is_err());
    assert_eq!(errors.traffic().last_error, Some(7 * PAGE_SIZE));
    assert_eq!(page_in(&errors, 1, 5).0.1, Err(PagerError::Beyond), "no whole page");
    assert_eq!(page_in(&errors, 2, u64::MAX - 4095).0.1, Err(PagerError::Beyond), "it wraps");
}

struct Pages;
impl PageOutSource for Pages {
    fn read(&self, page: PageNo, off: usize, buf: &mut [u8]) {
        buf.copy_from_slice(&content(u64::from(page.0.get()))[off..off + buf.len()]);
    }
}

#[test]
fn e11_pages_come_back_and_are_read_again() {
    let server = Running::start();
    let client = server.client();
    let object = client.open(b"data").expect("opens").object;
    assert_eq!(object.page_out(5 * PAGE_SIZE, &[9; PAGE]), Ok(()));
    let (_, data) = page_in(&object, 3, 4 * PAGE_SIZE);
    assert!(data[..PAGE] == content(4 * PAGE_SIZE) && data[PAGE..2 * PAGE].iter().all(|b| *b == 9));
    // A run of modified and precious pages: one message for each kind.
    let control = ControlId(std::num::NonZeroU64::MIN);
    let mut run = PageOut::new(&Pages, Some(control), 32 * PAGE_SIZE, false);
    for n in 1..=16 {
        assert!(run.push(PageNo(NonZeroU32::new(n).expect("not 0")), n <= 10));
    }
    object.page_out_run(&mut run);
    assert!(run.results().all(|(_, r)| r == Ok(())));
    assert!(server.heard(&format!("return {} {} dirty=true first=false", 32 * PAGE, 10 * PAGE)));
    assert!(server.heard(&format!("return {} {} dirty=false first=false", 42 * PAGE, 6 * PAGE)));
    let (_, data) = page_in(&object, 16, 32 * PAGE_SIZE);
    for n in 1..=16 {
        assert!(data[(n - 1) * PAGE..][..PAGE] == content(n as u64), "page {n}");
    }
    assert_eq!(object.traffic().pages_out, 17);
}

#[test]
fn e11_pages_that_are_refused_stay_modified() {
    let server = Running::start();
    let client = server.client();
    let out = |name: &[u8]| client.open(name).expect("opens").object.page_out(0, &[1; PAGE]);
    assert_eq!(out(b"full"), Err(PagerError::Io));
    assert_eq!(out(b"shut"), Err(PagerError::Gone));
    assert_eq!(client.stats().pending, 0);
}

#[test]
fn e22_memory_of_the_kernel_is_kept() {
    let server = Running::start();
    let client = server.client();
    let object = client.create(64 << 20).expect("connected");
    server.hears("create 67108864");
    let mut one = |put: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>| put(0, &[3; PAGE]);
    assert_eq!(object.give_back(0, PAGE_SIZE, wire::DIRTY | wire::INITIALIZE, &mut one), Ok(()));
    assert!(server.heard("return 0 4096 dirty=true first=true"), "E13");
    assert!(page_in(&object, 1, 0).1[..PAGE].iter().all(|b| *b == 3));
}

#[test]
fn e27_a_name_may_stand_for_a_part_of_an_object() {
    let server = Running::start();
    let client = server.client();
    assert_eq!(client.open(b"window").expect_err("of what?"), OpenError::Nonsense);
    let whole = client.open(b"data").expect("opens");
    let part = client.open(b"window").expect("opens");
    assert!(Arc::ptr_eq(&part.object, &whole.object), "there are no two objects with the same pages");
    assert_eq!((part.offset, part.size, part.rights), (8 * PAGE_SIZE, 2 * PAGE_SIZE, Prot::R));
    assert_eq!(client.open(b"outside").expect_err("more than there is"), OpenError::Nonsense);
}

#[test]
fn requests_of_many_threads_do_not_meet() {
    let server = Running::start();
    let client = server.client();
    let object = client.open(b"data").expect("opens").object;
    std::thread::scope(|s| {
        for t in 0..6 {
            let object = &object;
            s.spawn(move || {
                for i in 0..150 {
                    let at = (t * 1000 + i) * PAGE_SIZE;
                    let n = 1 + (i as usize * 7 + t as usize) % MAX_CLUSTER;
                    let (done, data) = page_in(object, n, at);
                    assert_eq!(done.0, n);
                    for p in 0..n {
                        assert!(data[p * PAGE..][..PAGE] == content(at + (p * PAGE) as u64));
                    }
                }
            });
        }
    });
    let stats = client.stats();
    assert_eq!((stats.pending, stats.stray, stats.misfits), (0, 0, 0));
}

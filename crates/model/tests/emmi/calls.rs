//! Requests and their answers (E05 to E13, E23 to E27).

use machvm::task::MemoryEntry;
use machvm_hal::{ControlError, SupplyError};

use super::*;

/// E05, Z71: one request, with the access that waits; the page is busy until the answer.
#[test]
fn e05_one_request_that_says_what_it_is_for() {
    scene(|s| {
        let t = s.task();
        waits_for_page(&t, 5, Prot::W);
        waits_for_page(&t, 5, Prot::R);
        assert_eq!(s.pager.told()[2..], [Told::Request(5, 1, Prot::W)]);
        s.supply(5, 55);
        assert_eq!(byte_of(&t, 5), 55);
        t.store(at(5), &full(56)).expect("store");
        assert_eq!(byte_of(&t, 5), 56);
    });
}

/// E05: a request of several pages is answered page by page, in any order, by several kinds of
/// answers.
#[test]
fn e05_clusters_are_answered_in_pieces() {
    scene(|s| {
        let t = s.task();
        s.pager.answers(Supply::Clean, Prot::NONE);
        (0..3).for_each(|p| assert_eq!(u64::from(byte_of(&t, p)), p));
        s.pager.lock().answer = None;
        s.pager.told();
        // Faults follow one another: several pages are asked for.
        let next = (3..32).find(|p| !t.map.is_resident(va(*p), &mut may())).expect("some");
        waits_for_page(&t, next, Prot::R);
        let told = s.pager.told();
        let [Told::Request(first, n @ 4.., _)] = told[..] else { panic!("one request: {told:?}") };
        assert_eq!(first, next);
        let (c, end) = (s.pager.control(), first + n as u64);
        s.supply(end - 1, 200);
        s.vm.data_error(c, off(first + 1), off(1), PagerError::Io, &mut may()).expect("alive");
        s.vm.data_unavailable(c, off(first + 2), off(1), &mut may()).expect("alive");
        waits_for_page(&t, first, Prot::R);
        s.supply(first, 201);
        assert_eq!([first, first + 2, end - 1].map(|p| byte_of(&t, p)), [201, 0, 200]);
        assert_eq!(first_byte(&t, first + 1), Err(FaultError::PagerIo(va(first + 1))));
        assert_eq!(s.pager.told(), []);
    });
}

/// E06, E07, E08, Z113: what is there already stops a supply, and stays; what came before stays.
#[test]
fn e06_e07_e08_z113_supply_stops_at_a_present_page() {
    scene(|s| {
        let t = s.task();
        let c = s.pager.control();
        waits_for_page(&t, 3, Prot::R);
        s.supply(5, 50);
        let data: Vec<u8> = (2..8).flat_map(|p| full(p + 10)).collect();
        let done = s.vm.data_supply(c, off(2), &data, Prot::NONE, Supply::Clean, &mut may());
        assert_eq!(done, Err(SupplyError::Present(off(5))));
        let got: Vec<u8> = (2..6).map(|p| byte_of(&t, p)).collect();
        assert_eq!(got, [12, 13, 14, 50]);
        waits_for_page(&t, 6, Prot::R);
        let told = s.pager.told();
        assert_eq!(told[2..], [Told::Request(3, 1, Prot::R), Told::Request(6, 1, Prot::R)]);
    });
}

/// E06: arguments.
#[test]
fn e06_bad_arguments_do_nothing() {
    scene(|s| {
        let t = s.task();
        let c = s.pager.control();
        waits_for_page(&t, 0, Prot::R);
        let (clean, none) = (Supply::Clean, Prot::NONE);
        for (offset, len) in [(1, PAGE), (0, PAGE - 1), (0, 1), (u64::MAX - 4095, PAGE)] {
            let done = s.vm.data_supply(c, offset, &vec![9; len], none, clean, &mut may());
            assert_eq!(done, Err(SupplyError::Argument), "{offset} {len}");
        }
        for (offset, bytes) in [(1, PAGE_SIZE), (0, 1), (PAGE_SIZE, u64::MAX - 4095)] {
            assert_eq!(s.vm.data_unavailable(c, offset, bytes, &mut may()), Err(ControlError::Argument));
            let error = s.vm.data_error(c, offset, bytes, PagerError::Io, &mut may());
            assert_eq!(error, Err(ControlError::Argument));
        }
        // Beyond what the object can have.
        let far = s.vm.data_supply(c, 1 << 61, &full(1), none, clean, &mut may());
        assert_eq!(far, Err(SupplyError::NoMemory(1 << 61)));
        waits_for_page(&t, 0, Prot::R);
        s.vm.data_supply(c, 0, &[], none, clean, &mut may()).expect("nothing to take");
        s.supply(0, 1);
        assert_eq!(byte_of(&t, 0), 1);
    });
}

/// E06: pages that nobody asked for are the first to go; those asked for are in use.
#[test]
fn e06_where_supplied_pages_queue() {
    scene(|s| {
        let t = s.task();
        waits_for_page(&t, 1, Prot::R);
        let before = s.vm.statistics();
        s.supply(1, 1);
        s.supply(2, 2);
        let after = s.vm.statistics();
        assert_eq!((after.active - before.active, after.inactive - before.inactive), (1, 1));
        assert_eq!(s.pager.told()[2..], [Told::Request(1, 1, Prot::R)]);
        assert_eq!(byte_of(&t, 2), 2, "without a request");
        assert_eq!(s.pager.told(), []);
    });
}

/// E06, E11: a precious page goes back although nobody wrote it; others are just dropped.
#[test]
fn e06_e11_precious_pages_go_back() {
    scene_with(Some(Attributes::default()), 64, |s| {
        let t = s.task();
        for p in 0..4 {
            let how = if p % 2 == 0 { Supply::Precious } else { Supply::Clean };
            s.supply_as(p, p as u8 + 1, Prot::NONE, how);
            assert_eq!(u64::from(byte_of(&t, p)), p + 1);
        }
        t.store(at(2), &full(33)).expect("store");
        s.pager.told();
        while s.vm.pageout(64, &mut may()) != 0 {}
        let mut told = s.pager.told();
        told.sort_by_key(|t| match t {
            Told::Return(p, ..) => *p,
            _ => u64::MAX,
        });
        assert_eq!(told, [Told::Return(0, 1, false, false), Told::Return(2, 33, true, false)]);
    });
}

/// E09: zero where there is no data; only pages that wait are touched.
#[test]
fn e09_unavailable_data_is_zero() {
    scene(|s| {
        let t = s.task();
        let c = s.pager.control();
        waits_for_page(&t, 1, Prot::R);
        s.supply(2, 22);
        s.vm.data_unavailable(c, 0, off(16), &mut may()).expect("alive");
        assert_eq!((byte_of(&t, 1), byte_of(&t, 2)), (0, 22));
        t.store(at(1), &[5]).expect("store");
        waits_for_page(&t, 3, Prot::W);
        s.vm.data_unavailable(c, off(3), off(1), &mut may()).expect("alive");
        t.store(at(3), &full(3)).expect("store");
        assert_eq!((first_byte(&t, 1), byte_of(&t, 3)), (Ok(5), 3));
    });
}

/// E10, Z121: an error for who waits, and a new request after it.
#[test]
fn e10_z121_errors_are_told_and_forgotten() {
    scene(|s| {
        let t = s.task();
        let c = s.pager.control();
        waits_for_page(&t, 1, Prot::R);
        s.supply(2, 22);
        s.vm.data_error(c, 0, off(16), PagerError::Io, &mut may()).expect("alive");
        assert_eq!(go(&t, 1, Prot::R), Err(FaultError::PagerIo(va(1))));
        assert_eq!(byte_of(&t, 2), 22, "nobody waited for it");
        s.pager.told();
        waits_for_page(&t, 1, Prot::R);
        assert_eq!(s.pager.told(), [Told::Request(1, 1, Prot::R)]);
        s.supply(1, 11);
        assert_eq!(byte_of(&t, 1), 11);
    });
}

/// E11, E12: what msync writes goes in runs, with what is known of each page; what the pager
/// refuses stays modified.
#[test]
fn e11_e12_e23_runs_of_pages_go_back() {
    scene(|s| {
        let t = s.task();
        s.pager.answers(Supply::Clean, Prot::NONE);
        for p in [1, 2, 3, 7] {
            t.store(at(p), &full(p as u8 + 50)).expect("store");
        }
        s.pager.told();
        t.map.sync(pages(0, 16), false, &mut may()).expect("sync");
        let back = |p: u64| Told::Return(p, p as u8 + 50, true, true);
        assert_eq!(s.pager.told(), [back(1), back(2), back(3), back(7), Told::Synchronize(0, 16)]);
        t.map.sync(pages(0, 16), false, &mut may()).expect("sync");
        assert_eq!(s.pager.told(), [Told::Synchronize(0, 16)], "clean now");
        t.store(at(2), &full(80)).expect("store");
        s.pager.lock().refuse = true;
        let refused = t.map.sync(pages(0, 16), true, &mut may());
        assert_eq!(refused, Err(machvm::map::SyncError::Pager(va(0), PagerError::Io)));
        s.pager.lock().refuse = false;
        assert_eq!(byte_of(&t, 2), 80, "not lost");
        s.pager.told();
        t.map.sync(pages(2, 1), false, &mut may()).expect("sync");
        assert_eq!(s.pager.told(), [Told::Return(2, 80, true, true), Told::Synchronize(2, 1)]);
    });
}

/// msync(2) with MS_ASYNC, `VM_SYNC_ASYNCHRONOUS`: the pager has the pages, and nobody waits for
/// what it does with them.
#[test]
fn e23_m37_u29_starting_does_not_wait_for_the_end() {
    scene(|s| {
        let t = s.task();
        s.pager.answers(Supply::Clean, Prot::NONE);
        t.store(at(3), &full(60)).expect("store");
        s.pager.told();
        t.map.sync_as(pages(0, 16), machvm::map::SyncHow::START, &mut may()).expect("sync");
        assert_eq!(s.pager.told(), [Told::Return(3, 60, true, true)]);
        t.map.sync_as(pages(0, 16), machvm::map::SyncHow::empty(), &mut may()).expect("sync");
        assert_eq!(s.pager.told(), [Told::Synchronize(0, 16)]);
    });
}

/// E24: the pager knows when its object has users.
#[test]
fn e24_first_and_last_use() {
    scene_with(Some(may_cache()), 256, |s| {
        let t = s.task();
        let u = s.task();
        assert_eq!(s.pager.told(), [Told::Init, Told::Map]);
        drop(t);
        assert_eq!(s.pager.told(), []);
        drop(u);
        assert_eq!(s.pager.told(), [Told::LastUnmap]);
        drop(s.task());
        assert_eq!(s.pager.told(), [Told::Map, Told::LastUnmap]);
    });
}

/// E27: entries are proxies: a window and a mask of rights, of which every mapping is a part.
/// Entries of the same pager have the same object.
#[test]
fn e27_windows_on_an_object() {
    scene(|s| {
        s.pager.answers(Supply::Clean, Prot::NONE);
        let all = MemoryEntry::of_pager(s.vm, s.id, off(32), Prot::RW, &mut may()).expect("memory");
        let again = MemoryEntry::of_pager(s.vm, s.id, off(8), Prot::R, &mut may()).expect("memory");
        assert_eq!(s.pager.told(), [Told::Init, Told::Map]);
        drop((all, again));
        assert_eq!(s.pager.told(), [Told::LastUnmap, Told::Terminated]);
    });
}

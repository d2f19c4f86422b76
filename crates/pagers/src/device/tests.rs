//! Ranges, lookups and lists (rows G02, G04, G14, G16, G17). What the pagers answer to the core is
//! in the tests of the model.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::DeadPager;

const PAGE: u64 = PAGE_SIZE;

/// Frame 0x1000 on, but for page 3; notes how often it was opened and closed.
#[derive(Debug)]
struct Board<'a>(&'a [AtomicU32; 2], bool);
impl Device for Board<'_> {
    fn open(&self, _: u64, _: Prot) -> bool {
        self.0[0].fetch_add(1, SeqCst);
        self.1
    }
    fn frames(&self, offset: u64, _: Prot) -> Option<DeviceFrames> {
        let page = offset >> PAGE_SHIFT;
        let pages = if page < 3 { 3 - page } else { 1000 };
        let first = Pfn(0x1000 + page);
        (page != 3).then_some(DeviceFrames { first, pages, attr: MemAttr::Device })
    }
    fn close(&self) {
        self.0[1].fetch_add(1, SeqCst);
    }
}
fn counts(c: &[AtomicU32; 2]) -> [u32; 2] {
    [c[0].load(SeqCst), c[1].load(SeqCst)]
}

/// FreeBSD's cdev_pager_allocate(9): EINVAL for ranges that wrap, null when the constructor
/// refuses; an object that there is grows.
#[test]
fn g14_ranges_are_checked_and_grow() {
    let c = <[AtomicU32; 2]>::default();
    for (offset, bytes) in [(0, 0), (u64::MAX, 1), (u64::MAX - PAGE + 2, PAGE), (1 << 63, 1 << 63)] {
        let made = DevicePager::allocate(Board(&c, true), offset, bytes, Prot::RW);
        assert_eq!(made.err(), Some(DeviceError::Range), "{offset:#x} {bytes:#x}");
    }
    assert_eq!(counts(&c), [0, 0], "the device was not asked");
    let refused = DevicePager::allocate(Board(&c, false), 0, PAGE, Prot::RW);
    assert_eq!(refused.err(), Some(DeviceError::Refused));
    assert_eq!(counts(&c), [1, 0]);
    let pager = DevicePager::allocate(Board(&c, true), PAGE, 1, Prot::R).expect("a device");
    assert_eq!(pager.bytes(), 2 * PAGE);
    assert_eq!(pager.frames(2 * PAGE, Prot::R), Err(PagerError::Beyond));
    assert_eq!(pager.has_page(2 * PAGE), HasPage::No);
    pager.grow(0, 6 * PAGE).expect("more");
    pager.grow(0, 1).expect("it stays");
    assert_eq!(pager.grow(1 << 63, 1 << 63), Err(DeviceError::Range));
    assert_eq!(pager.has_page(2 * PAGE), HasPage::Yes { before: 2, after: 3 });
    let frames = |page| pager.frames(page * PAGE, Prot::R).map(|f| (f.first.0, f.pages));
    assert_eq!(frames(1), Ok((0x1001, 2)));
    assert_eq!(frames(3), Err(PagerError::Gone), "the device has none there");
    assert_eq!(frames(4), Ok((0x1004, 2)), "no more than may be mapped");
    drop(pager);
    assert_eq!(counts(&c), [2, 1]);
}

#[test]
fn g02_g04_g14_a_handle_has_one_pager() {
    let c = <[AtomicU32; 2]>::default();
    let all = Devices::default();
    assert!(all.lookup(&7).is_none());
    let make = || Board(&c, true);
    let one = all.allocate(7, (0, PAGE), Prot::RW, make).expect("a device");
    let two = all.allocate(7, (0, 9 * PAGE), Prot::RW, || -> Board<'_> { panic!("there is one") });
    assert!(Arc::ptr_eq(&one, &two.expect("the same")));
    assert!(all.lookup(&7).is_some_and(|p| Arc::ptr_eq(&one, &p)));
    assert_eq!(one.bytes(), 9 * PAGE);
    assert_eq!(all.allocate(7, (1, u64::MAX), Prot::R, make).err(), Some(DeviceError::Range));
    let other = all.allocate(8, (0, PAGE), Prot::RW, make).expect("a device");
    assert!(!Arc::ptr_eq(&one, &other));
    drop(one);
    assert!(all.lookup(&7).is_none(), "dead ones are passed over");
    assert_eq!(counts(&c), [2, 1]);
    let again = all.allocate(7, (0, PAGE), Prot::RW, make).expect("a device");
    assert_eq!((again.bytes(), counts(&c)), (PAGE, [3, 1]));
}

/// Threads that come at once get one device, which is opened and closed once.
#[test]
fn g02_a_race_of_makers_has_one_winner() {
    let (c, all) = (<[AtomicU32; 2]>::default(), Devices::default());
    for round in 1..=50 {
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|s| {
            let make = || {
                start.wait();
                all.allocate((), (0, PAGE), Prot::RW, || Board(&c, true)).expect("a device")
            };
            let made: Vec<_> = (0..4).map(|_| s.spawn(make)).collect();
            let made: Vec<_> = made.into_iter().map(|t| t.join().expect("no panic")).collect();
            assert!(made.iter().all(|p| Arc::ptr_eq(p, &made[0])));
        });
        assert_eq!(counts(&c), [round, round]);
    }
}

#[test]
fn g16_lists_of_frames() {
    let list = |l: &[(u64, u64)]| SgPager::new(l.iter().map(|(f, n)| (Pfn(*f), *n)), MemAttr::Device);
    assert!(list(&[]).is_none() && list(&[(5, 0)]).is_none());
    assert!(list(&[(u64::MAX, 2)]).is_none() && list(&[(0, 1 << 51), (0, 1 << 51)]).is_none());
    let sg = list(&[(100, 2), (7, 0), (50, 3), (102, 1)]).expect("frames");
    assert_eq!(sg.pages(), 6);
    let at = |page: u64| sg.frames(page * PAGE, Prot::R).map(|f| (f.first.0, f.pages));
    let want = [(100, 2), (101, 1), (50, 3), (51, 2), (52, 1), (102, 1)];
    for (page, want) in want.into_iter().enumerate() {
        assert_eq!(at(page as u64), Ok(want), "page {page}");
    }
    for page in [6, 7, 1 << 40, (1 << 52) - 1] {
        assert_eq!(at(page), Err(PagerError::Beyond), "page {page}");
        assert_eq!(sg.has_page(page * PAGE), HasPage::No);
    }
    assert_eq!(sg.has_page(5 * PAGE), HasPage::Yes { before: 5, after: 0 });
}

#[test]
fn g17_nothing_comes_from_the_dead() {
    assert_eq!(DeadPager.page_out(0, &[0; PAGE as usize]), Err(PagerError::Gone));
    assert_eq!(DeadPager.has_page(0), HasPage::No);
    assert_eq!(DeadPager.frames(0, Prot::R), Err(PagerError::Gone));
}

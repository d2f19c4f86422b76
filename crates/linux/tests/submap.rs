//! Submaps on Linux (M20): two windows of this process show one map. Memory is touched by
//! system calls, which fail where the kernel finds no page; then the fault is asked for.

use machvm::fault::Fault;
use machvm::map::{Attributes, Backing, Map, SetProt};
use machvm::{FaultError, Vm};
use machvm_hal::{MaySleep, PAGE_SIZE, Pmap, Prot, RawAddr, Va, VaRange};
use machvm_linux::platform::Linux;
use machvm_linux::pmap::{Config, Window};
use machvm_linux::uffd::Mode;

fn may() -> MaySleep {
    MaySleep::claim()
}

/// A map over a window of its own of this process.
fn window(vm: &Vm<Linux>, pages: u64, shown: bool) -> Map<'_, Linux> {
    let pmap = vm.platform().pv().pmap(Window::Reserve(pages)).expect("addresses");
    let bounds = pmap.window();
    if shown { Map::new_submap(vm, pmap, bounds).expect("memory") } else { Map::new(vm, pmap, bounds) }
}
fn part(m: &Map<'_, Linux>, first: u64, pages: u64) -> VaRange {
    VaRange::of_pages(m.min().add(first), pages).expect("inside")
}
fn at(m: &Map<'_, Linux>, page: u64) -> Va {
    m.min().add(page)
}

/// One word of this process through the kernel; `false`: there is no page for that.
fn move_word(va: Va, word: &mut u64, write: bool) -> bool {
    let mine = libc::iovec { iov_base: core::ptr::from_mut(word).cast(), iov_len: 8 };
    let there = libc::iovec { iov_base: va.get() as *mut libc::c_void, iov_len: 8 };
    // SAFETY: both vectors are one good element; the kernel checks what it finds at the other
    // address, which no Rust object lies at.
    let done = unsafe {
        let (me, one) = (libc::getpid(), 1);
        if write {
            libc::process_vm_writev(me, &raw const mine, one, &raw const there, one, 0)
        } else {
            libc::process_vm_readv(me, &raw const mine, one, &raw const there, one, 0)
        }
    };
    done == 8
}
fn touch(m: &Map<'_, Linux>, page: u64, word: &mut u64, write: bool) -> Result<(), FaultError> {
    let va = at(m, page);
    for _ in 0..10 {
        if move_word(va, word, write) {
            return Ok(());
        }
        let access = if write { Prot::W } else { Prot::R };
        m.fault(&Fault { addr: RawAddr(va.get()), access }, &mut may())?;
    }
    panic!("{va:?} faults for ever")
}
fn load(m: &Map<'_, Linux>, page: u64) -> Result<u64, FaultError> {
    let mut word = 0;
    touch(m, page, &mut word, false).map(|()| word)
}
fn store(m: &Map<'_, Linux>, page: u64, mut word: u64) -> Result<(), FaultError> {
    touch(m, page, &mut word, true)
}

#[test]
fn m20_views_are_windows_on_one_memory() {
    let config = Config { mode: Mode::Signal, nonblocking: true, dont_fork: true };
    let vm = Vm::new(Linux::new(256, None, config).expect("userfaultfd")).expect("memory");
    let (a, b, s) = (window(&vm, 64, false), window(&vm, 64, false), window(&vm, 64, true));
    let rw = Attributes::new(Prot::RW);
    let put = |m: &Map<'_, Linux>, first, n, backing| {
        m.insert(part(m, first, n), backing, &rw, &mut may()).expect("free");
    };
    put(&a, 8, 16, Backing::Guard);
    put(&b, 0, 32, Backing::Guard);
    a.submap(part(&a, 8, 16), &s, at(&s, 4), &mut may()).expect("a guard");
    b.submap(part(&b, 0, 32), &s, at(&s, 0), &mut may()).expect("a guard");
    assert_eq!(load(&a, 9), Err(FaultError::NoMapping(at(&a, 9))));
    put(&s, 0, 20, Backing::Anonymous);
    for p in 4..20 {
        assert_eq!(store(&a, p + 4, p * 10), Ok(()), "page {p}");
    }
    for p in 4..20 {
        assert_eq!((load(&b, p), load(&s, p)), (Ok(p * 10), Ok(p * 10)), "page {p}");
    }
    // Rights go, everywhere, and come back.
    s.protect(part(&s, 6, 2), &SetProt::prot(Prot::R), &mut may()).expect("memory");
    assert_eq!(store(&a, 10, 1), Err(FaultError::Protection(at(&a, 10))));
    assert_eq!(store(&b, 7, 1), Err(FaultError::Protection(at(&b, 7))));
    assert_eq!((load(&a, 11), load(&b, 6)), (Ok(70), Ok(60)));
    s.protect(part(&s, 6, 2), &SetProt::prot(Prot::RW), &mut may()).expect("memory");
    assert_eq!((store(&a, 10, 61), load(&b, 6)), (Ok(()), Ok(61)));
    // What is deleted is gone at once: nobody faulted in between.
    s.delete(part(&s, 8, 4), &mut may()).expect("memory");
    let mut word = 0;
    for p in 8..12 {
        assert!(!move_word(at(&b, p), &mut word, false), "page {p} is still there");
        assert_eq!(load(&a, p + 4), Err(FaultError::NoMapping(at(&a, p + 4))));
    }
    // Other memory at the same place: zeroes, in regions that were made again.
    put(&s, 8, 4, Backing::Anonymous);
    assert_eq!((load(&a, 12), load(&b, 11), load(&b, 12)), (Ok(0), Ok(0), Ok(120)));
    assert_eq!((store(&b, 9, 5), load(&a, 13)), (Ok(()), Ok(5)));
    // A copy through a view stays as it is.
    put(&a, 40, 8, Backing::Anonymous);
    a.copy_range(part(&a, 16, 4), &a, at(&a, 41), &mut may()).expect("readable");
    assert_eq!(store(&b, 13, 9), Ok(()));
    assert_eq!((load(&a, 42), load(&a, 17)), (Ok(130), Ok(9)));
    // The views end one after the other.
    a.delete(part(&a, 0, 64), &mut may()).expect("memory");
    assert_eq!((load(&b, 13), s.views()), (Ok(9), 1));
    drop(s);
    assert_eq!(load(&b, 9), Ok(5));
    b.delete(part(&b, 0, 64), &mut may()).expect("memory");
    assert_eq!((vm.submaps(), vm.live()), (0, [0; 6]), "left over");
    assert_eq!(PAGE_SIZE, 4096);
    assert_eq!((a.pmap().resident_count(), b.pmap().resident_count()), (0, 0));
}

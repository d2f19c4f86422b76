//! The core on the real MMU: spaces whose memory is touched, and whose faults the core serves.

use machvm::FaultError;
use machvm::fault::Fault;
use machvm::map::{Attributes, Backing, Holes, SetProt, Wiring};
use machvm_hal::{CpuId, MaySleep, PAGE_SIZE, Pmap as _, Prot, RawAddr, Va, VaRange};

use crate::arch;
use crate::embed::{the_vm, unload_pmap};
use crate::process::{Space, bounds, new_pmap};

/// Where tests have their memory.
const AT: u64 = 1 << 32;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn range(pages: u64) -> VaRange {
    VaRange::of_pages(Va::containing(RawAddr(AT)), pages).expect("a range")
}
fn space() -> Space {
    Space::alloc(the_vm(), new_pmap().expect("memory for a pmap"), bounds())
}
fn end(s: Space) {
    s.exit(|| unload_pmap(CpuId(0)), &mut may());
}
/// A space with memory of zeroes at [`AT`].
fn with_memory(pages: u64) -> Space {
    let s = space();
    let a = Attributes::new(Prot::RW);
    s.map().insert(range(pages), Backing::Anonymous, &a, &mut may()).expect("room");
    s
}

/// Stores at a program's address.
fn put(at: u64, word: u64) -> Option<()> {
    assert!(at < arch::USER_END);
    // SAFETY: programs' addresses are the tests' alone: there are no programs.
    unsafe { arch::store(at, word) }
}

/// Loads a word of a page, or stores one; the core serves the faults.
fn touch(s: &Space, page: u64, store: Option<u64>) -> Result<u64, FaultError> {
    let at = AT + page * PAGE_SIZE;
    for _ in 0..8 {
        s.map().pmap().activate(CpuId(0));
        let done = match store {
            Some(word) => put(at, word).map(|()| word),
            None => arch::load(at),
        };
        if let Some(word) = done {
            return Ok(word);
        }
        let access = if store.is_some() { Prot::W } else { Prot::R };
        s.map().fault(&Fault { addr: RawAddr(at), access }, &mut may())?;
    }
    panic!("page {page} faults for ever, and the core says that it served it")
}
fn load(s: &Space, page: u64) -> u64 {
    touch(s, page, None).expect("a page that can be read")
}
fn store(s: &Space, page: u64, word: u64) {
    touch(s, page, Some(word)).expect("a page that can be written");
}

fn new_memory_is_zero_and_keeps_what_is_stored() {
    let s = with_memory(64);
    (0..64).for_each(|i| assert_eq!(load(&s, i), 0, "page {i}"));
    (0..64).for_each(|i| store(&s, i, i * 3 + 1));
    (0..64).for_each(|i| assert_eq!(load(&s, i), i * 3 + 1, "page {i}"));
    end(s);
}

fn rights_taken_away_are_gone_at_once() {
    let s = with_memory(4);
    (0..4).for_each(|i| store(&s, i, 5));
    s.map().protect(range(4), &SetProt::prot(Prot::R), &mut may()).expect("inside");
    assert_eq!(put(AT, 6), None, "the MMU lets a store through");
    assert!(matches!(touch(&s, 0, Some(6)), Err(FaultError::Protection(_))));
    assert_eq!(load(&s, 3), 5);
    s.map().protect(range(4), &SetProt::prot(Prot::RW), &mut may()).expect("inside");
    store(&s, 0, 7);
    assert_eq!(load(&s, 0), 7);
    end(s);
}

fn what_was_removed_is_not_there() {
    let s = with_memory(4);
    (0..4).for_each(|i| store(&s, i, 9));
    s.map().delete(range(2), &mut may()).expect("memory to cut an entry");
    assert_eq!(arch::load(AT), None, "the MMU finds what was removed");
    assert!(matches!(touch(&s, 1, None), Err(FaultError::NoMapping(_))));
    assert_eq!(load(&s, 2), 9);
    end(s);
}

fn a_child_and_its_parent_copy_when_they_write() {
    let s = with_memory(32);
    (0..32).for_each(|i| store(&s, i, i));
    let child = s.fork(new_pmap().expect("memory for a pmap"), &mut may()).expect("memory for a child");
    (0..8).for_each(|i| store(&s, i, 100 + i));
    (8..16).for_each(|i| store(&child, i, 200 + i));
    for i in 0..32 {
        assert_eq!(load(&s, i), if i < 8 { 100 + i } else { i }, "the parent's page {i}");
        assert_eq!(load(&child, i), if (8..16).contains(&i) { 200 + i } else { i }, "the child's page {i}");
    }
    end(s);
    (16..32).for_each(|i| store(&child, i, 300 + i));
    (16..32).for_each(|i| assert_eq!(load(&child, i), 300 + i));
    end(child);
}

fn wired_memory_does_not_fault() {
    let s = with_memory(16);
    s.map().wire(range(16), Wiring::User, Holes::Refuse, &mut may()).expect("memory to wire");
    s.map().pmap().activate(CpuId(0));
    for i in 0..16 {
        assert_eq!(arch::load(AT + i * PAGE_SIZE), Some(0), "page {i} faults");
        assert_eq!(put(AT + i * PAGE_SIZE, i), Some(()), "page {i} faults");
    }
    s.map().unwire(range(16), Wiring::User, Holes::Refuse, &mut may()).expect("wired");
    end(s);
}

/// Without swap (`swap=pool:8M`) nothing needs to go.
fn what_was_paged_out_comes_back(has_swap: bool) {
    let s = with_memory(256);
    (0..256).for_each(|i| store(&s, i, i ^ 0x5555));
    s.map().deactivate(range(256), &mut may());
    let freed = the_vm().pageout(128, &mut may());
    assert!(!has_swap || freed > 0, "nothing was paged out");
    (0..256).for_each(|i| assert_eq!(load(&s, i), i ^ 0x5555, "page {i}"));
    end(s);
}

/// Runs all; gives how many.
pub(super) fn run(has_swap: bool) -> usize {
    let all: [(&str, fn()); 5] = [
        ("new_memory_is_zero_and_keeps_what_is_stored", new_memory_is_zero_and_keeps_what_is_stored),
        ("rights_taken_away_are_gone_at_once", rights_taken_away_are_gone_at_once),
        ("what_was_removed_is_not_there", what_was_removed_is_not_there),
        ("a_child_and_its_parent_copy_when_they_write", a_child_and_its_parent_copy_when_they_write),
        ("wired_memory_does_not_fault", wired_memory_does_not_fault),
    ];
    // The systems of pmaps of other tests had the CPU; the kernel's own takes it back.
    crate::embed::use_own_pmaps();
    for (name, test) in all {
        test();
        crate::say!("machvm: selftest {name} ... ok");
    }
    what_was_paged_out_comes_back(has_swap);
    crate::say!("machvm: selftest what_was_paged_out_comes_back ... ok");
    all.len() + 1
}

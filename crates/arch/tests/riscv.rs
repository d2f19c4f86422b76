//! The instructions of every flush sequence of RISC-V, one by one.

use std::sync::Mutex;

use machvm_arch::{Asid, Mode, Riscv, RiscvIsa, Space, Tlb};
use machvm_hal::{Pfn, RawAddr, Va, VaRange};

use Insn::{Fence, Satp, Sfence};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Insn {
    /// Address and number; `None` is x0.
    Sfence(Option<u64>, Option<u16>),
    Fence,
    Satp(u64),
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Insn>>);

impl Recorder {
    fn push(&self, insn: Insn) {
        self.0.lock().unwrap().push(insn);
    }
}

impl RiscvIsa for Recorder {
    fn sfence_vma(&self, va: Option<Va>, asid: Option<Asid>) {
        self.push(Sfence(va.map(Va::get), asid.map(|a| a.0)));
    }
    fn fence(&self) {
        self.push(Fence);
    }
    fn write_satp(&self, value: u64) {
        self.push(Satp(value));
    }
}

type Machine = Riscv<Recorder>;

fn machine(asids: u32) -> Machine {
    Riscv::new(Recorder::default(), Mode::Sv39, asids)
}
fn tagged() -> Machine {
    machine(1 << 16)
}
fn plain() -> Machine {
    machine(1)
}

/// With numbers it does not matter where a space is loaded.
const USER: [Space; 2] =
    [Space::User { asid: Asid(7), current: true }, Space::User { asid: Asid(7), current: false }];
/// Without numbers every space has zero.
const CURRENT_PLAIN: Space = Space::User { asid: Asid(0), current: true };
const OTHER_PLAIN: Space = Space::User { asid: Asid(0), current: false };

const AT: u64 = 0x3f_0000_3000;
const KERNEL_AT: u64 = 0xffff_ffc0_0020_0000;
const MAX: u64 = <Machine as Tlb>::MAX_PAGES;

fn va(a: u64) -> Va {
    Va::aligned(RawAddr(a)).expect("aligned")
}

/// What `f` executed.
fn recorded(m: Machine, f: impl FnOnce(&Machine)) -> Vec<Insn> {
    f(&m);
    m.isa().0.lock().unwrap().clone()
}

fn pages_of(space: Space, pages: u64) -> VaRange {
    let at = if space == Space::Kernel { KERNEL_AT } else { AT };
    VaRange::of_pages(va(at), pages).expect("a range")
}

/// The whole sequence for `pages` pages.
fn flushed(m: Machine, space: Space, pages: u64, walks: bool) -> Vec<Insn> {
    recorded(m, |m| {
        m.before();
        m.flush_range(space, pages_of(space, pages), walks);
        m.after();
    })
}

fn each(at: u64, pages: u64, asid: Option<u16>) -> Vec<Insn> {
    (0..pages).map(|i| Sfence(Some(at + i * 4096), asid)).collect()
}

#[test]
fn it_is_local_and_numbers_are_as_many_as_said() {
    const { assert!(!<Machine as Tlb>::BROADCAST) };
    for asids in [1, 2, 512, 1 << 16] {
        assert_eq!(machine(asids).asids(), asids);
    }
}

#[test]
#[should_panic(expected = "satp.ASID has 0 to 16 bits")]
fn no_numbers_at_all_are_refused() {
    machine(0);
}

#[test]
#[should_panic(expected = "satp.ASID has 0 to 16 bits")]
fn more_numbers_than_bits_are_refused() {
    machine(1 << 17);
}

#[test]
#[should_panic(expected = "satp.ASID has 0 to 16 bits")]
fn a_count_that_no_width_gives_is_refused() {
    machine(100);
}

#[test]
fn user_page_by_page() {
    for pages in [1, 3, MAX] {
        for space in USER {
            assert_eq!(flushed(tagged(), space, pages, false), each(AT, pages, Some(7)));
        }
        assert_eq!(flushed(plain(), CURRENT_PLAIN, pages, false), each(AT, pages, Some(0)));
    }
}

/// An address orders leaf entries only.
#[test]
fn user_walks_are_the_whole_number() {
    for pages in [1, 3, MAX, MAX + 1] {
        for space in USER {
            assert_eq!(flushed(tagged(), space, pages, true), [Sfence(None, Some(7))]);
        }
        assert_eq!(flushed(plain(), CURRENT_PLAIN, pages, true), [Sfence(None, Some(0))]);
    }
}

#[test]
fn user_too_many_pages_are_the_whole_number() {
    for space in USER {
        assert_eq!(flushed(tagged(), space, MAX + 1, false), [Sfence(None, Some(7))]);
    }
    assert_eq!(flushed(plain(), CURRENT_PLAIN, MAX + 1, false), [Sfence(None, Some(0))]);
}

#[test]
fn other_space_without_numbers_has_nothing_here() {
    for walks in [false, true] {
        for pages in [1, MAX, MAX + 1] {
            assert_eq!(flushed(plain(), OTHER_PLAIN, pages, walks), []);
        }
    }
    assert_eq!(recorded(plain(), |m| m.flush_space(OTHER_PLAIN)), []);
}

#[test]
fn two_numbers_tell_spaces_apart() {
    let other = Space::User { asid: Asid(1), current: false };
    assert_eq!(flushed(machine(2), other, 1, false), each(AT, 1, Some(1)));
    assert_eq!(recorded(machine(2), |m| m.switch(Pfn(2), Asid(1), false)).len(), 2);
}

/// A number would leave global translations.
#[test]
fn kernel_page_by_page_under_every_number() {
    for m in [tagged, plain] {
        for pages in [1, 3, MAX] {
            assert_eq!(flushed(m(), Space::Kernel, pages, false), each(KERNEL_AT, pages, None));
        }
    }
}

#[test]
fn kernel_walks_or_too_many_pages_are_everything() {
    for m in [tagged, plain] {
        assert_eq!(flushed(m(), Space::Kernel, 1, true), [Sfence(None, None)]);
        assert_eq!(flushed(m(), Space::Kernel, MAX + 1, false), [Sfence(None, None)]);
        assert_eq!(flushed(m(), Space::Kernel, MAX + 1, true), [Sfence(None, None)]);
    }
}

#[test]
fn spaces() {
    for space in USER {
        assert_eq!(recorded(tagged(), |m| m.flush_space(space)), [Sfence(None, Some(7))]);
    }
    assert_eq!(recorded(plain(), |m| m.flush_space(CURRENT_PLAIN)), [Sfence(None, Some(0))]);
    for m in [tagged, plain] {
        assert_eq!(recorded(m(), |m| m.flush_space(Space::Kernel)), [Sfence(None, None)]);
    }
}

#[test]
fn everything() {
    for m in [tagged, plain] {
        assert_eq!(recorded(m(), Tlb::flush_all), [Sfence(None, None)]);
    }
}

#[test]
fn before_and_after_need_nothing() {
    let done = recorded(tagged(), |m| {
        m.before();
        m.after();
    });
    assert_eq!(done, []);
}

/// Walks may overtake stores and may remember that an entry was not valid.
#[test]
fn publish_is_a_fence() {
    let published =
        |m: Machine, space, pages, walks| recorded(m, |m| m.publish(space, pages_of(space, pages), walks));
    for space in USER {
        assert_eq!(published(tagged(), space, 2, false), each(AT, 2, Some(7)));
        assert_eq!(published(tagged(), space, 2, true), [Sfence(None, Some(7))]);
        assert_eq!(published(tagged(), space, MAX + 1, false), [Sfence(None, Some(7))]);
    }
    assert_eq!(published(plain(), CURRENT_PLAIN, 1, false), each(AT, 1, Some(0)));
    assert_eq!(published(plain(), OTHER_PLAIN, 1, true), []);
    assert_eq!(published(tagged(), Space::Kernel, 2, false), each(KERNEL_AT, 2, None));
    assert_eq!(published(tagged(), Space::Kernel, 1, true), [Sfence(None, None)]);
}

/// What is stale may be an upper entry remembered as not valid: a fence for the address
/// would let the fault come again for ever.
#[test]
fn spurious_is_the_whole_number() {
    assert_eq!(recorded(tagged(), |m| m.spurious(USER[0], va(AT))), [Sfence(None, Some(7))]);
    assert_eq!(recorded(plain(), |m| m.spurious(CURRENT_PLAIN, va(AT))), [Sfence(None, Some(0))]);
    assert_eq!(recorded(tagged(), |m| m.spurious(Space::Kernel, va(KERNEL_AT))), [Sfence(None, None)]);
}

const SATP: u64 = 8 << 60 | 7 << 44 | 0x55;

#[test]
fn switch_keeps_what_the_number_knew() {
    assert_eq!(recorded(tagged(), |m| m.switch(Pfn(0x55), Asid(7), false)), [Fence, Satp(SATP)]);
}

/// After the load: until then walks of the old root may come in under the number.
#[test]
fn switch_flushes_the_number_before_and_after_the_load() {
    let done = recorded(tagged(), |m| m.switch(Pfn(0x55), Asid(7), true));
    assert_eq!(done, [Sfence(None, Some(7)), Fence, Satp(SATP), Sfence(None, Some(7))]);
}

#[test]
fn switch_without_numbers_always_flushes() {
    for flush in [false, true] {
        let done = recorded(plain(), |m| m.switch(Pfn(0x55), Asid(0), flush));
        assert_eq!(done, [Fence, Satp(8 << 60 | 0x55), Sfence(None, Some(0))]);
    }
}

#[test]
fn switch_says_the_mode() {
    for (mode, number) in [(Mode::Sv39, 8), (Mode::Sv48, 9), (Mode::Sv57, 10)] {
        let m = Riscv::new(Recorder::default(), mode, 2);
        assert_eq!(recorded(m, |m| m.switch(Pfn(1), Asid(1), false))[1], Satp(number << 60 | 1 << 44 | 1));
    }
}

/// MODE 63:60, ASID 59:44, PPN 43:0: none spills.
#[test]
fn switch_highest_root_and_number() {
    let m = Riscv::new(Recorder::default(), Mode::Sv57, 1 << 16);
    let done = recorded(m, |m| m.switch(Pfn((1 << 44) - 1), Asid(0xffff), false));
    assert_eq!(done[1], Satp(0xafff_ffff_ffff_ffff));
    let done = recorded(tagged(), |m| m.switch(Pfn((1 << 44) - 1), Asid(0), false));
    assert_eq!(done[1], Satp(0x8000_0fff_ffff_ffff));
}

/// Zero is an address and a number like others, not x0.
#[test]
fn extreme_addresses_and_numbers_are_passed_whole() {
    for a in [0, 0xffff_ffff_ffff_f000] {
        for asid in [0, 0xffff] {
            let space = Space::User { asid: Asid(asid), current: true };
            let done = recorded(tagged(), |m| m.flush_range(space, VaRange::page(va(a)), false));
            assert_eq!(done, [Sfence(Some(a), Some(asid))]);
        }
    }
}

//! The instructions of every flush sequence of AArch64, one by one.

use std::sync::Mutex;

use machvm_arch::{Arm, ArmIsa, Asid, Dsb, Space, Tlb, Tlbi};
use machvm_hal::{Pfn, RawAddr, Va, VaRange};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Insn {
    Dsb(Dsb),
    Isb,
    Tlbi(Tlbi, u64),
    Ttbr0(u64),
}

const ISHST: Insn = Insn::Dsb(Dsb::Ishst);
const ISH: Insn = Insn::Dsb(Dsb::Ish);
const NSHST: Insn = Insn::Dsb(Dsb::Nshst);
const NSH: Insn = Insn::Dsb(Dsb::Nsh);
const ISB: Insn = Insn::Isb;

#[derive(Default)]
struct Recorder(Mutex<Vec<Insn>>);

impl Recorder {
    fn push(&self, insn: Insn) {
        self.0.lock().unwrap().push(insn);
    }
}

impl ArmIsa for Recorder {
    fn dsb(&self, kind: Dsb) {
        self.push(Insn::Dsb(kind));
    }
    fn isb(&self) {
        self.push(Insn::Isb);
    }
    fn tlbi(&self, op: Tlbi, operand: u64) {
        self.push(Insn::Tlbi(op, operand));
    }
    fn write_ttbr0(&self, value: u64) {
        self.push(Insn::Ttbr0(value));
    }
}

type Machine = Arm<Recorder>;

/// Broadcast invalidation does not ask where a space is loaded.
const USER: [Space; 2] =
    [Space::User { asid: Asid(0x12), current: true }, Space::User { asid: Asid(0x12), current: false }];
const ASID: u64 = 0x0012 << 48;

const AT: u64 = 0x7fff_0000_3000;
const KERNEL_AT: u64 = 0xffff_8000_0020_0000;
/// Bits 55:12 of it.
const KERNEL_FIELD: u64 = 0xff8_0000_0200;
const MAX: u64 = <Machine as Tlb>::MAX_PAGES;

fn va(a: u64) -> Va {
    Va::aligned(RawAddr(a)).expect("aligned")
}

/// What `f` executed, on a machine with narrow ASIDs: the width changes no sequence.
fn recorded(f: impl Fn(&Machine)) -> Vec<Insn> {
    let run = |wide| {
        let m = Arm::new(Recorder::default(), wide);
        f(&m);
        m.isa().0.lock().unwrap().clone()
    };
    let done = run(false);
    assert_eq!(done, run(true));
    done
}

/// The whole sequence for `pages` pages.
fn flushed(space: Space, pages: u64, walks: bool) -> Vec<Insn> {
    let at = if space == Space::Kernel { KERNEL_AT } else { AT };
    recorded(|m| {
        m.before();
        m.flush_range(space, VaRange::of_pages(va(at), pages).expect("a range"), walks);
        m.after();
    })
}

/// `tlbis` in their barriers.
fn fenced(tlbis: impl IntoIterator<Item = Insn>) -> Vec<Insn> {
    [ISHST].into_iter().chain(tlbis).chain([ISH, ISB]).collect()
}

fn each(op: Tlbi, first: u64, pages: u64) -> Vec<Insn> {
    fenced((0..pages).map(|i| Insn::Tlbi(op, first + i)))
}

#[test]
fn it_is_broadcast_and_numbers_have_8_or_16_bits() {
    const { assert!(<Machine as Tlb>::BROADCAST) };
    assert_eq!(Arm::new(Recorder::default(), false).asids(), 256);
    assert_eq!(Arm::new(Recorder::default(), true).asids(), 65536);
}

#[test]
fn user_pages_last_level() {
    for space in USER {
        for pages in [1, 3, MAX] {
            assert_eq!(flushed(space, pages, false), each(Tlbi::VALE1IS, ASID | AT >> 12, pages));
        }
    }
}

#[test]
fn user_pages_with_walks_are_all_levels() {
    for space in USER {
        for pages in [1, 3, MAX] {
            assert_eq!(flushed(space, pages, true), each(Tlbi::VAE1IS, ASID | AT >> 12, pages));
        }
    }
}

#[test]
fn user_too_many_pages_are_the_asid() {
    for space in USER {
        for walks in [false, true] {
            assert_eq!(flushed(space, MAX + 1, walks), fenced([Insn::Tlbi(Tlbi::ASIDE1IS, ASID)]));
        }
    }
}

#[test]
fn kernel_pages_last_level_under_every_asid() {
    for pages in [1, 3, MAX] {
        assert_eq!(flushed(Space::Kernel, pages, false), each(Tlbi::VAALE1IS, KERNEL_FIELD, pages));
    }
}

#[test]
fn kernel_pages_with_walks_are_all_levels() {
    for pages in [1, 3, MAX] {
        assert_eq!(flushed(Space::Kernel, pages, true), each(Tlbi::VAAE1IS, KERNEL_FIELD, pages));
    }
}

#[test]
fn kernel_too_many_pages_are_everything() {
    for walks in [false, true] {
        assert_eq!(flushed(Space::Kernel, MAX + 1, walks), fenced([Insn::Tlbi(Tlbi::VMALLE1IS, 0)]));
    }
}

#[test]
fn spaces() {
    for space in USER {
        assert_eq!(recorded(|m| m.flush_space(space)), [Insn::Tlbi(Tlbi::ASIDE1IS, ASID)]);
    }
    assert_eq!(recorded(|m| m.flush_space(Space::Kernel)), [Insn::Tlbi(Tlbi::VMALLE1IS, 0)]);
}

#[test]
fn everything() {
    assert_eq!(recorded(Tlb::flush_all), [Insn::Tlbi(Tlbi::VMALLE1IS, 0)]);
}

#[test]
fn several_flushes_share_their_barriers() {
    let done = recorded(|m| {
        m.before();
        m.flush_range(USER[0], VaRange::page(va(AT)), false);
        m.flush_range(Space::Kernel, VaRange::page(va(KERNEL_AT)), true);
        m.after();
    });
    let both = [Insn::Tlbi(Tlbi::VALE1IS, ASID | AT >> 12), Insn::Tlbi(Tlbi::VAAE1IS, KERNEL_FIELD)];
    assert_eq!(done, fenced(both));
}

#[test]
fn publish_is_a_store_barrier_and_no_flush() {
    for space in [USER[0], USER[1], Space::Kernel] {
        for walks in [false, true] {
            assert_eq!(recorded(|m| m.publish(space, VaRange::page(va(AT)), walks)), [ISHST, ISB]);
        }
    }
}

#[test]
fn spurious_is_local_and_all_levels() {
    for space in USER {
        let done = recorded(|m| m.spurious(space, va(AT)));
        assert_eq!(done, [NSHST, Insn::Tlbi(Tlbi::VAE1, ASID | AT >> 12), NSH, ISB]);
    }
    let done = recorded(|m| m.spurious(Space::Kernel, va(KERNEL_AT)));
    assert_eq!(done, [NSHST, Insn::Tlbi(Tlbi::VAAE1, KERNEL_FIELD), NSH, ISB]);
}

#[test]
fn switch_loads_root_and_asid_at_once() {
    let done = recorded(|m| m.switch(Pfn(0x55), Asid(0x12), false));
    assert_eq!(done, [ISHST, Insn::Ttbr0(ASID | 0x5_5000), ISB]);
}

/// After the load: until then walks of the old root may come in under the number.
#[test]
fn switch_flushes_the_number_after_the_load_and_locally() {
    let done = recorded(|m| m.switch(Pfn(0x55), Asid(0x12), true));
    let flush = [Insn::Tlbi(Tlbi::ASIDE1, ASID), NSH, ISB];
    assert_eq!(done, [[ISHST, Insn::Ttbr0(ASID | 0x5_5000), ISB], flush].concat());
}

/// Highest root of 48 bits and ASID; bit 0 (CnP) stays clear.
#[test]
fn switch_highest_root_and_asid() {
    let done = recorded(|m| m.switch(Pfn((1 << 36) - 1), Asid(0xffff), false));
    assert_eq!(done[1], Insn::Ttbr0(0xffff_ffff_ffff_f000));
}

/// Bits 43:0 are VA[55:12], 47:44 (level hint) zero, 63:48 the ASID: none spills.
#[test]
fn operands_of_extreme_addresses_and_asids() {
    let operand = |asid, a| {
        let done = recorded(|m| {
            m.flush_range(Space::User { asid: Asid(asid), current: true }, VaRange::page(va(a)), false);
        });
        let [Insn::Tlbi(Tlbi::VALE1IS, operand)] = done[..] else { panic!("{done:?}") };
        operand
    };
    assert_eq!(operand(0, 0), 0);
    assert_eq!(operand(0xffff, 0), 0xffff_0000_0000_0000);
    assert_eq!(operand(1, 0x1000), 0x0001_0000_0000_0001);
    assert_eq!(operand(0x8000, 0x0000_ffff_ffff_f000), 0x8000_000f_ffff_ffff);
    assert_eq!(operand(0, 0x00ff_ffff_ffff_f000), 0x0000_0fff_ffff_ffff);
    assert_eq!(operand(0x00ff, 0xffff_ffff_ffff_f000), 0x00ff_0fff_ffff_ffff);
}

#[test]
fn operands_of_extreme_kernel_addresses() {
    for (a, operand) in [(0xffff_0000_0000_0000, 0xff0_0000_0000), (0xffff_ffff_ffff_f000, 0xfff_ffff_ffff)] {
        for (walks, op) in [(false, Tlbi::VAALE1IS), (true, Tlbi::VAAE1IS)] {
            let done = recorded(|m| m.flush_range(Space::Kernel, VaRange::page(va(a)), walks));
            assert_eq!(done, [Insn::Tlbi(op, operand)]);
        }
    }
}

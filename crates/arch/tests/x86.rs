//! The instructions of every flush sequence of x86-64, one by one.

use std::sync::Mutex;

use machvm_arch::{Asid, Invpcid, Space, Tlb, X86, X86Isa};
use machvm_hal::{Pfn, RawAddr, Va, VaRange};

use Insn::{Cr3, Cr4, Invlpg};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Insn {
    Invlpg(u64),
    Invpcid(Invpcid, u16, u64),
    /// MOV to the register.
    Cr3(u64),
    Cr4(u64),
}

/// Root 0x1234 under PCID 7, kept from the last load.
const CR3: u64 = 0x123_4007;
/// PAE, PGE and PCIDE, as a kernel has them.
const CR4: u64 = 1 << 5 | PGE | 1 << 17;
const PGE: u64 = 1 << 7;
const KEEP: u64 = 1 << 63;

struct Recorder {
    done: Mutex<Vec<Insn>>,
    cr4: u64,
}

impl Recorder {
    fn push(&self, insn: Insn) {
        self.done.lock().unwrap().push(insn);
    }
}

impl X86Isa for Recorder {
    fn invlpg(&self, va: Va) {
        self.push(Invlpg(va.get()));
    }
    fn invpcid(&self, kind: Invpcid, pcid: Asid, va: Va) {
        self.push(Insn::Invpcid(kind, pcid.0, va.get()));
    }
    fn read_cr3(&self) -> u64 {
        CR3
    }
    fn write_cr3(&self, value: u64) {
        self.push(Cr3(value));
    }
    fn read_cr4(&self) -> u64 {
        self.cr4
    }
    fn write_cr4(&self, value: u64) {
        self.push(Cr4(value));
    }
}

type Machine = X86<Recorder>;

const fn machine(pcid: bool, invpcid: bool) -> Machine {
    X86::new(Recorder { done: Mutex::new(Vec::new()), cr4: CR4 }, pcid, invpcid)
}
/// No PCIDs.
const fn plain() -> Machine {
    machine(false, false)
}
/// PCIDs, but no INVPCID.
const fn pcid() -> Machine {
    machine(true, false)
}
/// Both.
const fn both() -> Machine {
    machine(true, true)
}

const CURRENT: Space = Space::User { asid: Asid(7), current: true };
const OTHER: Space = Space::User { asid: Asid(9), current: false };
/// Without PCIDs every space has number zero.
const CURRENT_PLAIN: Space = Space::User { asid: Asid(0), current: true };
const OTHER_PLAIN: Space = Space::User { asid: Asid(0), current: false };

const AT: u64 = 0x7fff_0000_3000;
const KERNEL_AT: u64 = 0xffff_8000_0020_0000;
const MAX: u64 = <Machine as Tlb>::MAX_PAGES;

fn va(a: u64) -> Va {
    Va::aligned(RawAddr(a)).expect("aligned")
}

/// What `f` executed.
fn recorded(m: Machine, f: impl FnOnce(&Machine)) -> Vec<Insn> {
    f(&m);
    m.isa().done.lock().unwrap().clone()
}

/// The whole sequence for `pages` pages.
fn flushed(m: Machine, space: Space, pages: u64, walks: bool) -> Vec<Insn> {
    let at = if space == Space::Kernel { KERNEL_AT } else { AT };
    recorded(m, |m| {
        m.before();
        m.flush_range(space, VaRange::of_pages(va(at), pages).expect("a range"), walks);
        m.after();
    })
}

fn invlpgs(at: u64, pages: u64) -> Vec<Insn> {
    (0..pages).map(|i| Invlpg(at + i * 4096)).collect()
}

/// Everything, without INVPCID.
const TOGGLED: [Insn; 2] = [Cr4(CR4 & !PGE), Cr4(CR4)];
const ALL: Insn = Insn::Invpcid(Invpcid::All, 0, 0);

#[test]
fn it_is_local_and_numbers_are_pcids() {
    const { assert!(!<Machine as Tlb>::BROADCAST) };
    assert_eq!(plain().asids(), 1);
    assert_eq!(machine(false, true).asids(), 1);
    assert_eq!(pcid().asids(), 4096);
    assert_eq!(both().asids(), 4096);
}

#[test]
fn current_space_page_by_page() {
    for walks in [false, true] {
        for pages in [1, 2, MAX] {
            assert_eq!(flushed(plain(), CURRENT_PLAIN, pages, walks), invlpgs(AT, pages));
            assert_eq!(flushed(pcid(), CURRENT, pages, walks), invlpgs(AT, pages));
            assert_eq!(flushed(both(), CURRENT, pages, walks), invlpgs(AT, pages));
        }
    }
}

#[test]
fn current_space_too_many_pages_without_invpcid_loads_cr3_again() {
    for walks in [false, true] {
        assert_eq!(flushed(plain(), CURRENT_PLAIN, MAX + 1, walks), [Cr3(CR3)]);
        assert_eq!(flushed(pcid(), CURRENT, MAX + 1, walks), [Cr3(CR3)]);
    }
}

#[test]
fn current_space_too_many_pages_with_invpcid_is_one_context() {
    for walks in [false, true] {
        assert_eq!(flushed(both(), CURRENT, MAX + 1, walks), [Insn::Invpcid(Invpcid::Context, 7, 0)]);
    }
}

#[test]
fn current_space_too_many_pages_invpcid_without_pcids_loads_cr3_again() {
    assert_eq!(flushed(machine(false, true), CURRENT_PLAIN, MAX + 1, false), [Cr3(CR3)]);
}

#[test]
fn other_space_without_pcids_has_nothing_here() {
    for m in [plain, || machine(false, true)] {
        for walks in [false, true] {
            for pages in [1, MAX, MAX + 1] {
                assert_eq!(flushed(m(), OTHER_PLAIN, pages, walks), []);
            }
        }
        assert_eq!(recorded(m(), |m| m.flush_space(OTHER_PLAIN)), []);
    }
}

#[test]
fn other_space_with_invpcid_address_by_address() {
    let address = |i: u64| Insn::Invpcid(Invpcid::Address, 9, AT + i * 4096);
    assert_eq!(flushed(both(), OTHER, 1, false), [address(0)]);
    assert_eq!(flushed(both(), OTHER, 3, false), [address(0), address(1), address(2)]);
    assert_eq!(flushed(both(), OTHER, MAX, false).len() as u64, MAX);
}

#[test]
fn other_space_with_invpcid_walks_or_too_many_pages_are_one_context() {
    let context = [Insn::Invpcid(Invpcid::Context, 9, 0)];
    assert_eq!(flushed(both(), OTHER, 1, true), context);
    assert_eq!(flushed(both(), OTHER, MAX + 1, false), context);
    assert_eq!(flushed(both(), OTHER, MAX + 1, true), context);
}

/// Loading the other PCID to flush it would fill it from the present root.
#[test]
fn other_space_with_pcids_and_no_invpcid_flushes_everything() {
    for walks in [false, true] {
        for pages in [1, 2, MAX + 1] {
            assert_eq!(flushed(pcid(), OTHER, pages, walks), TOGGLED);
        }
    }
}

#[test]
fn kernel_page_by_page() {
    for m in [plain, pcid, both, || machine(false, true)] {
        for pages in [1, 2, MAX] {
            assert_eq!(flushed(m(), Space::Kernel, pages, false), invlpgs(KERNEL_AT, pages));
        }
    }
}

#[test]
fn kernel_walks_without_pcids_page_by_page() {
    assert_eq!(flushed(plain(), Space::Kernel, 2, true), invlpgs(KERNEL_AT, 2));
    assert_eq!(flushed(machine(false, true), Space::Kernel, 2, true), invlpgs(KERNEL_AT, 2));
}

/// INVLPG leaves what other PCIDs remember of kernel tables.
#[test]
fn kernel_walks_with_pcids_flush_everything() {
    assert_eq!(flushed(both(), Space::Kernel, 1, true), [ALL]);
    assert_eq!(flushed(pcid(), Space::Kernel, 1, true), TOGGLED);
}

#[test]
fn kernel_too_many_pages_flush_everything() {
    for walks in [false, true] {
        assert_eq!(flushed(plain(), Space::Kernel, MAX + 1, walks), TOGGLED);
        assert_eq!(flushed(pcid(), Space::Kernel, MAX + 1, walks), TOGGLED);
        assert_eq!(flushed(both(), Space::Kernel, MAX + 1, walks), [ALL]);
        assert_eq!(flushed(machine(false, true), Space::Kernel, MAX + 1, walks), [ALL]);
    }
}

#[test]
fn space_current() {
    assert_eq!(recorded(plain(), |m| m.flush_space(CURRENT_PLAIN)), [Cr3(CR3)]);
    assert_eq!(recorded(pcid(), |m| m.flush_space(CURRENT)), [Cr3(CR3)]);
    assert_eq!(recorded(both(), |m| m.flush_space(CURRENT)), [Insn::Invpcid(Invpcid::Context, 7, 0)]);
}

#[test]
fn space_other() {
    assert_eq!(recorded(pcid(), |m| m.flush_space(OTHER)), TOGGLED);
    assert_eq!(recorded(both(), |m| m.flush_space(OTHER)), [Insn::Invpcid(Invpcid::Context, 9, 0)]);
}

#[test]
fn space_kernel() {
    assert_eq!(recorded(plain(), |m| m.flush_space(Space::Kernel)), TOGGLED);
    assert_eq!(recorded(pcid(), |m| m.flush_space(Space::Kernel)), TOGGLED);
    assert_eq!(recorded(both(), |m| m.flush_space(Space::Kernel)), [ALL]);
}

#[test]
fn everything() {
    assert_eq!(recorded(plain(), Tlb::flush_all), TOGGLED);
    assert_eq!(recorded(pcid(), Tlb::flush_all), TOGGLED);
    assert_eq!(recorded(both(), Tlb::flush_all), [ALL]);
    assert_eq!(recorded(machine(false, true), Tlb::flush_all), [ALL]);
}

/// A nested toggle (an interrupt in between), or a kernel without global pages, finds
/// PGE clear: it must change it all the same, and leave it as it was.
#[test]
fn toggle_flushes_when_pge_is_clear() {
    let m = X86::new(Recorder { done: Mutex::default(), cr4: CR4 & !PGE }, true, false);
    assert_eq!(recorded(m, Tlb::flush_all), [Cr4(CR4), Cr4(CR4 & !PGE)]);
}

#[test]
fn publish_before_and_after_need_nothing() {
    let page = VaRange::page(va(AT));
    for m in [plain, pcid, both] {
        let done = recorded(m(), |m| {
            for walks in [false, true] {
                m.publish(CURRENT, page, walks);
                m.publish(OTHER, page, walks);
                m.publish(Space::Kernel, page, walks);
            }
            m.before();
            m.after();
        });
        assert_eq!(done, []);
    }
}

#[test]
fn spurious_forgets_the_page() {
    for m in [pcid, both] {
        assert_eq!(recorded(m(), |m| m.spurious(CURRENT, va(AT))), [Invlpg(AT)]);
        assert_eq!(recorded(m(), |m| m.spurious(Space::Kernel, va(KERNEL_AT))), [Invlpg(KERNEL_AT)]);
    }
    assert_eq!(recorded(plain(), |m| m.spurious(CURRENT_PLAIN, va(AT))), [Invlpg(AT)]);
}

#[test]
fn switch_without_pcids_always_flushes() {
    for flush in [false, true] {
        for m in [plain, || machine(false, true)] {
            assert_eq!(recorded(m(), |m| m.switch(Pfn(0x55), Asid(0), flush)), [Cr3(0x5_5000)]);
        }
    }
}

#[test]
fn switch_with_pcids_keeps_unless_told() {
    for m in [pcid, both] {
        assert_eq!(recorded(m(), |m| m.switch(Pfn(0x55), Asid(9), false)), [Cr3(KEEP | 0x5_5009)]);
        assert_eq!(recorded(m(), |m| m.switch(Pfn(0x55), Asid(9), true)), [Cr3(0x5_5009)]);
    }
}

#[test]
fn switch_highest_root_and_pcid() {
    let top = Pfn((1 << 40) - 1);
    let done = recorded(both(), |m| m.switch(top, Asid(4095), false));
    assert_eq!(done, [Cr3(0x800f_ffff_ffff_ffff)]);
}

#[test]
fn extreme_addresses_are_passed_whole() {
    let top = va(0xffff_ffff_ffff_f000);
    let done = recorded(both(), |m| {
        m.flush_range(Space::Kernel, VaRange::page(top), false);
        m.flush_range(CURRENT, VaRange::page(Va::ZERO), false);
        m.flush_range(
            Space::User { asid: Asid(4095), current: false },
            VaRange::page(va(0xff_ffff_ffff_f000)),
            false,
        );
    });
    let other = Insn::Invpcid(Invpcid::Address, 4095, 0xff_ffff_ffff_f000);
    assert_eq!(done, [Invlpg(0xffff_ffff_ffff_f000), Invlpg(0), other]);
}

#[test]
fn invpcid_types_are_the_manuals() {
    assert_eq!([Invpcid::Address as u64, Invpcid::Context as u64, Invpcid::All as u64], [0, 1, 2]);
}

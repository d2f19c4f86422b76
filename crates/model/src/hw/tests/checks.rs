//! Each check finds what it is for, and only it does.

use machvm_hal::{Pfn, RawAddr, Va, VaRange};

use super::{A, B, Kind, Rig, kernel_leaf, pointer, two_pages, user_block, user_leaf};
use crate::hw::Checks;
use crate::hw::cpu::{Named, Tables};
use crate::hw::walk::{Arch, Rights};

fn page(va: u64) -> VaRange {
    VaRange::page(Va::containing(RawAddr(va)))
}

/// What a perfect flush of one space does.
fn flush_all(rig: &Rig) {
    rig.s(|s| s.cpus.iter_mut().for_each(|c| c.invalidate(&Named::EVERYTHING, false)));
}
fn flush_pages(rig: &Rig, va: u64, n: u64, tables: Tables) {
    let named = Named { pages: Some((va >> 12, (va >> 12) + n)), pieces: false, tables, ..Named::EVERYTHING };
    rig.s(|s| s.cpus.iter_mut().for_each(|c| c.invalidate(&named, false)));
}

/// `wrong` is reported as `kind`, and not with that check off.
fn finds(what: &str, arch: Arch, kind: Kind, wrong: impl Fn(&Rig, u64)) {
    for on in [true, false] {
        let (rig, root) = two_pages(arch, 1);
        if !on {
            rig.hw.set_checks(Checks::all() - kind.check());
        }
        wrong(&rig, root);
        assert_eq!(rig.kinds().contains(&kind), on, "{what} on {arch:?}: {}", rig.hw.explain());
        assert_eq!(rig.hw.found() > 0, on, "{what} on {arch:?}: {}", rig.hw.explain());
    }
}

fn clean(what: &str, arch: Arch, right: impl Fn(&Rig, u64)) {
    let (rig, root) = two_pages(arch, 1);
    right(&rig, root);
    assert_eq!(rig.hw.found(), 0, "{what} on {arch:?}: {}", rig.hw.explain());
}

#[test]
fn rights_left_after_a_flush() {
    for arch in Arch::ALL {
        let weaker = |rig: &Rig| user_leaf(arch, rig.frame(1), false);
        finds("no flush", arch, Kind::StaleAfterFlush, |rig, root| {
            rig.map(root, A, 1, weaker(rig));
            rig.hw.check_flushed(Some(Pfn(root)), page(A), u64::MAX);
        });
        finds("no flush of a removed page", arch, Kind::StaleAfterFlush, |rig, root| {
            rig.map(root, A, 1, 0);
            rig.hw.check_quiet();
        });
        finds("one CPU", arch, Kind::StaleAfterFlush, |rig, root| {
            rig.map(root, A, 1, weaker(rig));
            rig.s(|s| s.cpus[0].invalidate(&Named::EVERYTHING, false));
            rig.hw.check_flushed(Some(Pfn(root)), page(A), u64::MAX);
        });
        clean("flush of that page", arch, |rig, root| {
            rig.map(root, A, 1, weaker(rig));
            flush_pages(rig, A, 1, Tables::Keep);
            rig.hw.check_flushed(Some(Pfn(root)), page(A), u64::MAX);
            rig.hw.check_quiet();
        });
        clean("another page, another space, or begun before it was stale", arch, |rig, root| {
            let since = rig.hw.now();
            rig.map(root, A, 1, weaker(rig));
            rig.hw.check_flushed(Some(Pfn(root)), page(B), u64::MAX);
            rig.hw.check_flushed(None, page(A), u64::MAX);
            rig.hw.check_flushed(Some(Pfn(root)), page(A), since);
        });
    }
}

#[test]
fn a_write_that_would_not_be_noted() {
    for arch in Arch::ALL {
        let unwritten = |rig: &Rig| {
            let w = user_leaf(arch, rig.frame(1), true);
            match arch {
                Arch::X86L4 | Arch::X86L5 => w & !(1 << 6),
                Arch::Aarch64 => w | 1 << 7 | 1 << 51,
                _ => w & !(1 << 7),
            }
        };
        finds("dirty cleared, no flush", arch, Kind::StaleAfterFlush, |rig, root| {
            rig.map(root, A, 1, unwritten(rig));
            rig.hw.check_quiet();
        });
        // Write access of a clean page goes without a flush: the first write looks.
        clean("clean, then read-only", arch, |rig, root| {
            rig.map(root, A, 1, unwritten(rig));
            flush_all(rig);
            rig.fill(0, A);
            rig.map(root, A, 1, user_leaf(arch, rig.frame(1), false));
            rig.hw.check_quiet();
            assert!(rig.touch(0, A, crate::hw::Access::Write).is_err());
        });
    }
}

#[test]
fn an_upper_entry_changed_and_only_pages_flushed() {
    for arch in Arch::ALL {
        // All leaves below stay as they are.
        let upper = |rig: &Rig, root: u64, raw: u64| rig.map(root, A, 2, raw);
        finds("table detached", arch, Kind::StaleTableAfterFlush, |rig, root| {
            upper(rig, root, 0);
            flush_pages(rig, A & !0x1f_ffff, 512, Tables::Keep);
            rig.hw.check_flushed(Some(Pfn(root)), page(A), u64::MAX);
        });
        clean("walks flushed too", arch, |rig, root| {
            upper(rig, root, 0);
            flush_pages(rig, A & !0x1f_ffff, 512, Tables::OnTheWay);
            rig.hw.check_quiet();
        });
        if arch.is_riscv() {
            continue;
        }
        finds("write access taken above", arch, Kind::StaleTableAfterFlush, |rig, root| {
            let leaf = rig.table_for(root, A, 1);
            let raw = match arch {
                Arch::Aarch64 => pointer(arch, leaf) | 1 << 62,
                _ => pointer(arch, leaf) & !2,
            };
            upper(rig, root, raw);
            flush_pages(rig, A & !0x1f_ffff, 512, Tables::Keep);
            rig.hw.check_flushed(Some(Pfn(root)), page(B), u64::MAX);
        });
    }
}

#[test]
fn a_large_page_in_pieces() {
    for arch in Arch::ALL {
        let (rig, root) = two_pages(arch, 1);
        let va = 0x40_0000;
        rig.map(root, va, 2, user_block(arch, rig.frame(512), true));
        for page in 0..32 {
            rig.fill(1, va + page * 4096);
        }
        rig.map(root, va, 2, 0);
        flush_pages(&rig, va, 1, Tables::All);
        rig.hw.check_flushed(Some(Pfn(root)), page(va), u64::MAX);
        rig.hw.assert_clean();
        let whole = VaRange::of_pages(Va::containing(RawAddr(va)), 512).expect("fits");
        rig.hw.check_flushed(Some(Pfn(root)), whole, u64::MAX);
        assert_eq!(rig.kinds(), [Kind::StaleAfterFlush], "{arch:?}");
    }
}

#[test]
fn frames_in_reach() {
    for arch in Arch::ALL {
        finds("memory", arch, Kind::FreedWhileMapped, |rig, root| {
            rig.map(root, A, 1, 0);
            rig.hw.release(Pfn(rig.frame(1)));
        });
        finds("memory with another use", arch, Kind::FreedWhileMapped, |rig, root| {
            rig.map(root, A, 1, 0);
            rig.hw.zero(Pfn(rig.frame(0)), 4);
        });
        finds("a table", arch, Kind::FreedWhileWalked, |rig, root| {
            let leaf = rig.table_for(root, A, 1);
            for va in [A, B] {
                rig.map(root, va, 1, 0);
            }
            rig.map(root, A, 2, 0);
            flush_pages(rig, A & !0x1f_ffff, 512, Tables::Keep);
            rig.hw.here(|s, cpu| s.table_free(cpu, leaf));
        });
        finds("a root", arch, Kind::FreedWhileLoaded, |rig, root| {
            rig.hw.here(|s, cpu| {
                for i in 0..512 {
                    s.table_swap(cpu, root, i, 0);
                }
            });
            flush_all(rig);
            rig.hw.here(|s, cpu| s.table_free(cpu, root));
        });
        clean("both, after the flush", arch, |rig, root| {
            let leaf = rig.table_for(root, A, 1);
            for va in [A, B] {
                rig.map(root, va, 1, 0);
            }
            rig.map(root, A, 2, 0);
            flush_all(rig);
            rig.hw.release(Pfn(rig.frame(1)));
            rig.hw.here(|s, cpu| s.table_free(cpu, leaf));
            rig.hw.check_quiet();
        });
    }
}

#[test]
fn a_table_that_takes_another_place_without_being_freed() {
    for arch in Arch::ALL {
        finds("moved", arch, Kind::FreedWhileWalked, |rig, root| {
            let leaf = rig.table_for(root, A, 1);
            for va in [A, B] {
                rig.map(root, va, 1, 0);
            }
            flush_pages(rig, A & !0x1f_ffff, 512, Tables::Keep);
            rig.map(root, A, 2, 0);
            rig.map(root, 0x4000_0000, 2, pointer(arch, leaf));
        });
    }
}

#[test]
fn another_frame_where_one_is_cached() {
    for arch in Arch::ALL {
        finds("in one step, or without the flush", arch, Kind::EnteredOverCached, |rig, root| {
            rig.hw.set_checks(rig.s(|s| s.checks) - Checks::BREAK_BEFORE_MAKE);
            rig.map(root, A, 1, 0);
            rig.map(root, A, 1, user_leaf(arch, rig.frame(7), true));
        });
        finds("by a table", arch, Kind::EnteredOverCached, |rig, root| {
            let t = rig.table();
            rig.put(t, Arch::index(A, 1), user_leaf(arch, rig.frame(7), true));
            let above = Checks::BREAK_BEFORE_MAKE | Checks::TABLE_REPLACED;
            rig.hw.set_checks(rig.s(|s| s.checks) - above);
            rig.map(root, A, 2, 0);
            rig.map(root, A, 2, pointer(arch, t));
        });
        clean("clear, flush, set", arch, |rig, root| {
            rig.map(root, A, 1, 0);
            flush_pages(rig, A, 1, Tables::Keep);
            rig.map(root, A, 1, user_leaf(arch, rig.frame(7), true));
            rig.hw.check_quiet();
        });
        clean("the same frame again", arch, |rig, root| {
            rig.map(root, A, 1, 0);
            rig.map(root, A, 1, user_leaf(arch, rig.frame(1), true));
        });
    }
}

#[test]
fn a_table_in_the_place_of_a_cached_one() {
    let replace = |rig: &Rig, root: u64, empty: bool| {
        let arch = rig.arch;
        let t = rig.table();
        let i = Arch::index(A, 1);
        if empty {
            rig.map(root, A, 1, 0);
            rig.map(root, B, 1, 0);
        } else {
            rig.put(t, i, user_leaf(arch, rig.frame(1), true));
        }
        flush_pages(rig, A & !0x1f_ffff, 512, Tables::Keep);
        rig.map(root, A, 2, 0);
        rig.map(root, A, 2, pointer(arch, t));
    };
    finds("with the same mapping", Arch::Aarch64, Kind::TableReplaced, |rig, root| {
        replace(rig, root, false);
    });
    clean("an empty one", Arch::Aarch64, |rig, root| replace(rig, root, true));
}

#[test]
fn a_number_used_again() {
    for arch in Arch::ALL {
        for flush in [false, true] {
            let (rig, _) = two_pages(arch, 1);
            let other = rig.table();
            rig.run(0, other, 2);
            rig.run(0, other, 3);
            rig.hw.check_quiet();
            rig.hw.assert_clean();
            if flush {
                flush_all(&rig);
            }
            rig.run(0, other, 1);
            rig.hw.check_quiet();
            let want: &[Kind] = if flush { &[] } else { &[Kind::NumberReused] };
            assert_eq!(rig.kinds(), want, "{arch:?}");
        }
    }
}

#[test]
fn a_flush_missed_while_away() {
    for arch in Arch::ALL {
        for flush in [false, true] {
            let (rig, root) = two_pages(arch, 1);
            let other = rig.table();
            rig.run(1, other, 2);
            rig.map(root, A, 1, 0);
            rig.s(|s| s.cpus[0].invalidate(&Named::EVERYTHING, false));
            rig.hw.check_flushed(Some(Pfn(root)), page(A), u64::MAX);
            rig.hw.release(Pfn(rig.frame(1)));
            // It cannot be reached, so nothing is wrong yet.
            rig.hw.assert_clean();
            if flush {
                rig.s(|s| s.cpus[1].invalidate(&Named::EVERYTHING, false));
            }
            rig.run(1, root, 1);
            rig.hw.check_quiet();
            let found = rig.kinds();
            assert_eq!(found.contains(&Kind::StaleAfterLoad), !flush, "{arch:?}: {found:?}");
            assert_eq!(found.is_empty(), flush, "{arch:?}: {found:?}");
        }
    }
}

#[test]
fn a_space_that_begins_again_is_another() {
    for arch in Arch::ALL {
        let (rig, root) = two_pages(arch, 1);
        let idle = rig.table();
        for cpu in 0..2 {
            rig.run(cpu, idle, 2);
        }
        rig.hw.space_ends(Pfn(root));
        rig.hw.space_begins(Pfn(root));
        rig.run(0, root, 1);
        rig.hw.check_quiet();
        assert!(rig.kinds().contains(&Kind::NumberReused), "{arch:?}: {:?}", rig.kinds());
    }
}

#[test]
fn tables_that_are_none() {
    for arch in Arch::ALL {
        finds("freed with an entry", arch, Kind::TableNotZero, |rig, _| {
            let t = rig.table();
            rig.put(t, 7, 2);
            rig.hw.here(|s, cpu| s.table_free(cpu, t));
        });
        finds("written after it was freed", arch, Kind::NotATable, |rig, _| {
            let t = rig.table();
            rig.hw.here(|s, cpu| s.table_free(cpu, t));
            rig.put(t, 7, 0);
        });
        finds("freed twice", arch, Kind::NotATable, |rig, _| {
            let t = rig.table();
            rig.hw.here(|s, cpu| s.table_free(cpu, t));
            rig.hw.here(|s, cpu| s.table_free(cpu, t));
        });
        finds("memory in a tree", arch, Kind::NotATable, |rig, root| {
            rig.map(root, 0x4000_0000, 2, pointer(arch, rig.frame(9)));
        });
    }
}

#[test]
fn what_the_caller_expects() {
    for arch in Arch::ALL {
        let care = Rights::UR | Rights::UW;
        let right = |rig: &Rig| Some((Pfn(rig.frame(1)), care));
        clean("as it is", arch, |rig, root| {
            rig.hw.check_agrees(Pfn(root), A, right(rig), care);
            rig.hw.check_agrees(Pfn(root), A + 0x4000, None, care);
        });
        finds("more", arch, Kind::Disagree, |rig, root| {
            rig.map(root, A, 1, user_leaf(arch, rig.frame(1), false));
            rig.hw.check_agrees(Pfn(root), A, right(rig), care);
        });
        finds("nothing", arch, Kind::Disagree, |rig, root| {
            rig.hw.check_agrees(Pfn(root), A, None, care);
        });
    }
}

#[test]
fn kernel_pages_are_everybodys() {
    for arch in Arch::ALL.into_iter().filter(|a| !a.is_arm()) {
        let k = 0xffff_ffff_8000_1000;
        let (rig, root) = two_pages(arch, 1);
        rig.map(root, k, 1, kernel_leaf(arch, rig.frame(5)));
        let other = rig.table();
        let top = Arch::index(k, arch.levels());
        rig.put(other, top, rig.get(root, top));
        rig.run(1, other, 2);
        rig.fill(1, k);
        rig.map(root, k, 1, 0);
        rig.hw.check_flushed(None, page(k), u64::MAX);
        assert_eq!(rig.kinds(), [Kind::StaleAfterFlush], "{arch:?}");
        assert_eq!(rig.hw.reports()[0].cpu, 1);
    }
}

#[test]
fn the_k_th_table_cannot_be_had() {
    for lasting in [false, true] {
        let rig = Rig::new(Arch::Sv48);
        rig.hw.fail_table_alloc(3, lasting);
        let had: Vec<bool> = (0..5).map(|_| rig.hw.here(|s, cpu| s.table_alloc(cpu)).is_some()).collect();
        assert_eq!(had, [true, true, false, !lasting, !lasting]);
        assert_eq!(rig.hw.table_allocs(), 5);
    }
}

#[test]
fn a_report_comes_with_what_happened_before() {
    let (rig, root) = two_pages(Arch::X86L4, 1);
    rig.map(root, A, 1, 0);
    rig.hw.check_quiet();
    let text = rig.hw.explain();
    assert!(text.contains("caches 0x201000") && text.contains("StaleAfterFlush on cpu 1"), "{text}");
    let wrote = format!("[{}]: ", Arch::index(A, 1));
    assert!(text.contains(&wrote), "{text}");
}

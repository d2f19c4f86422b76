//! Pages that are behind the end of a file when they are written back (G07 `VM_PAGER_BAD`).

use machvm::FaultError;
use machvm::map::SyncHow;

use super::*;

/// Somebody else cut the file: that is no error, nobody will read the page, and it goes.
#[test]
fn g07_what_is_behind_the_end_is_clean_and_goes() {
    for how in [SyncHow::empty(), SyncHow::START, SyncHow::INVALIDATE] {
        with_file(256, 8 * PAGE, |m, data| {
            let (a, b) = (m.task(8), m.task(8));
            for p in 0..8 {
                a.store(at(p) + 1, &[0xee]).expect("store");
                b.store(at(p) + 2, &[0xff]).expect("store");
            }
            m.file.set_len(3 * PAGE as u64 + 2);
            a.map.sync_as(pages(0, 8), how, &mut may()).expect("no error");
            for t in [&a, &b] {
                for p in 4..8 {
                    assert_eq!(t.load(at(p), &mut [0]), Err(FaultError::Beyond(va(p))), "{how:?}");
                }
            }
            let now = m.file.bytes();
            assert_eq!(now.len(), 3 * PAGE + 2);
            for p in 0..3 {
                let from = p * PAGE;
                assert_eq!(now[from..from + 3], [data[from], 0xee, 0xff]);
                assert_eq!(now[from + 3..from + PAGE], data[from + 3..from + PAGE]);
            }
            assert_eq!(now[3 * PAGE..], [data[3 * PAGE], 0xee]);
            check_quiet(m.vm, [&a, &b]);
        });
    }
}

/// Page-out frees such pages, and goes on.
#[test]
fn g07_page_out_is_not_stopped_by_what_is_behind_the_end() {
    with_file(64, 40 * PAGE, |m, _| {
        let t = m.task(40);
        (0..40).for_each(|p| t.store(at(p), &[1]).expect("store"));
        m.file.set_len(PAGE as u64);
        for _ in 0..8 {
            m.vm.pageout(64, &mut may());
        }
        let o = m.object();
        // Some may be left that were used last.
        let left = m.vm.vm_object_info(o, &mut may()).resident;
        assert!(left < 20, "{left}");
        m.vm.object_deallocate(o, &mut may());
        t.map.sync(pages(0, 40), false, &mut may()).expect("no error");
        assert_eq!(m.file.writes(), 1);
        assert_eq!(m.file.bytes()[0], 1);
        check_quiet(m.vm, [&t]);
    });
}

/// A copy may have the only contents: then the page stays, modified, and msync says so.
#[test]
fn g07_what_copies_have_is_kept() {
    with_file(256, 8 * PAGE, |m, _| {
        let t = m.task(8);
        t.store(at(6), b"dear").expect("store");
        let o = m.object();
        let copy = m.vm.vm_object_shadow(o, &mut may()).expect("memory");
        m.vm.object_deallocate(o, &mut may());
        let c = Task::new(m.vm);
        let backing = Backing::Shared(copy, Pindex(0));
        c.map.insert(pages(0, 8), backing, &Attributes::new(Prot::R), &mut may()).expect("insert");
        m.file.set_len(PAGE as u64);
        let refused = t.map.sync(pages(0, 8), true, &mut may());
        let beyond = machvm_hal::PagerError::Beyond;
        assert_eq!(refused, Err(machvm::map::SyncError::Pager(va(0), beyond)));
        while m.vm.pageout(64, &mut may()) != 0 {}
        assert_eq!(page(&c, 6)[..4], *b"dear");
        check_quiet(m.vm, [&t, &c]);
    });
}

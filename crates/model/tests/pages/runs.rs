//! P03, P27: runs of frames.

use machvm::map::{Advise, Attributes, Backing, Holes, Wiring};
use machvm::page::{Contig, FrameClass, NoPage, PlaceError, Request, Wait};
use machvm_hal::{Pindex, Prot};
use machvm_model::{Task, check_quiet};

use crate::*;

// vm_page_alloc_contig(9).
#[test]
fn p03_pages_in_a_run_of_frames() {
    both(128, |vm| {
        let (o, i) = object(vm, 8);
        let mut out: [_; 8] = std::array::from_fn(|_| None);
        let want = Contig { align: 8, ..Contig::anywhere(8) };
        let mut take = |n: u64, want: &Contig| {
            vm.vm_page_alloc_contig(o, Pindex(i + n), want, Request::NORMAL.zeroed(), &mut out, &mut may())
        };
        if vm.platform().tables().is_none() && is_sparse(vm) {
            assert_eq!(take(0, &want), Err(PlaceError::NoMemory), "frames belong to places");
            end(vm, o);
            return;
        }
        assert_eq!(take(0, &Contig { align: 3, ..want }), Err(PlaceError::NoMemory));
        assert_eq!(take(0, &Contig::anywhere(7)), Err(PlaceError::NoMemory), "as many as there is room");
        // One index is taken: nothing is done.
        drop(vm.vm_page_alloc(o, Pindex(i + 3), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        assert_eq!(take(0, &want), Err(PlaceError::Present));
        assert_eq!(vm.vm_page_lookup(o, Pindex(i), &mut may()), None);
        assert_eq!((vm.frames_taken(), vm.live()[0]), (0, 1));
        take(8, &want).expect("run");
        let frames: Vec<u64> = out.iter().flatten().map(|x| x.pfn().0).collect();
        assert_eq!(frames[0] % 8, 0);
        assert!(frames.windows(2).all(|w| w[1] == w[0] + 1), "{frames:?}");
        assert!(out.iter().flatten().all(|x| x.is_valid() && word_of!(x) == 0));
        drop(out);
        end(vm, o);
    });
}

// vm_page_reclaim_contig(9): pages are moved with their contents; wired ones block a run.
#[test]
fn p27_pages_are_moved_out_of_a_run() {
    both(128, |vm| {
        if is_sparse(vm) {
            assert!(!vm.vm_page_reclaim_contig(&Contig::anywhere(4), &mut may()));
            return;
        }
        let t = Task::new(vm);
        t.map
            .insert(pages(0, 100), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may())
            .expect("insert");
        (0..100).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        // Every second page goes: no run of two is left in what was used.
        (0..100).step_by(2).for_each(|p| {
            t.map.madvise(pages(p, 1), Advise::DontNeed, &mut may()).expect("drop");
        });
        let run = Contig { align: 32, ..Contig::anywhere(64) };
        assert_eq!(vm.contig_take(&run, FrameClass::Normal), None);
        assert_eq!(
            vm.vm_page_alloc_noobj_contig(&run, Request::NORMAL.waiting(Wait::No), &mut may()),
            Err(NoPage)
        );
        let first = vm.vm_page_alloc_noobj_contig(&run, Request::NORMAL, &mut may()).expect("moved");
        assert_eq!((first.0 % 32, vm.frames_taken()), (0, 64));
        (0..100)
            .for_each(|p| assert_eq!(t.load_word(at(p)), Ok(if p % 2 == 0 { 0 } else { p + 1 }), "page {p}"));
        check_quiet(vm, [&t]);
        vm.contig_give_back(first, 64).expect("ours");
        assert!(vm.vm_page_reclaim_contig(&run, &mut may()));
        assert_eq!(vm.frames_taken(), 0);
        // Wired pages stay where they are.
        t.map.wire(pages(0, 100), Wiring::System, Holes::Refuse, &mut may()).expect("wire");
        let whole = Contig::anywhere(100);
        assert!(!vm.vm_page_reclaim_contig(&whole, &mut may()));
        assert_eq!(vm.frames_taken(), 0);
        t.map.unwire(pages(0, 100), Wiring::System, Holes::Refuse, &mut may()).expect("unwire");
    });
}

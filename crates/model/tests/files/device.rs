//! Device memory (G14, G16) and what the dead have (G17).

use machvm::FaultError;
use machvm::map::{Holes, Wiring};
use machvm::page::{Contig, FrameClass};
use machvm_hal::pmap9::MemAttr;
use machvm_hal::{DeviceFrames, Pfn, PhysMem};
use machvm_pagers::{DeadPager, Device, DevicePager, SgPager};

use super::*;

/// `FRAMES` frames from one on; page 6 is not there.
struct Board(Pfn);
const FRAMES: u64 = 24;

impl Device for Board {
    fn frames(&self, offset: u64, access: Prot) -> Option<DeviceFrames> {
        let page = offset / PAGE_SIZE;
        assert!(page < FRAMES, "the pager asks for what is inside only");
        if page == 6 || (page == 7 && access.contains(Prot::W)) {
            return None;
        }
        let pages = if page < 6 { 6 - page } else { FRAMES - page };
        Some(DeviceFrames { first: self.0.add(page), pages, attr: MemAttr::WriteBack })
    }
}

/// Frames that are a device's, page n full of byte n + 1.
fn board(vm: &Vm<Machine>) -> Option<Pfn> {
    vm.platform().tables()?; // the flat machine maps pages only
    let first = vm.contig_take(&Contig::anywhere(FRAMES), FrameClass::Normal)?;
    vm.mem().zero(first, FRAMES as u32).expect("memory");
    (0..FRAMES).for_each(|i| vm.mem().write(first.add(i), 0, &[i as u8 + 1; PAGE]));
    Some(first)
}
fn board_gone(vm: &Vm<Machine>, first: Pfn) {
    vm.mem().discard(first, FRAMES as u32);
    vm.contig_give_back(first, FRAMES).expect("they were taken");
}

/// A task that maps `n` pages of `pager`'s memory from page `from` on.
fn map<'a>(
    vm: &'a Vm<Machine>,
    pager: impl machvm_hal::Pager + Send + 'static,
    (from, n): (u64, u64),
) -> Task<'a> {
    let id = vm.platform().add_any_pager(Box::leak(Box::new(pager)));
    let (o, first) = vm.object_of_device(n, id, from * PAGE_SIZE, &mut may()).expect("memory");
    let t = Task::new(vm);
    let a = Attributes::new(Prot::RW);
    t.map.insert(pages(0, n), Backing::Shared(o, first), &a, &mut may()).expect("insert");
    t
}

fn first_byte(vm: &Vm<Machine>, f: Pfn) -> u8 {
    let mut b = [0];
    vm.mem().read(f, 0, &mut b);
    b[0]
}

/// Stores go to the device's frames, loads come from them; where it has none there is SIGBUS.
#[test]
fn g14_the_frames_are_mapped_as_they_are() {
    machines(256, |vm| {
        let Some(frames) = board(vm) else {
            // A machine whose frames are tied to objects has no way to map others.
            let pager = DevicePager::allocate(Board(Pfn(1)), 0, 8 * PAGE_SIZE, Prot::RW).expect("a device");
            let t = map(vm, pager, (0, 8));
            assert_eq!(t.load(at(0), &mut [0]), Err(FaultError::PagerGone(va(0))));
            assert_eq!(t.map.peek(va(0), &mut [0; PAGE], &mut may()), Err(FaultError::Foreign(va(0))));
            return;
        };
        let pager = DevicePager::allocate(Board(frames), 0, 20 * PAGE_SIZE, Prot::RW).expect("a device");
        let t = map(vm, pager, (2, 22));
        let free = vm.statistics().faults;
        // Pages 2 to 5 come with one fault, as they follow one another.
        for p in 0..4 {
            assert_eq!(page(&t, p), [p as u8 + 3; PAGE]);
        }
        assert_eq!(vm.statistics().faults, free + 1);
        assert_eq!(t.load(at(4), &mut [0]), Err(FaultError::PagerGone(va(4))), "page 6");
        assert_eq!(t.store(at(5), &[0]), Err(FaultError::PagerGone(va(5))), "page 7 is not written");
        assert_eq!(page(&t, 5), [8; PAGE]);
        assert_eq!(t.load(at(18), &mut [0]), Err(FaultError::Beyond(va(18))), "behind what was allocated");
        t.store(at(1), &[0x77]).expect("store");
        assert_eq!(first_byte(vm, frames.add(3)), 0x77);
        vm.mem().write(frames.add(3), 0, &[0x88]);
        assert_eq!(page(&t, 1)[..2], [0x88, 4], "what the device writes is seen");
        // Rights are the map's.
        let read = machvm::map::SetProt { prot: Some(Prot::R), max: None, holes: Holes::Refuse };
        t.map.protect(pages(0, 4), &read, &mut may()).expect("protect");
        assert_eq!(t.store(at(1), &[1]), Err(FaultError::Protection(va(1))));
        assert_eq!(page(&t, 1)[0], 0x88);
        // It never goes, so wiring it is nothing; there is nothing to page out, hold or copy.
        t.map.wire(pages(0, 4), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        t.map.unwire(pages(0, 4), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        assert_eq!(vm.pageout(10, &mut may()), 0);
        assert_eq!(t.map.peek(va(0), &mut [0; PAGE], &mut may()), Err(FaultError::Foreign(va(0))));
        let read = t.map.read_in_page(at(0), &mut [0; 8], &mut may());
        assert_eq!(read, Err(FaultError::Foreign(va(0))));
        let child = Task { map: t.map.fork(vm.platform().pmap(), &mut may()).expect("fork") };
        assert_eq!(child.load(at(0), &mut [0]), Err(FaultError::PagerGone(va(0))));
        drop(child);
        t.map.sync(pages(0, 22), true, &mut may()).expect("nothing to write");
        t.map.delete(pages(0, 1), &mut may()).expect("delete");
        assert_eq!(t.load(at(0), &mut [0]), Err(FaultError::NoMapping(va(0))));
        drop(t);
        board_gone(vm, frames);
    });
}

/// The pages of a list, in its order; behind it there is nothing.
#[test]
fn g16_a_list_of_frames_is_mapped() {
    machines(256, |vm| {
        let Some(frames) = board(vm) else { return };
        let list = [(10, 2), (3, 1), (20, 4), (0, 1)];
        let pager = SgPager::new(list.map(|(f, n)| (frames.add(f), n)), MemAttr::WriteBack).expect("frames");
        let t = map(vm, pager, (0, 10));
        let want = [10, 11, 3, 20, 21, 22, 23, 0];
        for (p, frame) in want.into_iter().enumerate() {
            t.store(at(p as u64) + 9, &[0x55]).expect("store");
            let mut got = vec![frame + 1; PAGE];
            got[9] = 0x55;
            assert_eq!(page(&t, p as u64), got);
        }
        for p in [8, 9] {
            assert_eq!(t.load(at(p), &mut [0]), Err(FaultError::Beyond(va(p))));
        }
        drop(t);
        board_gone(vm, frames);
    });
}

/// Every operation on what the dead have fails; nothing hangs.
#[test]
fn g17_the_dead_have_nothing() {
    machines(64, |vm| {
        let id = vm.platform().add_any_pager(&DeadPager);
        let o = vm.memory_object(id, 8 * PAGE_SIZE, &mut may()).expect("memory");
        let t = Task::new(vm);
        let a = Attributes::new(Prot::RW);
        t.map.insert(pages(0, 8), Backing::Shared(o, Pindex(0)), &a, &mut may()).expect("insert");
        for _ in 0..2 {
            assert_eq!(t.load(at(3), &mut [0]), Err(FaultError::PagerGone(va(3))));
            assert_eq!(t.store(at(3), &[0]), Err(FaultError::PagerGone(va(3))));
        }
        let gone = machvm_hal::PagerError::Gone;
        let sync = t.map.sync(pages(0, 8), false, &mut may());
        assert_eq!(sync, Err(machvm::map::SyncError::Pager(va(0), gone)));
        check_quiet(vm, [&t]);
        let t2 = map(vm, DeadPager, (0, 4));
        assert_eq!(t2.load(at(0), &mut [0]), Err(FaultError::PagerGone(va(0))));
    });
}

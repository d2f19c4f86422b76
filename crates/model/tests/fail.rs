//! Fail at k (issue 2, 5): each public operation is carried out with its k-th request
//! of each kind refused, k rising until none is. A failure leaves everything as it
//! was; a success is a success. The list of operations comes from the sources.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use machvm::fault::{Absent, Fault, HeldPage};
use machvm::map::{
    Advice, Advise, Attributes, Backing, EntryInfo, Holes, Inherit, Leave, Place, SetProt, StackShape, Wiring,
};
use machvm::{PagerId, Vm};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize, Va, VaRange};
use machvm_model::{Config, Machine, Point, Task, check_quiet};

const BASE: u64 = 0x1000 - 20;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn va(page: u64) -> Va {
    Va::from_page(BASE + page)
}
fn at(page: u64) -> u64 {
    va(page).get()
}
fn pages(first: u64, end: u64) -> VaRange {
    VaRange::between(va(first), va(end)).expect("not empty")
}

/// Two tasks that share what they have not written, with memory of every kind.
struct World<'vm> {
    vm: &'vm Vm<Machine>,
    a: Task<'vm>,
    b: Task<'vm>,
    file: PagerId,
    /// Objects and copies that operations make.
    children: Vec<Task<'vm>>,
}

/// Readable pages end here.
const END: u64 = 300;

impl<'vm> World<'vm> {
    fn new(vm: &'vm Vm<Machine>) -> Self {
        let a = Task::new(vm);
        let rw = Attributes::new(Prot::RW);
        let put = |r, backing, at: &Attributes| a.map.insert(r, backing, at, &mut may()).expect("insert");
        put(pages(0, 30), Backing::Anonymous, &rw);
        put(pages(30, 40), Backing::Anonymous, &Attributes { tag: 5, ..Attributes::new(Prot::ALL) });
        put(pages(60, 70), Backing::Guard, &rw);
        let data: Vec<u8> = (0..40 * PAGE_SIZE).map(|i| (i / 100) as u8).collect();
        let (file, _) = vm.platform().add_pager(data);
        let (o, at0) = vm.object_from_pager(20, file, 0, false, &mut may()).expect("object");
        put(pages(70, 90), Backing::Private(o, at0), &rw);
        let (o, at0) = vm.object_from_pager(10, file, 20 * PAGE_SIZE, true, &mut may()).expect("object");
        put(pages(100, 110), Backing::Shared(o, at0), &Attributes { inherit: Inherit::Share, ..rw });
        let shape = StackShape { pages: 64, initial: 4, guard: 2 };
        a.map.stack(Place::At(va(200)), shape, &rw, &mut may()).expect("stack");
        for p in (0..26).chain(30..36).chain(75..80).chain(100..105).chain(262..264) {
            a.store_word(at(p), p + 1).expect("store");
        }
        a.map.wire(pages(10, 12), Wiring::System, Holes::Refuse, &mut may()).expect("wire");
        let b = Task { map: a.map.fork(vm.platform().pmap(), &mut may()).expect("fork") };
        (2..5).for_each(|p| a.store_word(at(p), p + 1000).expect("store"));
        (4..7).for_each(|p| b.store_word(at(p), p + 2000).expect("store"));
        vm.pageout(12, &mut may());
        World { vm, a, b, file, children: Vec::new() }
    }

    fn tasks(&self) -> impl Iterator<Item = &Task<'vm>> {
        [&self.a, &self.b].into_iter().chain(&self.children)
    }

    /// What must not change: entries, regions, and every readable page.
    fn state(&self) -> State {
        check_quiet(self.vm, self.tasks());
        let live = self.vm.live();
        let one = |t: &Task<'_>| {
            let mut entries = Vec::new();
            t.map.for_each_entry(|e| entries.push(EntryInfo { object: None, ..e }), &mut may());
            let contents = (0..END)
                .map(|p| {
                    let readable = entries
                        .iter()
                        .any(|e| e.range.contains(va(p)) && e.attributes.prot.contains(Prot::R));
                    let mut page = [0; PAGE_SIZE as usize];
                    let ok = readable && t.map.peek(va(p), &mut page, &mut may()).is_ok();
                    ok.then(|| page.iter().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(*b))))
                })
                .collect();
            let regions: Vec<_> = t.map.pmap().regions().into_iter().map(|(v, n, _, p)| (v, n, p)).collect();
            TaskState { entries, contents, regions: join(regions) }
        };
        let tasks = self.tasks().map(one).collect();
        State { tasks, structures: [live[4], live[5]] }
    }
}

/// How the machine cuts regions does not matter.
fn join(mut list: Vec<(u64, u64, Prot)>) -> Vec<(u64, u64, Prot)> {
    list.dedup_by(|next, r| {
        let touches = r.0 + r.1 == next.0 && r.2 == next.2;
        if touches {
            r.1 += next.1;
        }
        touches
    });
    list
}

#[derive(PartialEq)]
struct TaskState {
    entries: Vec<EntryInfo>,
    contents: Vec<Option<u64>>,
    regions: Vec<(u64, u64, Prot)>,
}
#[derive(PartialEq)]
struct State {
    tasks: Vec<TaskState>,
    /// Objects and entries in use.
    structures: [u64; 2],
}

impl State {
    fn expect(&self, want: &State, what: &str) {
        for (i, (x, y)) in self.tasks.iter().zip(&want.tasks).enumerate() {
            assert_eq!(x.entries, y.entries, "{what}: entries of task {i}");
            assert_eq!(x.regions, y.regions, "{what}: regions of task {i}");
            for (p, (c, d)) in x.contents.iter().zip(&y.contents).enumerate() {
                assert_eq!(c, d, "{what}: page {p} of task {i}");
            }
        }
        assert_eq!(self.tasks.len(), want.tasks.len(), "{what}: tasks");
        assert_eq!(self.structures, want.structures, "{what}: objects and entries in use");
    }
}

type Run = fn(&mut World<'_>) -> Result<(), String>;

fn said<T, E: std::fmt::Debug>(r: Result<T, E>) -> Result<(), String> {
    r.map(|_| ()).map_err(|e| format!("{e:?}"))
}
fn fault(t: &Task<'_>, page: u64, access: Prot) -> Result<(), String> {
    said(t.map.fault(&Fault { addr: RawAddr(at(page)), access }, &mut may()))
}

/// Every operation that can fail, by the name of its function.
const OPS: &[(&str, Run)] = &[
    ("insert", |w| {
        said(w.a.map.insert(pages(42, 50), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may()))
    }),
    // Between two, joining neither.
    ("insert", |w| {
        said(w.a.map.insert(pages(40, 60), Backing::Guard, &Attributes::new(Prot::RW), &mut may()))
    }),
    ("fixed", |w| {
        said(w.a.map.fixed(pages(25, 75), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may()))
    }),
    ("find", |w| {
        let search = w.a.map.search();
        said(w.a.map.find(Place::Any(search), 7, Backing::Anonymous, &Attributes::new(Prot::R), &mut may()))
    }),
    ("find", |w| {
        let a = Attributes::new(Prot::RW);
        said(w.a.map.find(Place::Over(va(8)), 70, Backing::Anonymous, &a, &mut may()))
    }),
    ("delete", |w| said(w.a.map.delete(pages(5, 20), &mut may()))),
    ("delete", |w| said(w.a.map.delete(pages(15, 105), &mut may()))),
    ("protect", |w| said(w.a.map.protect(pages(5, 35), &SetProt::prot(Prot::R), &mut may()))),
    ("protect", |w| said(w.a.map.protect(pages(33, 80), &SetProt::prot(Prot::RW), &mut may()))),
    ("inherit", |w| said(w.a.map.inherit(pages(5, 35), Inherit::None, &mut may()))),
    ("madvise", |w| {
        let a = Advise::Access(Advice::Random);
        said(w.a.map.madvise(pages(5, 35), a, &mut may()))
    }),
    ("madvise", |w| said(w.a.map.madvise(pages(1, 5), Advise::DontNeed, &mut may()))),
    ("madvise", |w| said(w.b.map.madvise(pages(13, 26), Advise::DontNeed, &mut may()))),
    ("fork", |w| {
        let pmap = w.vm.platform().try_pmap().map_err(|e| format!("{e:?}"))?;
        let map = w.a.map.fork(pmap, &mut may());
        said(map.map(|map| w.children.push(Task { map })))
    }),
    ("copyin_destroy", |w| said(w.b.map.copyin_destroy(pages(5, 28), &mut may()))),
    ("find_wait", |w| {
        let (a, search) = (Attributes::new(Prot::R), w.a.map.search());
        said(w.a.map.find_wait(&search, 7, Backing::Anonymous, &a, &mut may()))
    }),
    ("delete_and_wakeup", |w| said(w.a.map.delete_and_wakeup(pages(5, 20), &mut may()))),
    ("find_min", |w| {
        let (a, search) = (Attributes::new(Prot::R), w.a.map.search());
        said(w.a.map.find_min(va(50), &search, 7, Backing::Anonymous, &a, &mut may()))
    }),
    ("wire_for", |w| {
        said(w.a.map.wire_for(pages(5, 35), Prot::W, Wiring::System, Holes::Refuse, &mut may()))
    }),
    ("copyin", |w| said(w.a.map.copyin(pages(0, 40), &mut may()))),
    ("overwrite", |w| {
        let inject = w.vm.platform().inject();
        let held = inject.pause();
        let copy = w.a.map.copyin(pages(0, 20), &mut may()).expect("copyin");
        inject.resume(held);
        said(w.b.map.overwrite(va(14), copy, &mut may()))
    }),
    ("copy_range", |w| said(w.a.map.copy_range(pages(0, 9), &w.b.map, va(71), &mut may()))),
    ("move_range", |w| said(w.a.map.move_range(pages(5, 35), va(120), Leave::Hole, &mut may()))),
    ("move_range", |w| said(w.b.map.move_range(pages(5, 35), va(120), Leave::Zeroes, &mut may()))),
    ("extend", |w| said(w.a.map.extend(va(90), 4, &mut may()))),
    ("extend", |w| said(w.a.map.extend(va(110), 4, &mut may()))),
    ("stack", |w| {
        let shape = StackShape { pages: 20, initial: 0, guard: 1 };
        said(w.a.map.stack(Place::Any(w.a.map.search()), shape, &Attributes::new(Prot::RW), &mut may()))
    }),
    ("growstack", |w| said(w.a.map.growstack(va(230), &mut may()))),
    ("wire", |w| said(w.a.map.wire(pages(5, 35), Wiring::User, Holes::Refuse, &mut may()))),
    ("unwire", |w| said(w.a.map.unwire(pages(10, 11), Wiring::System, Holes::Refuse, &mut may()))),
    ("sync", |w| said(w.a.map.sync(pages(100, 110), true, &mut may()))),
    ("sync_as", |w| {
        let how = machvm::map::SyncHow::START;
        said(w.a.map.sync_as(pages(100, 110), how, &mut may()))
    }),
    ("sync_entry", |w| said(w.a.map.sync_entry(va(103), false, &mut may()))),
    ("simplify", |w| {
        w.a.map.simplify(va(5), &mut may());
        Ok(())
    }),
    ("peek", |w| {
        let mut page = [0; PAGE_SIZE as usize];
        (0..90)
            .filter(|p| *p < 40 || *p >= 70)
            .try_for_each(|p| said(w.a.map.peek(va(p), &mut page, &mut may())))
    }),
    // Zero, zero in a stack that must grow, copy-on-write, the last sharer, swap, file.
    ("fault", |w| fault(&w.a, 28, Prot::W)),
    ("fault", |w| fault(&w.a, 240, Prot::W)),
    ("fault", |w| fault(&w.a, 20, Prot::W)),
    ("fault", |w| fault(&w.b, 20, Prot::R)),
    ("fault", |w| fault(&w.b, 21, Prot::W)),
    ("fault", |w| (0..26).try_for_each(|p| fault(&w.b, p, Prot::R))),
    ("fault", |w| (70..90).try_for_each(|p| fault(&w.a, p, Prot::R))),
    ("fault", |w| (70..90).try_for_each(|p| fault(&w.b, p, Prot::W))),
    ("fault", |w| (100..110).try_for_each(|p| fault(&w.b, p, Prot::W))),
    ("wire_page", |w| {
        let done = w.a.map.wire_page(va(27), &mut may());
        if done.is_ok() {
            w.a.map.unwire_page(va(27), &mut may());
        }
        said(done)
    }),
    ("wire_range", |w| {
        let done = w.a.map.wire_range(pages(0, 30), &mut may());
        if done.is_ok() {
            pages(0, 30).iter().for_each(|va| w.a.map.unwire_page(va, &mut may()));
        }
        said(done)
    }),
    // Absent, on swap, shared with the other task, wired.
    ("fault_quick_hold_pages", |w| {
        let mut list: [HeldPage; 30] = std::array::from_fn(|_| HeldPage::default());
        let (addr, len) = (RawAddr(at(0)), RawSize(30 * PAGE_SIZE));
        said(w.b.map.fault_quick_hold_pages(addr, len, Prot::RW, Absent::Fault, &mut list, &mut may()))
    }),
    // A copy while pages are held.
    ("fork", |w| {
        let inject = w.vm.platform().inject();
        let paused = inject.pause();
        let mut list: [HeldPage; 6] = std::array::from_fn(|_| HeldPage::default());
        let (addr, len) = (RawAddr(at(3)), RawSize(6 * PAGE_SIZE));
        let held = w.a.map.fault_quick_hold_pages(addr, len, Prot::RW, Absent::Fault, &mut list, &mut may());
        let held = held.expect("held");
        inject.resume(paused);
        let pmap = w.vm.platform().try_pmap().map_err(|e| format!("{e:?}"))?;
        let map = w.a.map.fork(pmap, &mut may());
        drop(held);
        said(map.map(|map| w.children.push(Task { map })))
    }),
    // Wired for reading, while a copy shares it.
    ("protect", |w| {
        let inject = w.vm.platform().inject();
        let paused = inject.pause();
        w.b.map.protect(pages(14, 20), &SetProt::prot(Prot::R), &mut may()).expect("protect");
        w.b.map.wire(pages(14, 20), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        inject.resume(paused);
        let done = w.b.map.protect(pages(14, 20), &SetProt::prot(Prot::RW), &mut may());
        let paused = inject.pause();
        w.b.map.unwire(pages(14, 20), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        w.b.map.protect(pages(14, 20), &SetProt::prot(Prot::RW), &mut may()).expect("protect");
        inject.resume(paused);
        said(done)
    }),
    ("object_allocate", |w| {
        let o = w.vm.object_allocate(10).map_err(|e| format!("{e:?}"))?;
        w.vm.object_deallocate(o.0, &mut may());
        Ok(())
    }),
    ("object_unpaged", |w| {
        let o = w.vm.object_unpaged(10).map_err(|e| format!("{e:?}"))?;
        w.vm.object_deallocate(o.0, &mut may());
        Ok(())
    }),
    ("object_of_device", |w| {
        let o = w.vm.object_of_device(10, w.file, 0, &mut may()).map_err(|e| format!("{e:?}"))?;
        w.vm.object_deallocate(o.0, &mut may());
        Ok(())
    }),
    ("object_from_pager", |w| {
        let o = w.vm.object_from_pager(10, w.file, 0, true, &mut may()).map_err(|e| format!("{e:?}"))?;
        w.vm.object_deallocate(o.0, &mut may());
        Ok(())
    }),
    ("pageout", |w| {
        w.vm.pageout(40, &mut may());
        Ok(())
    }),
    ("clear", |w| {
        w.b.map.clear(&mut may());
        Ok(())
    }),
    // A submap in the hole, with memory behind it that is touched through it.
    ("submap", |w| {
        let pmap = w.vm.platform().try_pmap().map_err(|e| format!("{e:?}"))?;
        let bounds = pages(1000, 1100);
        let sub = machvm::map::Map::new_submap(w.vm, pmap, bounds).map_err(|e| format!("{e:?}"))?;
        let rw = Attributes::new(Prot::RW);
        said(sub.insert(pages(1000, 1004), Backing::Anonymous, &rw, &mut may()))?;
        said(w.a.map.insert(pages(140, 144), Backing::Guard, &rw, &mut may()))?;
        said(w.a.map.submap(pages(140, 144), &sub, va(1000), &mut may())).expect("a guard");
        let done = fault(&w.a, 141, Prot::W).and_then(|()| said(w.a.map.copyin(pages(140, 144), &mut may())));
        let held = w.vm.platform().inject().pause();
        w.a.map.delete(pages(140, 144), &mut may()).expect("memory");
        w.vm.platform().inject().resume(held);
        done
    }),
    ("suballoc", |w| {
        let pmap = w.vm.platform().try_pmap().map_err(|e| format!("{e:?}"))?;
        let search = w.a.map.search();
        let done = w.a.map.suballoc(pmap, search, 4, &mut may());
        let made = said(done.as_ref().map(|_| ()));
        if let Ok(sub) = done {
            let all = VaRange::between(sub.min(), sub.max()).expect("not empty");
            let held = w.vm.platform().inject().pause();
            w.a.map.delete(all, &mut may()).expect("memory");
            w.vm.platform().inject().resume(held);
        }
        made
    }),
    ("vm_fault_prefault", |w| {
        w.b.map.vm_fault_prefault(va(20), 8, 8);
        Ok(())
    }),
];

/// Parts of the Mach calls that stand outside `core/src/task`: their tests make them fail
/// through the calls (`calls_that_fail_change_nothing`).
const OF_TASK: &[&str] = &[
    // Made to fail as a part of `submap`.
    "new_submap",
    "copyout",
    "extract",
    "unextract",
    "overwrite_if",
    "set_maximum",
    "deactivate",
    "read_in_page",
    "write_in_page",
    // Questions, and what takes no memory.
    "check_access",
    "facts_at",
    "for_each_piece",
    "frame_at",
    "of_object",
    "purge_volatile",
    "region_from",
    "window",
];

/// Memory objects: in `emmi.rs`, with their errors.
const OF_PAGERS: &[&str] =
    &["ask_unlock", "memory_object", "memory_object_control", "object_cache_len", "set_object_cache"];

/// Parts of `fork(2)` of a process with a VM, which is Linux's only: its tests
/// (`crates/linux/tests/fork`) make it fail.
const OF_FORK: &[&str] = &["object_rehome", "object_leave", "object_return"];

/// Asks for nothing that could be refused: questions, locks, settings.
const CANNOT_FAIL: &[&str] = &[
    // of maps
    "new",
    "limits",
    "set_limits",
    "flags",
    "modflags",
    "size",
    "entry_count",
    "lock",
    "lock_read",
    "trylock",
    "trylock_read",
    "lock_upgrade",
    "lock_downgrade",
    "timestamp",
    "lookup",
    "check",
    "check_protection",
    "search",
    "findspace",
    "for_each_entry",
    "entry_from",
    "entry_at_or_below",
    "lookup_held",
    "try_lookup",
    "verify",
    "unlock_and_wait",
    "wakeup",
    "wait_busy",
    "range_valid",
    "range_check",
    "take",
    // of address spaces: exec and unshare are fork() and a pmap that the embedder makes
    "alloc",
    "map",
    "references",
    "acquire_ref",
    "exit",
    "exec",
    "unshare",
    "resident_count",
    "wired_count",
    "swap_count",
    "entry_through",
    "region_through",
    "views",
    "submaps",
    "vm",
    "pmap",
    "min",
    "max",
    "prot",
    "pindex",
    "pages",
    "is_resident",
    "next_populated",
    "unwire_page",
    "swap_in",
    "swap_in_is_slow",
    // of the fault: fault() is these in a loop
    "fault_wait",
    "fault_step",
    // of what is held
    "count",
    "frame",
    "read",
    "write",
    "release",
    // of the system: new() takes no memory but in the dense placement, see below
    "platform",
    "host",
    "mem",
    "page_array",
    "statistics",
    "frame_limit",
    "set_replaced_limit",
    "replaced_pages",
    "free_replaced",
    "free_all_replaced",
    "live",
    "walk",
    "check_pages",
    "check_commit",
    "committed",
    "set_commit_policy",
    "va",
    "object_reference",
    "object_deallocate",
    "object_capacity",
    "object_home",
    "for_each_frame",
    "memory_is_low",
    "pageout_to_target",
    // of frames: the pool is all they ask
    "anywhere",
    "contig_take",
    "contig_give_back",
    "frame_take_wired",
    "frame_give_back",
    "frames_taken",
    "set_frame_reserve",
    "reservation_is_full",
];

/// What `tests/pages.rs` and `tests/objects.rs` make fail, and questions about pages.
const OF_PAGES: &[&str] = &[
    "written",
    "is_wired",
    "vm_object_coalesce",
    "vm_object_color",
    "vm_object_info",
    "vm_object_madvise",
    "vm_object_next",
    "vm_object_page_clean",
    "vm_object_page_noreuse",
    "vm_object_page_remove",
    "vm_object_pmap_protect",
    "vm_object_set_size",
    "vm_object_populate",
    "vm_object_shadow",
    "vm_object_split",
    "vm_object_sync",
    "activate",
    "advise",
    "clear_dirty",
    "deactivate_noreuse",
    "dirty",
    "launder",
    "queue",
    "readahead_finish",
    "reference",
    "requeue",
    "set_dirty",
    "set_invalid",
    "set_validclean",
    "test_dirty",
    "try_remove_all",
    "try_remove_write",
    "undirty",
    "unswappable",
    "vm_page_alloc_contig",
    "vm_page_alloc_noobj_contig",
    "vm_page_ps_test",
    "vm_page_queue",
    "vm_page_reclaim_contig",
    "zero_invalid",
    "downgrade",
    "free",
    "is_shared",
    "is_valid",
    "is_wanted",
    "number",
    "pagedaemon_wakeup",
    "pfn",
    "place",
    "read",
    "remove",
    "rename",
    "replace",
    "set_valid",
    "try_upgrade",
    "vm_page_alloc",
    "vm_page_alloc_noobj",
    "vm_page_busied",
    "vm_page_count_min",
    "vm_page_count_severe",
    "vm_page_find_least",
    "vm_page_grab",
    "vm_page_grab_pages",
    "vm_page_grab_shared",
    "vm_page_grab_valid",
    "vm_page_insert",
    "vm_page_lookup",
    "vm_page_next",
    "vm_page_prev",
    "vm_page_sleep_if_busy",
    "vm_page_trysbusy",
    "vm_page_tryxbusy",
    "vm_page_wired",
    "vm_page_xbusied",
    "vm_wait",
    "waiting",
    "write",
    "zeroed",
];

/// Page replacement: decisions, which take nothing, and the scan, which `pageout` makes fail.
const OF_POLICY: &[&str] = &[
    "aim",
    "aside",
    "aside_target",
    "bits",
    "classic",
    "daemon",
    "from_bits",
    "hit",
    "is_aside",
    "is_time_to_write",
    "launder_ahead",
    "mapped",
    "marks",
    "named",
    "note_freed",
    "policy",
    "reset",
    "retry_unswappable",
    "sample_uses",
    "scan",
    "sum",
    "swap_room_came",
    "want",
];

/// Names of the public functions of the operations' sources.
fn public_functions() -> BTreeSet<String> {
    let core = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src");
    let mut names = BTreeSet::new();
    let mut dirs = vec![core];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("the core's sources") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                // The Mach calls are made to fail by their own tests, `task/tests/fail.rs`.
                if path.file_name().is_some_and(|n| n != "tests" && n != "task") {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("source");
                let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(&text);
                for line in body.lines().map(str::trim_start) {
                    let rest = ["pub fn ", "pub const fn "].iter().find_map(|p| line.strip_prefix(p));
                    if let Some(name) = rest.and_then(|r| r.split(['(', '<']).next()) {
                        names.insert(name.to_string());
                    }
                }
            }
        }
    }
    names
}

#[test]
fn every_public_function_is_listed() {
    let found = public_functions();
    let known: BTreeSet<String> = OPS
        .iter()
        .map(|(n, _)| *n)
        .chain([CANNOT_FAIL, OF_TASK, OF_PAGES, OF_FORK, OF_PAGERS, OF_POLICY].concat())
        .map(String::from)
        .collect();
    let missing: Vec<_> = found.difference(&known).collect();
    let stale: Vec<_> = known.difference(&found).collect();
    assert!(missing.is_empty(), "not tested for failure: {missing:?}");
    assert!(stale.is_empty(), "no such function: {stale:?}");
    assert!(found.len() > 60, "the sources were not read: {found:?}");
}

/// What page tables ask for.
const OF_TABLES: [(&str, u32); 4] = [
    ("any of tables", Point::Table as u32 | Point::Record as u32),
    ("table", Point::Table as u32),
    ("record", Point::Record as u32),
    ("object", Point::Object as u32),
];

const ONE_SHOT: [(&str, u32); 12] = [
    ("any", u32::MAX),
    ("object", Point::Object as u32),
    ("extent", Point::Extent as u32),
    ("zero", Point::Zero as u32),
    ("prepare", Point::Prepare as u32),
    ("enter", Point::Enter as u32),
    ("region", Point::Region as u32),
    ("region protect", Point::RegionProtect as u32),
    ("swap put", Point::SwapPut as u32),
    ("swap get", Point::SwapGet as u32),
    ("page in", Point::PageIn as u32),
    ("page out", Point::PageOut as u32),
];

/// One operation with its k-th request refused. Gives how many were refused.
fn one(
    c: Config,
    name: &str,
    run: Run,
    points: (&str, u32),
    k: u64,
    lasting: bool,
    want: &[State; 2],
) -> u64 {
    let what = format!("{name} {} k {k} lasting {lasting} {c:?}", points.0);
    let vm = vm(c);
    let mut w = World::new(&vm);
    let inject = vm.platform().inject();
    inject.arm(points.1, k, lasting);
    let done = catch_unwind(AssertUnwindSafe(|| run(&mut w)));
    let fired = inject.disarm();
    let done = done.unwrap_or_else(|_| panic!("{what}: panic"));
    let state = w.state();
    match &done {
        Ok(()) => state.expect(&want[1], &format!("{what}: succeeded")),
        Err(e) => {
            assert!(fired != 0, "{what}: failed by itself: {e}");
            // A fault that grew a stack has done that much.
            let grown = name == "fault" && state.tasks[0].entries == want[1].tasks[0].entries;
            state.expect(&want[usize::from(grown)], &format!("{what}: failed with {e}"));
            // And now it works.
            let again = run(&mut w);
            assert_eq!(again, Ok(()), "{what}: after it failed with {e}");
            w.state().expect(&want[1], &format!("{what}: succeeded after it failed with {e}"));
        }
    }
    drop(w);
    check_quiet(&vm, []);
    assert_eq!(vm.live(), [0; 6], "{what}: left over");
    assert_eq!(vm.platform().pager_users(), 0, "{what}: users of the pager");
    assert_eq!(vm.platform().mem_swap().map(|s| s.kept()), Some(0), "{what}: swap");
    fired
}

fn vm(c: Config) -> Vm<Machine> {
    Vm::new(Machine::new(c)).expect("memory")
}

const FLAT: Config = Config {
    mmu: machvm_model::Mmu::Flat,
    sparse: true,
    frames: 400,
    swap: Some(1 << 20),
    forget: 0,
    reference_bits: true,
    policy: machvm::pageout::Replacement::Clock,
    seed: 1,
};

fn fail_at_k(c: Config, one_shot: &[(&str, u32)], for_good: &[Point]) {
    let mut tried = 0;
    for (name, run) in OPS {
        let start = std::time::Instant::now();
        let first = tried;
        let vm = vm(c);
        let mut w = World::new(&vm);
        let before = w.state();
        drop(w);
        w = World::new(&vm);
        assert_eq!(run(&mut w), Ok(()), "{name} must work when nothing is refused");
        let want = [before, w.state()];
        drop(w);
        for points in one_shot {
            for k in 1.. {
                tried += 1;
                if one(c, name, *run, *points, k, false, &want) == 0 {
                    break;
                }
                assert!(k < 2000, "{name} never gets by");
            }
        }
        // For good: what asks again must end all the same.
        for p in for_good {
            for k in [1, 2, 5] {
                tried += 1;
                one(c, name, *run, ("from then on", *p as u32), k, true, &want);
            }
        }
        println!("{name}: {} runs, {:?}", tried - first, start.elapsed());
    }
    println!("{tried} runs of {} operations", OPS.len());
}

/// What may fail for good in a flat machine.
const FOR_GOOD: [Point; 7] =
    [Point::Object, Point::Extent, Point::Zero, Point::Prepare, Point::Enter, Point::SwapPut, Point::SwapGet];

#[test]
fn fail_at_k_sparse() {
    fail_at_k(FLAT, &ONE_SHOT, &FOR_GOOD);
}
#[test]
fn fail_at_k_dense() {
    fail_at_k(Config { sparse: false, ..FLAT }, &ONE_SHOT, &FOR_GOOD);
}
/// Frames of tables, records of mappings and structures of pmaps; every format with
/// `MACHVM_LONG`.
#[test]
fn fail_at_k_tables() {
    let long = std::env::var_os("MACHVM_LONG").is_some();
    for (i, c) in FLAT.every_format().enumerate() {
        // x86-64 with four levels, and a format that detaches, without notes of use.
        if long || i == 0 || i == 5 {
            fail_at_k(c, &OF_TABLES, &[Point::Table, Point::Record]);
        }
    }
}

/// A system whose platform has no memory at all, or runs out while it is made.
#[test]
fn no_memory_for_the_system_itself() {
    for sparse in [true, false] {
        for k in [1, 2, 100] {
            let m = Machine::new(Config { sparse, frames: 200, ..Config::default() });
            m.inject().arm(Point::Object as u32, k, true);
            assert_eq!(Vm::new(m).is_ok(), sparse, "dense makes its pages at once");
        }
    }
}

//! The operations.

use core::mem::{ManuallyDrop, size_of};
use core::num::NonZeroU32;

use machvm_hal::pmap9::Pmap9;
use machvm_hal::{
    CpuId, EnterFlags, Gather, MaySleep, PageMd, PageNo, Pmap, PmapPage, Prot, RemoveWhy, Va, VaRange,
};
use machvm_pmap::{Nine, NinePmap, PtPmap, System, TableMd};

use super::machine::{Mini, NoMem, Pages};

/// Pages of a 2 MiB window.
const WINDOW: u64 = 512;
/// The first page that is mapped: at 1 GiB.
const BASE: u64 = 1 << 18;
/// Address spaces that share one page.
const SHARERS: usize = 100;

type Sys = &'static System<Mini>;

/// How large a scene is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// As the name of the operation says.
    Full,
    /// A gigabyte is four windows.
    Small,
}

/// Everything an operation works on. Lives on the stack of who measures, as a gather
/// does in the core.
pub struct Scene {
    sys: Sys,
    pages: &'static Pages,
    spaces: Vec<PtPmap<Mini, Sys>>,
    nine: Vec<NinePmap<Mini, Sys, &'static Pages>>,
    /// Every page, in order.
    run: Vec<PageNo>,
    /// Pages mapped.
    mapped: u64,
    /// What it holds is lost with the machine.
    gather: ManuallyDrop<Gather>,
}

impl core::fmt::Debug for Scene {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Scene")
            .field("spaces", &self.spaces)
            .field("mapped", &self.mapped)
            .finish_non_exhaustive()
    }
}

/// An operation.
#[derive(Debug)]
pub struct Op {
    /// For programs.
    pub id: &'static str,
    /// For people.
    pub text: &'static str,
    /// Times it is done in one measurement.
    pub times: usize,
    /// What the figure is for, and how many of that one operation has.
    pub per: (&'static str, u32),
    /// Instructions that it should cost at most.
    pub goal: Option<u32>,
    /// Makes what it needs.
    pub setup: fn(Size) -> Scene,
    /// Does it, the `n`th time.
    pub run: fn(&mut Scene, usize),
}

/// The operation of that name.
///
/// # Panics
/// There is none.
pub fn op(id: &str) -> &'static Op {
    OPS.iter().find(|o| o.id == id).unwrap_or_else(|| panic!("no operation is called {id}"))
}

/// All of them.
pub static OPS: [Op; 18] = [
    Op {
        id: "enter",
        text: "enter, the table is there",
        times: 64,
        per: ("page", 1),
        goal: Some(120),
        setup: |_| Scene::with_table(),
        run: |s, n| s.enter(0, n as u64, n + 1, 1),
    },
    Op {
        id: "enter_again",
        text: "enter of what is mapped so already",
        times: 64,
        per: ("page", 1),
        goal: None,
        setup: |_| Scene::filled(1, WINDOW, 1),
        run: |s, n| s.enter(0, n as u64, n + 1, 1),
    },
    Op {
        id: "enter_16",
        text: "enter of 16 pages in one run",
        times: 16,
        per: ("page", 16),
        goal: None,
        setup: |_| Scene::with_table(),
        run: |s, n| s.enter(0, 16 * n as u64, 16 * n + 1, 16),
    },
    Op {
        id: "enter_512",
        text: "enter of 512 pages in one run, a new table",
        times: 1,
        per: ("page", 512),
        goal: None,
        setup: |_| Scene::new(1, 2 * WINDOW),
        run: |s, _| s.enter(0, 0, 1, 512),
    },
    Op {
        id: "enter_object",
        text: "pmap_enter_object, 512 resident pages, a new table",
        times: 1,
        per: ("page", 512),
        goal: Some(12),
        setup: |_| Scene::new(1, 2 * WINDOW),
        run: |s, _| {
            let mut resident = s.run[1..=512].iter().enumerate().map(|(i, p)| (i as u64, *p));
            s.nine[0].pmap_enter_object(range(0, WINDOW), &mut resident, Prot::R);
        },
    },
    Op {
        id: "remove_512",
        text: "remove of 512 pages and their table",
        times: 1,
        per: ("page", 512),
        goal: Some(10),
        setup: |_| Scene::filled(1, WINDOW, 1),
        run: |s, _| s.spaces[0].remove(s.pages, range(0, WINDOW), &mut s.gather),
    },
    Op {
        id: "remove_flush",
        text: "remove of one page, flushed on its one CPU",
        times: 64,
        per: ("page", 1),
        goal: None,
        setup: |_| {
            let s = Scene::filled(1, WINDOW, 1);
            s.spaces[0].activate(CpuId(0));
            s
        },
        run: |s, n| {
            let mut g = Gather::new();
            s.spaces[0].remove(s.pages, range(n as u64, 1), &mut g);
            let _ = g.finish(s.sys, &mut MaySleep::claim());
        },
    },
    Op {
        id: "protect_512",
        text: "protect of 512 writable pages",
        times: 1,
        per: ("page", 512),
        goal: None,
        setup: |_| Scene::filled(1, WINDOW, 1),
        run: |s, _| s.spaces[0].protect(s.pages, range(0, WINDOW), Prot::R, &mut s.gather),
    },
    Op {
        id: "fork_pages",
        text: "protect for fork, 1 GiB resident as 4 KiB pages",
        times: 1,
        per: ("all", 1),
        goal: Some(2000),
        setup: |size| Scene::filled(1, gigabyte(size), 1),
        run: |s, _| s.spaces[0].protect_copy(s.pages, range(0, s.mapped), true, &mut s.gather),
    },
    Op {
        id: "fork_superpages",
        text: "protect for fork, 1 GiB resident as superpages",
        times: 1,
        per: ("all", 1),
        goal: Some(2000),
        setup: |size| Scene::filled(1, gigabyte(size), 0),
        run: |s, _| s.spaces[0].protect_copy(s.pages, range(0, s.mapped), true, &mut s.gather),
    },
    Op {
        id: "fork_fault",
        text: "first write fault in a full window after that",
        times: 1,
        per: ("all", 1),
        goal: None,
        setup: |_| {
            let mut s = Scene::filled(1, 4 * WINDOW, 1);
            s.spaces[0].protect_copy(s.pages, range(0, s.mapped), true, &mut s.gather);
            s
        },
        run: |s, _| s.enter(0, 7, 8, 1),
    },
    Op {
        id: "promote",
        text: "enter of the 512th page, promotion included",
        times: 1,
        per: ("all", 1),
        goal: Some(2300),
        setup: |_| {
            let mut s = Scene::new(1, WINDOW);
            s.enter(0, 0, 0, 511);
            s
        },
        run: |s, _| s.enter(0, 511, 511, 1),
    },
    Op {
        id: "demote",
        text: "protect of one page of a superpage, demotion included",
        times: 1,
        per: ("all", 1),
        goal: None,
        setup: |_| Scene::filled(1, WINDOW, 0),
        run: |s, _| s.spaces[0].protect(s.pages, range(5, 1), Prot::R, &mut s.gather),
    },
    Op {
        id: "page_protect",
        text: "page_write_protect of a page with 100 mappings",
        times: 1,
        per: ("mapping", SHARERS as u32),
        goal: Some(60),
        setup: |_| Scene::filled(SHARERS, 2, 1),
        run: |s, _| s.sys.page_write_protect(s.pages, &[s.run[1]], &mut s.gather),
    },
    Op {
        id: "page_remove",
        text: "page_remove of a page with one mapping",
        times: 64,
        per: ("mapping", 1),
        goal: None,
        setup: |_| Scene::filled(1, WINDOW, 1),
        run: |s, n| s.sys.page_remove(s.pages, &[s.run[n + 1]], RemoveWhy::Sample, &mut s.gather),
    },
    Op {
        id: "page_refmod",
        text: "page_refmod of a page with one mapping",
        times: 64,
        per: ("mapping", 1),
        goal: None,
        setup: |_| Scene::filled(1, WINDOW, 1),
        run: |s, n| {
            core::hint::black_box(s.sys.page_refmod(s.pages, s.run[n + 1]));
        },
    },
    Op {
        id: "extract",
        text: "extract",
        times: 64,
        per: ("page", 1),
        goal: None,
        setup: |_| Scene::filled(1, WINDOW, 1),
        run: |s, n| {
            let found = s.spaces[0].extract(s.pages, at(n as u64));
            assert!(core::hint::black_box(found).is_some());
        },
    },
    Op {
        id: "activate",
        text: "activate, from another pmap, both have numbers",
        times: 64,
        per: ("switch", 1),
        goal: None,
        setup: |_| {
            let s = Scene::new(2, 1);
            s.spaces.iter().for_each(|p| p.activate(CpuId(0)));
            s
        },
        run: |s, n| s.spaces[n % 2].activate(CpuId(0)),
    },
];

fn gigabyte(size: Size) -> u64 {
    if size == Size::Full { 1 << 18 } else { 4 * WINDOW }
}

fn at(page: u64) -> Va {
    Va::from_page(BASE + page)
}

fn range(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(at(first), n).expect("a range")
}

impl Scene {
    /// Empty address spaces, and pages that are not mapped.
    fn new(spaces: usize, n: u64) -> Scene {
        let sys: Sys = Box::leak(Box::new(System::new(Mini::new()).expect("a system")));
        let pages: &'static Pages = Box::leak(Box::new(Pages::new(n as usize + 1)));
        let nine = Nine::new(sys, pages, &NoMem).expect("a table");
        let spaces: Vec<_> = (0..spaces).map(|_| PtPmap::create(sys).expect("a pmap")).collect();
        Scene {
            sys,
            pages,
            nine: spaces.iter().map(|p| nine.adopt(p.clone())).collect(),
            spaces,
            run: (1..=n as u32 + 1).filter_map(NonZeroU32::new).map(PageNo).collect(),
            mapped: 0,
            gather: ManuallyDrop::new(Gather::new()),
        }
    }
    /// Every space maps `n` pages, written to. The first is page `shift`; unless that is 0
    /// nothing can be promoted.
    fn filled(spaces: usize, n: u64, shift: usize) -> Scene {
        let mut s = Scene::new(spaces, n + 1);
        for space in 0..spaces {
            s.enter(space, 0, shift, n as usize);
        }
        s.mapped = n;
        s.gather = ManuallyDrop::new(Gather::new());
        s
    }
    /// One space with a table for the first window, and its last page in it.
    fn with_table() -> Scene {
        let mut s = Scene::new(1, WINDOW);
        s.enter(0, WINDOW - 1, 0, 1);
        s
    }
    /// Enters `n` pages from `first` on, writable and written, at `page`.
    #[inline]
    fn enter(&mut self, space: usize, page: u64, first: usize, n: usize) {
        let run = &self.run[first..first + n];
        let none = EnterFlags::empty();
        self.spaces[space]
            .enter(self.pages, at(page), run, Prot::RW, Prot::W, none, &mut self.gather)
            .expect("entered");
    }
}

/// Memory that mappings take, as lines of text: name, ours, FreeBSD's.
pub fn memory() -> Vec<[String; 3]> {
    const N: u64 = 8 * WINDOW;
    let mut rows = vec![
        [
            "in the page structure (FreeBSD: all of vm_page)".into(),
            size_of::<PageMd>().to_string(),
            "104".into(),
        ],
        [
            "structure beside a table's frame (FreeBSD: its vm_page)".into(),
            size_of::<TableMd>().to_string(),
            "104".into(),
        ],
    ];
    for spaces in [1, 2, 7, 13, SHARERS] {
        let mut s = Scene::new(spaces, N + 1);
        let (tables, bytes) = s.sys.port().used();
        for space in 0..spaces {
            // Window by window, as faults come.
            (0..N / WINDOW).for_each(|w| {
                s.enter(space, w * WINDOW, 1 + (w * WINDOW) as usize, WINDOW as usize);
            });
        }
        let (tables, bytes) = {
            let (t, b) = s.sys.port().used();
            (t - tables, b - bytes)
        };
        let mappings = spaces as f64 * N as f64;
        rows.push([
            format!("records of a mapping, {N} pages mapped by {spaces} (slabs grow by doubling)"),
            format!("{:.2}", bytes as f64 / mappings),
            "24.38".into(),
        ]);
        rows.push([
            format!("tables of a mapping, the same ({tables} tables)"),
            format!("{:.2}", (tables * (4096 + size_of::<TableMd>())) as f64 / mappings),
            format!("{:.2}", (tables * (4096 + 104)) as f64 / mappings),
        ]);
    }
    rows
}

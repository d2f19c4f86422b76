//! Host threads that run at once, one a CPU, on the real pmap: interrupts are taken by
//! their owners, and what one thread has not flushed yet is no mistake of another's.

use std::num::NonZeroU32;
use std::sync::Arc;

use machvm_hal::{
    CpuId, EnterFlags, Gather, MaySleep, PageArray, PageMd, PageNo, Pfn, Pmap, PmapPage, Prot, RemoveWhy, Va,
    VaRange,
};
use machvm_pmap::pte::{Aarch64, Sv39, X86L4};
use machvm_pmap::{PtPmap, System};

use crate::hw::{Access, Config, Delivery, HwFormat, HwPort, Mode};
use crate::rng::Rng;

struct Pages {
    first: Pfn,
    md: Vec<PageMd>,
}

impl PageArray for Pages {
    fn md(&self, page: PageNo) -> &PageMd {
        &self.md[page.0.get() as usize - 1]
    }
    fn pfn(&self, page: PageNo) -> Pfn {
        self.first.add(u64::from(page.0.get()) - 1)
    }
    fn page_at(&self, frame: Pfn) -> Option<PageNo> {
        let n = frame.0.checked_sub(self.first.0).filter(|n| *n < self.md.len() as u64)?;
        NonZeroU32::new(n as u32 + 1).map(PageNo)
    }
}

type Map<F> = PtPmap<HwPort<F>, Arc<System<HwPort<F>>>>;

/// One thread's work: pages and addresses of its own, in tables that the others use too.
fn work<F: HwFormat>(cpu: u16, seed: u64, sys: &Arc<System<HwPort<F>>>, maps: &[Map<F>], pages: &Pages) {
    let hw = sys.port().hw();
    let mut rng = Rng::new(seed << 8 | u64::from(cpu));
    let finish = |g: Gather| {
        let _ = g.finish(&**sys, &mut MaySleep::claim());
    };
    let mut map = &maps[0];
    map.activate(CpuId(cpu));
    for _ in 0..600 {
        if rng.one_in(16) {
            map = rng.pick(maps);
            map.activate(CpuId(cpu));
        }
        let i = rng.below(48);
        let page = PageNo(NonZeroU32::new(1 + u32::from(cpu) * 64 + i as u32).expect("not zero"));
        let va = Va::from_page(512 + u64::from(cpu) * 64 + i);
        let range = VaRange::page(va);
        let mut g = Gather::new();
        match rng.below(6) {
            0 | 1 => map
                .enter(pages, va, &[page], Prot::RW, Prot::W, EnterFlags::empty(), &mut g)
                .expect("there is memory, and an address has one page"),
            2 => map.remove(pages, range, &mut g),
            3 => map.protect(pages, range, Prot::R, &mut g),
            4 => {
                let _ = hw.access(va.get(), Access::Write, Mode::User);
            }
            _ => {
                sys.page_remove(pages, &[page], RemoveWhy::Free, &mut g);
                finish(std::mem::take(&mut g));
                hw.release(pages.pfn(page));
                hw.claim(pages.pfn(page));
            }
        }
        let since = hw.now();
        finish(g);
        hw.check_flushed(Some(map.root()), range, since);
    }
    maps.iter().for_each(|m| m.deactivate(CpuId(cpu)));
}

fn run<F: HwFormat>(seed: u64) {
    let config = Config { delivery: Delivery::Owner, ..Config::new(F::ARCH, seed) };
    let port = HwPort::<F>::new(config);
    let hw = port.hw().clone();
    let sys = Arc::new(System::new(port).expect("memory for the kernel's root"));
    let handler = Arc::downgrade(&sys);
    hw.set_ipi_handler(move |_| {
        if let Some(sys) = handler.upgrade() {
            sys.shootdown_interrupt();
        }
    });
    hw.set_kernel_root(PtPmap::kernel(sys.clone()).root());
    let md = (0..config.frames).map(|_| PageMd::default()).collect();
    let pages = Pages { first: Pfn(config.first_frame()), md };
    let maps: Vec<Map<F>> = (0..2).map(|_| PtPmap::create(sys.clone()).expect("memory for a root")).collect();
    maps.iter().for_each(|m| hw.space_begins(m.root()));
    std::thread::scope(|s| {
        for cpu in 0..config.cpus {
            let (hw, sys, maps, pages) = (&hw, &sys, &maps, &pages);
            s.spawn(move || hw.on_cpu(cpu, || work(cpu, seed, sys, maps, pages)));
        }
    });
    hw.check_quiet();
    hw.assert_clean();
    let mut g = Gather::new();
    for m in &maps {
        m.remove(&pages, VaRange::of_pages(Va::from_page(512), 512).expect("fits"), &mut g);
    }
    let _ = g.finish(&*sys, &mut MaySleep::claim());
    assert_eq!(maps.iter().map(Pmap::resident_count).sum::<u64>(), 0);
}

#[test]
fn four_threads_on_two_pmaps() {
    for seed in 1..4 {
        run::<X86L4>(seed);
        run::<Aarch64>(seed);
        run::<Sv39>(seed);
    }
}

//! Taking away, by address and by page.

use super::*;

impl<F: HwFormat> World<F> {
    pub(super) fn remove(&mut self, s: usize) -> &'static str {
        let range = self.a_range();
        let mut g = Gather::new();
        self.space(s).pmap.remove(&self.pages, range, &mut g);
        let mut gone: Vec<(usize, u64)> = Vec::new();
        self.told(s).retain(|va, _| {
            let inside = range.contains(Va::from_page(*va));
            if inside {
                gone.push((s, *va));
            }
            !inside
        });
        self.settle(g, Some(s), range, gone, Vec::new());
        "remove"
    }

    pub(super) fn protect(&mut self, s: usize) -> &'static str {
        let (range, prot) =
            (self.a_range(), *self.rng.pick(&[Prot::R, Prot::R | Prot::X, Prot::RW, Prot::NONE]));
        let mut g = Gather::new();
        self.space(s).pmap.protect(&self.pages, range, prot, &mut g);
        let mut gone = Vec::new();
        self.told(s).retain(|va, t| {
            if range.contains(Va::from_page(*va)) {
                t.prot &= prot;
                if prot.is_empty() {
                    gone.push((s, *va));
                    return false;
                }
            }
            true
        });
        self.settle(g, Some(s), range, gone, Vec::new());
        "protect"
    }

    pub(super) fn protect_copy(&mut self, s: usize) -> &'static str {
        let (range, whole) = (self.a_range(), self.rng.one_in(2));
        let mut g = Gather::new();
        self.space(s).pmap.protect_copy(&self.pages, range, whole, &mut g);
        for (_, t) in self.told(s).range_mut(range.start().page()..range.end().page()) {
            t.prot -= Prot::W;
        }
        self.settle(g, Some(s), range, Vec::new(), Vec::new());
        "protect_copy"
    }

    pub(super) fn unwire(&mut self, s: usize) -> &'static str {
        let range = self.a_range();
        let mut g = Gather::new();
        self.space(s).pmap.unwire(&self.pages, range, &mut g);
        for (_, t) in self.told(s).range_mut(range.start().page()..range.end().page()) {
            t.wired = false;
        }
        self.settle(g, None, range, Vec::new(), Vec::new());
        "unwire"
    }

    /// Every mapping of some pages goes, and their frames get a new use.
    pub(super) fn page_remove(&mut self) -> &'static str {
        let list: Vec<PageNo> = (0..self.rng.range(1, 4)).map(|_| self.a_page()).collect();
        list.iter().for_each(|p| self.own_page(*p));
        let mut g = Gather::new();
        self.sys.page_remove(&self.pages, &list, RemoveWhy::Free, &mut g);
        let mut gone = Vec::new();
        for (i, sp) in self.spaces.iter_mut().enumerate() {
            let Some(sp) = sp else { continue };
            sp.told.retain(|va, t| {
                let it = list.contains(&t.page);
                if it {
                    gone.push((i, *va));
                }
                !it
            });
        }
        if self.rng.one_in(2) {
            let range = VaRange::page(Va::from_page(1));
            self.finish(Open { seq: u64::MAX, gather: g, space: None, range, gone, pages: list.clone() });
            for p in &list {
                // Now it is nobody's: nothing may lead to it.
                let f = self.pages.pfn(*p);
                self.hw.release(f);
                self.hw.claim(f);
            }
        } else {
            self.settle(g, None, VaRange::page(Va::from_page(1)), gone, list);
        }
        "page_remove"
    }

    pub(super) fn page_write_protect(&mut self) -> &'static str {
        let list: Vec<PageNo> = (0..self.rng.range(1, 4)).map(|_| self.a_page()).collect();
        list.iter().for_each(|p| self.own_page(*p));
        let mut g = Gather::new();
        self.sys.page_write_protect(&self.pages, &list, &mut g);
        for t in self.spaces.iter_mut().flatten().flat_map(|sp| sp.told.values_mut()) {
            if list.contains(&t.page) {
                t.prot -= Prot::W;
            }
        }
        self.finish(Open {
            seq: u64::MAX,
            gather: g,
            space: None,
            range: VaRange::page(Va::ZERO),
            gone: Vec::new(),
            pages: list,
        });
        "page_write_protect"
    }

    pub(super) fn page_clear(&mut self) -> Result<&'static str, Wrong> {
        let p = self.a_page();
        self.own_page(p);
        let clear = *self.rng.pick(&[RefMod::REFERENCED, RefMod::MODIFIED, RefMod::all()]);
        self.check_use(p)?;
        let mut g = Gather::new();
        let was = self.sys.page_clear(&self.pages, p, clear, &mut g);
        // What happens before the flush may be lost by right, so nothing does.
        self.finish(Open {
            seq: u64::MAX,
            gather: g,
            space: None,
            range: VaRange::page(Va::ZERO),
            gone: Vec::new(),
            pages: vec![p],
        });
        let used = *self.used(p);
        if used.modified && !was.contains(RefMod::MODIFIED) {
            return Err(format!("{p:?} was written, page_clear says {was:?}"));
        }
        let hw = self.sys.port().hw_bits();
        let wired =
            self.spaces.iter().flatten().flat_map(|sp| sp.told.values()).any(|t| t.page == p && t.wired);
        let u = self.used(p);
        if clear.contains(RefMod::REFERENCED) {
            u.referenced = false;
        }
        if clear.contains(RefMod::MODIFIED) {
            *u = Used { modified: false, may_modified: wired && !hw.contains(HwBits::DIRTY), ..*u };
        }
        Ok("page_clear")
    }
}

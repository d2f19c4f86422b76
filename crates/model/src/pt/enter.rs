//! Entering, as faults do, and filling windows.

use super::*;

impl<F: HwFormat> World<F> {
    pub(super) fn enter(&mut self, s: usize) -> Result<&'static str, Wrong> {
        let va = self.a_va();
        let n = if self.rng.one_in(3) { self.rng.range(1, 17) } else { 1 };
        let first = if self.rng.one_in(2) {
            // Where a superpage could be.
            let region = self.rng.below(self.pages.md.len() as u64 / REGION) * REGION;
            self.page(region + va.page() % REGION)
        } else {
            self.a_page()
        };
        let left = self.pages.md.len() as u64 - u64::from(first.0.get()) + 1;
        let run: Vec<PageNo> =
            (0..n.min(left)).map(|i| self.page(u64::from(first.0.get()) - 1 + i)).collect();
        let prot = self.a_prot();
        let access = *self.rng.pick(&[Prot::R, prot]);
        let mut flags = EnterFlags::empty();
        // Where memory may end in the middle, whether a page was wired could not be told.
        let single = n == 1 || self.shortage.is_none();
        flags.set(EnterFlags::WIRED, single && self.rng.one_in(8));
        flags.set(EnterFlags::PREFAULT, n > 1 && self.rng.one_in(2));
        self.enter_run(s, va, &run, prot, access & (Prot::RW | Prot::X), flags)?;
        Ok("enter")
    }

    /// Enters as the fault does: what was displaced is flushed, then again.
    pub(super) fn enter_run(
        &mut self,
        s: usize,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
    ) -> Result<(), Wrong> {
        for (i, p) in run.iter().enumerate() {
            self.own_page(*p);
            let at = va.page() + i as u64;
            self.finish_if(|o| o.gone.contains(&(s, at)));
        }
        let mut done = 0;
        for _ in 0..4 * run.len() + 8 {
            let at = va.add(done as u64);
            let mut g = Gather::new();
            let sp = self.space(s);
            let r = sp.pmap.enter(&self.pages, at, &run[done..], prot, access, flags, &mut g);
            let upto = match r {
                Ok(()) => run.len(),
                Err(EnterError::Displaced(v) | EnterError::Foreign(v)) => (v.page() - va.page()) as usize,
                Err(EnterError::NoMemory) => done,
            };
            let mut gone = Vec::new();
            for (i, page) in run.iter().enumerate().take(upto).skip(done) {
                self.entered(s, va.add(i as u64).page(), *page, prot, access, flags);
            }
            if let Err(EnterError::Displaced(v)) = r {
                if self.told(s).remove(&v.page()).is_none() {
                    return Err(format!("{v:?} is displaced but nothing was there"));
                }
                gone.push((s, v.page()));
            }
            // What came is not promised to be flushed, what was displaced is.
            let (space, at) = match r {
                Err(EnterError::Displaced(v)) => (Some(s), v),
                _ => (None, va),
            };
            self.finish(Open {
                seq: u64::MAX,
                gather: g,
                space,
                range: VaRange::page(at),
                gone,
                pages: Vec::new(),
            });
            match r {
                Ok(()) => return Ok(()),
                Err(EnterError::NoMemory) if self.shortage.is_none() => {
                    return Err(format!("{va:?}: no memory, and nothing was short"));
                }
                Err(EnterError::NoMemory) => return self.entered_some(s, va, &run[done..], done),
                Err(EnterError::Displaced(_) | EnterError::Foreign(_)) => done = upto,
            }
        }
        Err(format!("{va:?}: entering {} pages does not end", run.len()))
    }

    pub(super) fn entered(
        &mut self,
        s: usize,
        va: u64,
        page: PageNo,
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
    ) {
        let wired = flags.contains(EnterFlags::WIRED);
        let hw = self.sys.port().hw_bits();
        let told = self.told(s).entry(va).or_insert(Told { page, prot: prot.hardware(), wired });
        if told.page == page {
            told.prot |= prot.hardware();
            told.wired |= wired;
        } else {
            // Only a mistake enters over another page without saying so.
            *told = Told { page, prot: prot.hardware(), wired };
        }
        let told_of_write = access.contains(Prot::W) && !flags.contains(EnterFlags::PREFAULT);
        if prot.contains(Prot::W) && (told_of_write || wired && !hw.contains(HwBits::DIRTY)) {
            self.used(page).may_modified = true;
        }
    }

    /// Entering ended for want of memory: the first pages are entered, whole, and the rest
    /// is as it was.
    pub(super) fn entered_some(
        &mut self,
        s: usize,
        va: Va,
        run: &[PageNo],
        done: usize,
    ) -> Result<(), Wrong> {
        let mut ended = false;
        for (i, page) in run.iter().enumerate() {
            let at = va.add((done + i) as u64);
            let had = self.space(s).told.get(&at.page()).copied();
            let got = self.space(s).pmap.extract(&self.pages, at);
            let new = had.is_none() && got.is_some();
            if new && (ended || got.is_some_and(|(p, _)| p != *page)) {
                return Err(format!("{at:?}: {got:?} after memory was short before it"));
            }
            ended |= got.is_none_or(|(p, _)| p != *page);
            if let Some((p, prot)) = got
                && p == *page
            {
                let told = self.told(s).entry(at.page()).or_insert(Told { page: p, prot, wired: false });
                told.prot |= prot;
                self.used(p).may_modified = true;
            }
        }
        Ok(())
    }

    /// Fills a window so that it becomes a superpage, and writes all of it.
    pub(super) fn fill_window(&mut self, s: usize) -> Result<&'static str, Wrong> {
        let window = *self.rng.pick(&WINDOWS);
        let region = self.rng.below(self.pages.md.len() as u64 / REGION) * REGION;
        let prot = *self.rng.pick(&[Prot::RW, Prot::R]);
        let flags = if self.shortage.is_none() && self.rng.one_in(6) {
            EnterFlags::WIRED
        } else {
            EnterFlags::empty()
        };
        for i in (0..REGION).step_by(16) {
            let run: Vec<PageNo> = (i..i + 16).map(|j| self.page(region + j)).collect();
            self.enter_run(s, Va::from_page(window + i), &run, prot, prot - Prot::X, flags)?;
        }
        let root = self.space(s).root;
        if self.hw.translate(root, window << 12).is_some_and(|t| t.level > 1) {
            self.promoted += 1;
        }
        Ok("fill")
    }
}

//! Pmap, walker and oracle, side by side.

use super::*;

impl<F: HwFormat> World<F> {
    pub(super) fn check_use(&mut self, p: PageNo) -> Result<(), Wrong> {
        let got = self.sys.page_refmod(&self.pages, p);
        let u = *self.used(p);
        if u.modified && !got.contains(RefMod::MODIFIED) {
            return Err(format!("{p:?} was written, but says {got:?}"));
        }
        if u.referenced && !got.contains(RefMod::REFERENCED) {
            return Err(format!("{p:?} was used, but says {got:?}"));
        }
        // Several pages of a superpage cannot be told apart once it is written (Q03); they
        // were all written, or it would not be writable.
        if got.contains(RefMod::MODIFIED) && !u.modified && !u.may_modified {
            return Err(format!("{p:?} was not written, but says {got:?}"));
        }
        Ok(())
    }

    pub(super) fn compare(&mut self, s: usize) -> Result<(), Wrong> {
        if self.spaces[s].is_none() {
            return Ok(());
        }
        for _ in 0..3 {
            let p = self.a_page();
            self.check_use(p)?;
        }
        let mut at: Vec<u64> = (0..3).map(|_| self.a_va().page()).collect();
        let told: Vec<u64> = self.space(s).told.keys().copied().collect();
        if !told.is_empty() {
            at.extend((0..3).map(|_| *self.rng.pick(&told)));
        }
        let sp = self.space(s);
        for va in at {
            let got = sp.pmap.extract(&self.pages, Va::from_page(va));
            match (got, sp.told.get(&va)) {
                (None, None) => {}
                (Some((page, prot)), Some(t)) if page == t.page && t.prot.contains(prot) => {
                    // A detached window grants nothing until a fault attaches it.
                    let without = if F::UPPER_RIGHTS { t.prot - Prot::W } else { Prot::NONE };
                    if !prot.contains(without) {
                        return Err(format!("space {s} page {va:#x}: {prot:?}, told {t:?}"));
                    }
                    let frame = self.pages.pfn(page);
                    let rights = user_rights(prot);
                    let want = (!rights.is_empty()).then_some((frame, rights));
                    self.agrees(sp, va, want);
                }
                (got, told) => return Err(format!("space {s} page {va:#x}: {got:?}, told {told:?}")),
            }
        }
        let (resident, wired) = (sp.pmap.resident_count(), sp.pmap.wired_count());
        let told_wired = sp.told.values().filter(|t| t.wired).count() as u64;
        if resident != sp.told.len() as u64 || wired != told_wired {
            return Err(format!(
                "space {s}: resident {resident}, wired {wired}; told {} and {told_wired}",
                sp.told.len()
            ));
        }
        Ok(())
    }

    /// The walker, which shares no code with the pmap's formats, says the same. Where the
    /// hardware does not note use, it shows no right that would fault to be noted.
    pub(super) fn agrees(&self, sp: &Space<F>, va: u64, want: Option<(Pfn, Rights)>) {
        let hw = self.sys.port().hw_bits();
        let got = self.hw.translate(sp.root, va << 12);
        let mut care = Rights::USER;
        if !hw.contains(HwBits::DIRTY) && got.is_none_or(|t| !t.rights.contains(Rights::UW)) {
            care -= Rights::UW;
        }
        if !hw.contains(HwBits::ACCESSED) && got.is_none_or(|t| !t.accessed) {
            return;
        }
        self.hw.check_agrees(sp.root, va << 12, want, care);
    }

    /// Finishes what is open, takes everything out and looks for what is left over.
    ///
    /// # Errors
    /// What is left over.
    pub fn end(&mut self) -> Result<(), Wrong> {
        self.finish_if(|_| true);
        for s in 0..self.spaces.len() {
            if self.spaces[s].is_some() {
                self.destroy(s)?;
            }
        }
        for i in 0..self.pages.md.len() as u64 {
            let p = self.page(i);
            let mut g = Gather::new();
            self.sys.page_remove(&self.pages, &[p], RemoveWhy::Free, &mut g);
            let _ = g.finish(&*self.sys, &mut MaySleep::claim());
            let left = self.pages.md(p).pv.load(std::sync::atomic::Ordering::SeqCst);
            if left != 0 {
                return Err(format!("{p:?} looks mapped at the end: {left:#x}"));
            }
        }
        Ok(())
    }
}

fn user_rights(prot: Prot) -> Rights {
    let mut r = Rights::empty();
    r.set(Rights::UR, prot.contains(Prot::R));
    r.set(Rights::UW, prot.contains(Prot::W));
    r.set(Rights::UX, prot.contains(Prot::X));
    r
}

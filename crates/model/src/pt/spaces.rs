//! Spaces that come and go, on CPUs and altogether.

use super::*;

impl<F: HwFormat> World<F> {
    /// The CPU runs the space from now on.
    pub(super) fn switch(&mut self, cpu: u16, s: usize) {
        if self.space(s).on.contains(&cpu) {
            return;
        }
        self.unload(cpu);
        let sp = self.spaces[s].as_mut().expect("a live space");
        sp.pmap.activate(CpuId(cpu));
        sp.on.push(cpu);
    }
    pub(super) fn unload(&mut self, cpu: u16) {
        for sp in self.spaces.iter_mut().flatten() {
            if sp.on.contains(&cpu) {
                sp.pmap.deactivate(CpuId(cpu));
                sp.on.retain(|c| *c != cpu);
            }
        }
    }
    pub(super) fn load(&mut self, cpu: u16, s: usize) -> &'static str {
        if self.rng.one_in(4) {
            self.unload(cpu);
            "deactivate"
        } else {
            self.switch(cpu, s);
            "activate"
        }
    }

    pub(super) fn create_or_destroy(&mut self, s: usize) -> Result<&'static str, Wrong> {
        if let Some(free) = self.spaces.iter().position(Option::is_none)
            && self.rng.one_in(2)
        {
            self.create(free);
            return Ok("create");
        }
        self.destroy(s)?;
        Ok("destroy")
    }

    pub(super) fn destroy(&mut self, s: usize) -> Result<(), Wrong> {
        self.finish_if(|_| true);
        for cpu in self.space(s).on.clone() {
            self.hw.clone().on_cpu(cpu, || self.unload(cpu));
        }
        let mut g = Gather::new();
        let whole = VaRange::between(Va::from_page(1), Va::from_page(1 << 25)).expect("not empty");
        self.space(s).pmap.remove(&self.pages, whole, &mut g);
        self.finish(Open {
            seq: u64::MAX,
            gather: g,
            space: Some(s),
            range: whole,
            gone: Vec::new(),
            pages: Vec::new(),
        });
        let left = self.space(s).pmap.resident_count();
        if left != 0 {
            return Err(format!("{left} pages resident in an empty pmap"));
        }
        let root = self.space(s).root;
        self.spaces[s] = None;
        self.hw.space_ends(root);
        Ok(())
    }
}

//! What programs do.

use super::*;

impl<F: HwFormat> World<F> {
    /// A program's access, with the fault that the map would resolve.
    pub(super) fn access(&mut self, cpu: u16, s: usize) -> Result<&'static str, Wrong> {
        self.switch(cpu, s);
        let va = match self.rng.below(3) {
            0 => self.a_va(),
            _ => {
                let list: Vec<u64> = self.space(s).told.keys().copied().collect();
                if list.is_empty() { self.a_va() } else { Va::from_page(*self.rng.pick(&list)) }
            }
        };
        let what = *self.rng.pick(&[Access::Read, Access::Write, Access::Write, Access::Exec]);
        let need = match what {
            Access::Read => Prot::R,
            Access::Write => Prot::W,
            Access::Exec => Prot::X,
        };
        for _ in 0..64 {
            let told = self.space(s).told.get(&va.page()).copied();
            // What another thread took away may be used until it has flushed.
            let pending = self.open.iter().any(|o| o.space.is_none_or(|x| x == s));
            match self.hw.access(va.get(), what, Mode::User) {
                Ok(frame) => {
                    let Some(page) = self.pages.page_at(frame) else {
                        return Err(format!("{what:?} at {va:?} reached frame {frame:?}"));
                    };
                    match told {
                        Some(t) if t.page == page && t.prot.contains(need) => {}
                        _ if pending => {}
                        other => return Err(format!("{what:?} at {va:?} reached {page:?}, told {other:?}")),
                    }
                    let live = told.is_some_and(|t| t.page == page);
                    let u = self.used(page);
                    u.referenced |= live;
                    u.modified |= what == Access::Write;
                    return Ok("access");
                }
                Err(_) => {
                    let Some(t) = told.filter(|t| t.prot.contains(need)) else { return Ok("fault") };
                    self.enter_run(s, va, &[t.page], t.prot, need, EnterFlags::empty())?;
                }
            }
        }
        // For the trace.
        self.hw.check_agrees(self.space(s).root, va.get(), None, Rights::USER);
        Err(format!(
            "{what:?} at {va:?} of space {s} faults for ever, told {:?}",
            self.space(s).told.get(&va.page())
        ))
    }
}

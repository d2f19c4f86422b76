//! Interrupts between CPUs: late, in any order, and not where they are off.

use std::fmt::Write;

use machvm_hal::{CpuId, CpuSet};

use super::config::Delivery;
use super::hardware::{Hw, OnCpu};
use super::report::Kind;
use super::state::State;
use super::trace::Event;

/// Turns of a waiting loop before the host thread gives way to others.
const IMPATIENT: u64 = 64;

/// Interrupts are off on a CPU while it lives.
#[derive(Debug)]
#[must_use]
pub struct IrqsOff<'a> {
    hw: &'a Hw,
    cpu: u16,
}

impl Drop for IrqsOff<'_> {
    fn drop(&mut self) {
        self.hw.state().cpus[usize::from(self.cpu)].irq_off -= 1;
    }
}

/// A handler runs: its CPU takes no other meanwhile.
struct InHandler<'a>(&'a Hw, usize);

impl Drop for InHandler<'_> {
    fn drop(&mut self) {
        self.0.state().cpus[self.1].irq_off -= 1;
    }
}

impl Hw {
    /// What CPUs do when they are interrupted. Once.
    ///
    /// # Panics
    /// When it is set already.
    pub fn set_ipi_handler(&self, f: impl Fn(CpuId) + Send + Sync + 'static) {
        assert!(self.handler.set(Box::new(f)).is_ok(), "the interrupt handler is set twice");
    }
    /// Called in every turn of a waiting loop, with no lock of the machine held: lets a
    /// scheduler run other threads. Once.
    ///
    /// # Panics
    /// When it is set already.
    pub fn set_on_wait(&self, f: impl Fn() + Send + Sync + 'static) {
        assert!(self.on_wait.set(Box::new(f)).is_ok(), "the waiting hook is set twice");
    }
    /// Turns interrupts off on a CPU. Nests.
    pub fn irqs_off(&self, cpu: u16) -> IrqsOff<'_> {
        self.state().cpus[usize::from(cpu)].irq_off += 1;
        IrqsOff { hw: self, cpu }
    }
    /// The thread sleeps in `f`: its CPU takes interrupts as if nobody ran there.
    pub fn idle<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Back<'a>(&'a Hw, usize);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.state().cpus[self.1].threads += 1;
            }
        }
        let cpu = usize::from(self.cpu());
        let before = self.state().cpus[cpu].threads;
        if before == 0 {
            return f();
        }
        self.state().cpus[cpu].threads = before - 1;
        let _back = Back(self, cpu);
        f()
    }

    /// Interrupts these CPUs, sometime.
    pub fn send_ipi(&self, to: CpuSet) {
        self.here(|s, cpu| {
            s.tick(cpu);
            s.event(Event::Ipi { from: cpu as u16, to: to.0 });
            for c in 0..64 {
                if to.0 >> c & 1 == 0 {
                    continue;
                }
                if c == cpu || c >= s.cpus.len() {
                    s.report(Kind::BadInterrupt, cpu, None, to.0, c as u64);
                } else if s.cpus[c].ipi.is_none() {
                    let late = s.rng.below(s.config.late + 1);
                    s.cpus[c].ipi = Some(s.step + late);
                    s.ipis += 1;
                }
            }
        });
    }

    /// One turn of a loop that waits for others.
    ///
    /// # Panics
    /// When nothing has happened for [`super::Config::patience`] turns, saying who waits
    /// for whom.
    pub fn relax(&self) {
        let cpu = usize::from(self.cpu());
        let (due, turns) = {
            let mut s = self.state();
            s.step += 1;
            s.adversary();
            s.cpus[cpu].turns += 1;
            let due = if s.ipis == 0 { None } else { self.due(&mut s, cpu, true) };
            let turns = s.cpus[cpu].turns;
            if due.is_none() && turns > self.config().patience {
                s.report(Kind::Deadlock, cpu, None, 0, 0);
                let text = s.who_waits(cpu);
                drop(s);
                panic!("deadlock: {text}");
            }
            (due, turns)
        };
        if let Some(c) = due {
            self.deliver(c);
        }
        if let Some(f) = self.on_wait.get() {
            f();
        }
        if turns > 16 * IMPATIENT {
            std::thread::sleep(std::time::Duration::from_micros(20));
        } else if turns > IMPATIENT {
            std::thread::yield_now();
        }
    }

    /// A CPU whose interrupt may be taken now, by this thread.
    pub(super) fn due(&self, s: &mut State, me: usize, waiting: bool) -> Option<usize> {
        // In passing only now and then: late is what they should be.
        if !s.rng.one_in(if waiting { 2 } else { 8 }) {
            return None;
        }
        let anyone = self.config().delivery == Delivery::Anyone;
        let step = s.step;
        let may = |s: &State, c: usize| {
            let cpu = &s.cpus[c];
            cpu.ipi.is_some_and(|t| t <= step)
                && cpu.irq_off == 0
                && (c == me || anyone || waiting && cpu.threads == 0)
        };
        let n = (0..s.cpus.len()).filter(|c| may(s, *c)).count() as u64;
        let pick = s.rng.below(n) as usize;
        (0..s.cpus.len()).filter(|c| may(s, *c)).nth(pick)
    }

    /// The CPU takes its interrupt, in this thread.
    pub(super) fn deliver(&self, cpu: usize) {
        {
            let me = self.cpu();
            let mut s = self.state();
            if s.cpus[cpu].irq_off != 0 || s.cpus[cpu].ipi.take().is_none() {
                return;
            }
            s.ipis -= 1;
            s.cpus[cpu].irq_off += 1;
            s.event(Event::Taken { cpu: cpu as u16, by: me });
            // Taking an exception synchronises the context.
            s.cpus[cpu].synchronise();
            s.cpus.iter_mut().for_each(|c| c.turns = 0);
        }
        let _in = InHandler(self, cpu);
        let _on = OnCpu::new(self, cpu as u16);
        match self.handler.get() {
            Some(f) => f(CpuId(cpu as u16)),
            None => self.here(|s, cpu| s.report(Kind::BadInterrupt, cpu, None, 0, 0)),
        }
    }
}

impl State {
    fn who_waits(&self, cpu: usize) -> String {
        let mut text = format!("CPU {cpu} waits since {} turns", self.cpus[cpu].turns);
        for (i, c) in self.cpus.iter().enumerate() {
            let Some(due) = c.ipi else { continue };
            let why = if c.irq_off > 0 {
                format!("interrupts are off there, {} deep", c.irq_off)
            } else if due > self.step {
                format!("it arrives in {} steps", due - self.step)
            } else {
                format!("{} threads run there and take none", c.threads)
            };
            let _ = write!(text, "; CPU {i} has not taken its interrupt: {why}");
        }
        if self.cpus.iter().all(|c| c.ipi.is_none()) {
            text.push_str("; every interrupt that was sent has been taken");
        }
        text
    }
}

//! Accesses to page tables, each with the adversary before and after it.

use super::cpu::{Cpu, Unseen};
use super::report::Kind;
use super::state::{State, Use, WORDS};
use super::trace::Event;

/// Writes that a CPU can have on the way to the walkers.
const UNSEEN: usize = 16;

impl State {
    /// Reads a word as the CPU's loads do: coherent, whatever walkers see. What another CPU
    /// wrote is visible to all from then on (other-multi-copy atomicity).
    pub(crate) fn table_load(&mut self, cpu: usize, table: u64, index: usize) -> u64 {
        self.tick(cpu);
        self.observe(cpu, table, index);
        self.word(table, index)
    }

    /// Writes a word and gives the old one.
    pub(crate) fn table_swap(&mut self, cpu: usize, table: u64, index: usize, new: u64) -> u64 {
        self.tick(cpu);
        self.observe(cpu, table, index);
        let old = self.word(table, index);
        self.put(cpu, table, index, old, new);
        self.adversary();
        old
    }

    /// Writes a word if it is `old`.
    pub(crate) fn table_exchange(
        &mut self,
        cpu: usize,
        table: u64,
        index: usize,
        old: u64,
        new: u64,
    ) -> Result<u64, u64> {
        self.tick(cpu);
        self.observe(cpu, table, index);
        let now = self.word(table, index);
        if now != old {
            return Err(now);
        }
        self.put(cpu, table, index, old, new);
        self.adversary();
        Ok(old)
    }

    /// Another moment of this CPU, in which anything may happen.
    pub(crate) fn tick(&mut self, cpu: usize) {
        self.step += 1;
        self.cpus[cpu].turns = 0;
        self.settle(cpu);
        self.adversary();
    }

    fn put(&mut self, cpu: usize, table: u64, index: usize, old: u64, new: u64) {
        if !self.exists(table) || index >= WORDS || self.frames[table as usize].used != Use::Table {
            self.report(Kind::NotATable, cpu, None, new, table);
            if !self.exists(table) || index >= WORDS {
                return;
            }
        }
        self.words[table as usize * WORDS + index] = new;
        if old == new {
            return;
        }
        let table = table as u32;
        self.event(Event::Write { cpu: cpu as u16, table, index: index as u16, old, new });
        if self.mmu.arch.is_arm() {
            if self.cpus[cpu].unseen.len() == UNSEEN {
                self.see(cpu, 1);
            }
            let (index, step) = (index as u16, self.step);
            self.cpus[cpu].unseen.push_back(Unseen { here: false, table, index, old, step });
            self.unseen += 1;
        }
        self.written(cpu, table, index, old, new);
    }

    /// Walkers see the CPU's `n` oldest writes.
    pub(crate) fn see(&mut self, cpu: usize, n: usize) {
        let n = n.min(self.cpus[cpu].unseen.len());
        self.cpus[cpu].unseen.drain(..n);
        self.unseen -= n;
    }

    /// Another CPU's write of this word, and what that CPU wrote before it, is seen: writes
    /// are Release.
    fn observe(&mut self, reader: usize, table: u64, index: usize) {
        if self.unseen == 0 {
            return;
        }
        for cpu in (0..self.cpus.len()).filter(|c| *c != reader) {
            let of = |u: &Unseen| u64::from(u.table) == table && usize::from(u.index) == index;
            if let Some(last) = self.cpus[cpu].unseen.iter().rposition(of) {
                self.see(cpu, last + 1);
            }
        }
    }

    /// The word as a CPU's walker may see it, and since when memory says otherwise (0: it
    /// does not).
    #[inline]
    pub(crate) fn visible(&self, walker: usize, table: u64, index: usize) -> (u64, u64) {
        let word = self.word(table, index);
        if self.unseen == 0 {
            return (word, 0);
        }
        let of = |u: &Unseen| u64::from(u.table) == table && usize::from(u.index) == index;
        let first =
            |(i, c): (usize, &Cpu)| c.unseen.iter().find(|u| of(u) && !(i == walker && u.here)).copied();
        let oldest = self.cpus.iter().enumerate().filter_map(first).min_by_key(|u| u.step);
        oldest.map_or((word, 0), |u| (u.old, u.step))
    }

    /// A table of zeroes.
    pub(crate) fn table_alloc(&mut self, cpu: usize) -> Option<u64> {
        self.tick(cpu);
        self.asked += 1;
        if self.fail_in > 0 {
            self.fail_in -= 1;
            if self.fail_in == 0 {
                if self.fail_on {
                    self.fail_in = 1;
                }
                return None;
            }
        }
        // The last ones freed, in any order: what is still cached of them is found soonest.
        let n = self.free.len();
        let back = self.rng.below(n.min(3) as u64) as usize;
        let table = if n == 0 { return None } else { self.free.swap_remove(n - 1 - back) };
        self.become_table(u64::from(table));
        Some(u64::from(table))
    }

    /// The frame is a table from now on.
    pub(crate) fn become_table(&mut self, table: u64) {
        self.check_free(table);
        let f = &mut self.frames[table as usize];
        f.used = Use::Table;
        f.place = None;
        f.life += 1;
        self.event(Event::Alloc { table: table as u32 });
    }

    /// The frame is nothing from now on.
    pub(crate) fn end_table(&mut self, cpu: usize, table: u64) {
        let words = table as usize * WORDS..(table as usize + 1) * WORDS;
        if let Some(at) = self.words[words.clone()].iter().position(|w| *w != 0) {
            let left = self.words[words.start + at];
            self.report(Kind::TableNotZero, cpu, None, left, table);
            self.words[words].fill(0);
        }
        self.event(Event::Free { table: table as u32 });
        self.adversary();
        self.check_free(table);
        let f = &mut self.frames[table as usize];
        f.used = Use::Free;
        f.place = None;
        f.life += 1;
    }

    /// Takes a table back.
    pub(crate) fn table_free(&mut self, cpu: usize, table: u64) {
        self.tick(cpu);
        let ours = (1..=u64::from(self.config.tables)).contains(&table);
        if !ours || self.frames[table as usize].used != Use::Table {
            self.report(Kind::NotATable, cpu, None, 0, table);
            return;
        }
        self.end_table(cpu, table);
        self.free.push(table as u32);
    }
}

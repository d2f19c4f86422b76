//! The machine as its users see it: one lock, and whose turn it is.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use machvm_hal::{PAGE_SIZE, Pfn, VaRange};

use super::access::{Access, Mode};
use super::config::Config;
use super::fill::Fault;
use super::report::{Checks, Kind, Report};
use super::state::{Origin, Place, State, Use, WORDS};
use super::tree::Translation;
use super::walk::Rights;

thread_local! {
    /// The CPU that this host thread is.
    static CPU: Cell<u16> = const { Cell::new(0) };
}

type Handler = dyn Fn(machvm_hal::CpuId) + Send + Sync;

/// See the module text.
pub struct Hw {
    state: Mutex<State>,
    config: Config,
    pub(super) handler: OnceLock<Box<Handler>>,
    pub(super) on_wait: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Hw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hw").field("config", &self.config).finish_non_exhaustive()
    }
}

/// An access faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// Where: the byte.
    pub va: u64,
    /// What it did.
    pub access: Access,
    /// Why.
    pub fault: Fault,
}

/// Makes the CPU a thread's until it is dropped.
pub(super) struct OnCpu<'a> {
    hw: &'a Hw,
    before: u16,
    cpu: u16,
}

impl<'a> OnCpu<'a> {
    pub(super) fn new(hw: &'a Hw, cpu: u16) -> Self {
        assert!(cpu < hw.config.cpus, "CPU {cpu} of {}", hw.config.cpus);
        hw.state().cpus[usize::from(cpu)].threads += 1;
        OnCpu { hw, before: CPU.replace(cpu), cpu }
    }
}

impl Drop for OnCpu<'_> {
    fn drop(&mut self) {
        CPU.set(self.before);
        self.hw.state().cpus[usize::from(self.cpu)].threads -= 1;
    }
}

impl Hw {
    /// A machine with nothing loaded anywhere.
    ///
    /// # Panics
    /// When the configuration names no CPU, or more than 64.
    pub fn new(config: Config) -> Arc<Self> {
        assert!((1..=64).contains(&config.cpus), "{} CPUs", config.cpus);
        Arc::new(Hw {
            state: Mutex::new(State::new(config)),
            config,
            handler: OnceLock::new(),
            on_wait: OnceLock::new(),
        })
    }
    /// What was asked for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The machine, and the CPU of this thread.
    pub(super) fn here<R>(&self, f: impl FnOnce(&mut State, usize) -> R) -> R {
        f(&mut self.state(), usize::from(self.cpu()))
    }
    /// As [`Hw::here`], and then an interrupt may come.
    pub(super) fn here_then_interrupts<R>(&self, f: impl FnOnce(&mut State, usize) -> R) -> R {
        let cpu = usize::from(self.cpu());
        let mut s = self.state();
        let r = f(&mut s, cpu);
        let due = if s.ipis == 0 { None } else { self.due(&mut s, cpu, false) };
        drop(s);
        if let Some(c) = due {
            self.deliver(c);
        }
        r
    }

    // ------------------------------------------------------------------ threads

    /// The CPU this thread runs on; 0 unless it said otherwise.
    pub fn cpu(&self) -> u16 {
        CPU.get().min(self.config.cpus - 1)
    }
    /// Runs `f` on a CPU. Afterwards the thread may go on elsewhere, so what it wrote and
    /// invalidated is complete then, as after any kernel's context switch (AArch64: DSB).
    ///
    /// # Panics
    /// When there is no such CPU.
    pub fn on_cpu<R>(&self, cpu: u16, f: impl FnOnce() -> R) -> R {
        struct Leave<'a>(&'a Hw, u16);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.state().context_switch(usize::from(self.1));
            }
        }
        let _on = OnCpu::new(self, cpu);
        let _leave = Leave(self, cpu);
        f()
    }

    // ------------------------------------------------------------------ programs

    /// The frame that an access reaches, through what this CPU has cached or by a walk;
    /// notes use and writes as the hardware does.
    ///
    /// # Errors
    /// [`Fault`]; x86-64 has then forgotten what it had cached of the page.
    pub fn access(&self, va: u64, what: Access, mode: Mode) -> Result<Pfn, Fault> {
        self.here_then_interrupts(|s, cpu| s.access(cpu, va, what, mode).map(Pfn))
    }
    /// Loads bytes; page by page, so that a fault leaves the earlier pages read.
    ///
    /// # Errors
    /// [`PageFault`] at the first byte that cannot be read.
    pub fn load(&self, va: u64, buf: &mut [u8], mode: Mode) -> Result<(), PageFault> {
        let mut done = 0;
        while done < buf.len() {
            let at = va.wrapping_add(done as u64);
            let (off, n) = in_page(at, buf.len() - done);
            let part = &mut buf[done..done + n];
            self.here_then_interrupts(|s, cpu| {
                let frame = s.access(cpu, at, Access::Read, mode)?;
                if s.exists(frame) {
                    s.read_bytes(frame, off, part);
                }
                Ok(())
            })
            .map_err(|fault| PageFault { va: at, access: Access::Read, fault })?;
            done += n;
        }
        Ok(())
    }
    /// Stores bytes; as [`Hw::load`].
    ///
    /// # Errors
    /// [`PageFault`] at the first byte that cannot be written.
    pub fn store(&self, va: u64, buf: &[u8], mode: Mode) -> Result<(), PageFault> {
        let mut done = 0;
        while done < buf.len() {
            let at = va.wrapping_add(done as u64);
            let (off, n) = in_page(at, buf.len() - done);
            self.here_then_interrupts(|s, cpu| {
                let frame = s.access(cpu, at, Access::Write, mode)?;
                // A store that goes wrong is reported; it does not destroy a table too.
                if s.exists(frame) && s.frames[frame as usize].used != Use::Table {
                    s.write_bytes(frame, off, &buf[done..done + n]);
                }
                Ok(())
            })
            .map_err(|fault| PageFault { va: at, access: Access::Write, fault })?;
            done += n;
        }
        Ok(())
    }
    /// Fetches an instruction.
    ///
    /// # Errors
    /// [`PageFault`].
    pub fn fetch(&self, va: u64, mode: Mode) -> Result<(), PageFault> {
        match self.access(va, Access::Exec, mode) {
            Ok(_) => Ok(()),
            Err(fault) => Err(PageFault { va, access: Access::Exec, fault }),
        }
    }

    // ------------------------------------------------------------------ frames

    /// The frame is somebody's memory from now on: nobody may reach it as anything else.
    pub fn claim(&self, frame: Pfn) {
        self.here(|s, cpu| s.claim(cpu, frame.0));
    }
    /// The frame is free from now on: nobody may reach it.
    pub fn release(&self, frame: Pfn) {
        self.here(|s, cpu| {
            s.tick(cpu);
            s.check_free(frame.0);
            if s.exists(frame.0) {
                s.frames[frame.0 as usize].used = Use::Free;
            }
        });
    }
    /// What the frame is used for; `None`: there is no such frame.
    pub fn used(&self, frame: Pfn) -> Option<Use> {
        self.state().frames.get(frame.0 as usize).map(|f| f.used)
    }
    /// Fills frames with zero for a new owner (claims them).
    pub fn zero(&self, first: Pfn, n: u64) {
        self.here(|s, cpu| {
            for f in first.0..first.0 + n {
                s.claim(cpu, f);
                s.words[f as usize * WORDS..(f as usize + 1) * WORDS].fill(0);
            }
        });
    }
    /// Copies a frame into another.
    pub fn copy(&self, from: Pfn, to: Pfn) {
        self.here(|s, cpu| {
            s.tick(cpu);
            let from = from.0 as usize * WORDS;
            s.words.copy_within(from..from + WORDS, to.0 as usize * WORDS);
        });
    }
    /// Reads inside a frame, past the MMU.
    pub fn read(&self, frame: Pfn, off: usize, buf: &mut [u8]) {
        self.here(|s, _| s.read_bytes(frame.0, off, buf));
    }
    /// Writes inside a frame, past the MMU.
    pub fn write(&self, frame: Pfn, off: usize, buf: &[u8]) {
        self.here(|s, _| s.write_bytes(frame.0, off, buf));
    }
    /// A memory frame is a table from now on: nobody may reach it. Its words become zero.
    pub fn claim_table(&self, frame: Pfn) {
        self.here(|s, cpu| {
            s.tick(cpu);
            s.words[frame.0 as usize * WORDS..(frame.0 as usize + 1) * WORDS].fill(0);
            s.become_table(frame.0);
        });
    }
    /// Undoes [`Hw::claim_table`]; the frame is free.
    pub fn release_table(&self, frame: Pfn) {
        self.here(|s, cpu| {
            s.tick(cpu);
            s.end_table(cpu, frame.0);
        });
    }
    /// Tables that are free.
    pub fn free_tables(&self) -> usize {
        self.state().free.len()
    }
    /// The `k`-th table allocation from now (from one) fails, and with `lasting` all later
    /// ones; 0: none does.
    pub fn fail_table_alloc(&self, k: u64, lasting: bool) {
        let mut s = self.state();
        (s.fail_in, s.fail_on) = (k, lasting);
    }
    /// Tables that were asked for so far, had or not.
    pub fn table_allocs(&self) -> u64 {
        self.state().asked
    }

    // ------------------------------------------------------------------ spaces

    /// AArch64: the kernel's root (TTBR1), on every CPU.
    pub fn set_kernel_root(&self, root: Pfn) {
        let mut s = self.state();
        s.kernel_root = Some(root.0 as u32);
        let level = s.mmu.arch.levels();
        s.place(root.0, Place { origin: Origin::KERNEL, level, va: 0 });
    }
    /// A new address space has this root: an earlier one with the same frame is another.
    pub fn space_begins(&self, root: Pfn) {
        let mut s = self.state();
        if s.frames[root.0 as usize].place.is_some() {
            s.check_free(root.0);
            s.frames[root.0 as usize].place = None;
        }
        s.frames[root.0 as usize].life += 1;
        s.know_root(root.0 as u32);
    }
    /// The address space with this root is no more, whether or not its frame is free.
    pub fn space_ends(&self, root: Pfn) {
        let mut s = self.state();
        s.check_free(root.0);
        s.frames[root.0 as usize].place = None;
        s.frames[root.0 as usize].life += 1;
    }
    /// What the tables say, read without side effects. AArch64 takes the kernel's root for
    /// the kernel's half.
    pub fn translate(&self, root: Pfn, va: u64) -> Option<Translation> {
        let s = self.state();
        let kernel = s.mmu.arch.is_arm() && State::is_kernel(va);
        let root = if kernel { s.kernel_root? } else { root.0 as u32 };
        s.translate(root, va)
    }

    // ------------------------------------------------------------------ checks

    /// Steps so far.
    pub fn now(&self) -> u64 {
        self.state().step
    }
    /// Everything may happen, `n` times.
    pub fn disturb(&self, n: u32) {
        self.here(|s, cpu| {
            for _ in 0..n {
                s.tick(cpu);
                s.act();
            }
        });
    }
    /// A flush of `range` in the space with this root (`None`: the kernel's) has been
    /// reported complete; it began at step `since` ([`Hw::now`]; `u64::MAX`: nobody else
    /// changes anything meanwhile).
    pub fn check_flushed(&self, root: Option<Pfn>, range: VaRange, since: u64) {
        self.here(|s, cpu| {
            s.settle(cpu);
            let origin = root.map_or(Origin::KERNEL, |r| s.origin(r.0 as u32));
            let pages = (range.start().page(), range.start().page() + range.pages());
            s.check_flushed(Some(origin), pages, since);
        });
    }
    /// Nothing is being changed or flushed anywhere: no CPU has more than the tables give.
    pub fn check_quiet(&self) {
        self.check_flushed_all(u64::MAX);
    }
    /// A flush of everything, that began at `since`, is complete.
    pub fn check_flushed_all(&self, since: u64) {
        self.here(|s, cpu| {
            s.settle(cpu);
            if since == u64::MAX {
                s.settle_all(0, true);
            }
            s.check_flushed(None, super::check::ALL_PAGES, since);
        });
    }
    /// The tables of `root` give exactly these rights to this frame at `va`, or nothing.
    /// Rights are compared where `care` says.
    pub fn check_agrees(&self, root: Pfn, va: u64, want: Option<(Pfn, Rights)>, care: Rights) {
        let got = self.translate(root, va);
        let same = match (got, want) {
            (None, None) => true,
            (Some(t), Some((pfn, rights))) => t.pfn == pfn.0 && (t.rights ^ rights) & care == Rights::empty(),
            _ => false,
        };
        if !same {
            let frame = got.map_or(0, |t| t.pfn);
            self.here(|s, cpu| {
                let origin = s.origin_at(root.0 as u32, va);
                s.report(Kind::Disagree, cpu, Some(origin), va, frame);
            });
        }
    }
    /// Which checks are made.
    pub fn set_checks(&self, checks: Checks) {
        self.state().checks = checks;
    }
    /// How often the adversary acts; see [`Config::rate`].
    pub fn set_rate(&self, rate: u64) {
        self.state().rate = rate;
    }
    /// What was found so far (the first 64).
    pub fn reports(&self) -> Vec<Report> {
        self.state().reports.clone()
    }
    /// How much was found so far.
    pub fn found(&self) -> u64 {
        self.state().found
    }
    /// Forgets what was found.
    pub fn clear_reports(&self) {
        let mut s = self.state();
        s.reports.clear();
        s.found = 0;
        s.first = None;
    }
    /// The reports, and what happened before the first of them (or until now), for people.
    pub fn explain(&self) -> String {
        use fmt::Write;
        let s = self.state();
        let mut text = String::new();
        let (what, ring) = match &s.first {
            Some(before) => ("before the first report", before.clone()),
            None => ("until now", s.ring.text()),
        };
        let _ = writeln!(text, "{what} (seed {}):\n{ring}", s.config.seed);
        for r in &s.reports {
            let _ = writeln!(
                text,
                "{:?} on cpu {} at step {}: space {:?}, {:#x}, frame {:#x}",
                r.kind, r.cpu, r.step, r.space, r.va, r.frame
            );
        }
        let _ = write!(text, "{} in all, {:?}", s.found, s.config.arch);
        text
    }
    /// What the CPUs have cached of an address and what the tables of `root` say, for people.
    pub fn describe(&self, root: Pfn, va: u64) -> String {
        use fmt::Write;
        let now = self.translate(root, va);
        let s = self.state();
        let mut text = format!("the tables: {now:?}\n");
        for (i, c) in s.cpus.iter().enumerate() {
            let _ = writeln!(text, "cpu {i} has {:?} loaded", c.loaded);
            for e in c.tlb.iter().filter(|e| e.covers(va >> 12)) {
                let _ = writeln!(text, "  {e:?}");
            }
            for e in c.tables.iter().filter(|e| e.covers(va >> 12)) {
                let _ = writeln!(text, "  {e:?}");
            }
        }
        text
    }
    /// Fails the test if anything was found.
    ///
    /// # Panics
    /// With [`Hw::explain`], if so.
    #[track_caller]
    pub fn assert_clean(&self) {
        if self.found() != 0 {
            panic!("{}", self.explain());
        }
    }
}

/// Offset in the page, and how many of `n` bytes are in it.
fn in_page(va: u64, n: usize) -> (usize, usize) {
    let off = (va % PAGE_SIZE) as usize;
    (off, n.min(PAGE_SIZE as usize - off))
}

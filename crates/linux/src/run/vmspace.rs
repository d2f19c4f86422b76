//! The program's address space on the real thing: the core over the Linux pmap.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use machvm::fault::Fault;
use machvm::map::Map;
use machvm::{FaultError, Vm};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize, Va, VaRange};
use machvm_pagers::{Speed, Tiers};

use super::calls;
use super::control::{self, Control};
use super::error::RunError;
use super::faults::{self, FaultCounters};
use super::files::tell_user;
use super::filter::PROGRAM_END;
use super::gate::{Gate, Inside, Owed};
use super::lost::Lost;
use super::options::Options;
use super::slow::Slow;
use super::space::{Call, Errno, Piece, Reply, Space};
use super::swap;
use super::trace::{self, Recorder};
use super::vmthread::spawn_vm_thread;
use crate::platform::Linux;
use crate::pmap::{Config, Window};
use crate::uffd::Mode;

/// Addresses a program may have: user space above the first 64 KiB and below the end
/// that the filter knows.
const LOWEST: u64 = 0x1_0000;
const BEYOND: u64 = PROGRAM_END;

/// Below this a fault cannot have the pages of one instruction and of the kernel's
/// copy resident together with what page-out keeps busy.
const LEAST_MEMORY: u64 = 256 << 10;

/// The address space of the program.
pub struct VmSpace {
    pub(crate) vm: &'static Vm<Linux>,
    pub(crate) map: Map<'static, Linux>,
    pub(crate) calls: calls::State,
    pub(super) faults: FaultCounters,
    pub(super) options: Options,
    pub(super) slow: Slow,
    pub(super) lost: Lost,
    /// Pages are moved between places of swap.
    moving: Mutex<bool>,
    control: Option<Control>,
    /// Who writes down how memory is used.
    pub(super) recorder: Option<Arc<Recorder>>,
    gate: Gate,
    /// Pages that [`Space::wire`] holds, and how often.
    held: Mutex<HashMap<u64, u32>>,
}

impl VmSpace {
    /// An empty address space, with the threads that serve it.
    ///
    /// => on a VM thread, in the VM's descriptor table
    ///
    /// # Errors
    /// What the machine lacks, and what to do.
    pub(super) fn start(
        options: &Options,
        recorder: Option<Arc<Recorder>>,
    ) -> Result<Arc<VmSpace>, RunError> {
        if let Some(bytes) = options.memory.filter(|b| *b < LEAST_MEMORY) {
            return Err(RunError::Host(format!(
                "--memory of {bytes} bytes is too little to run anything: give at least 256K"
            )));
        }
        let frames = options.memory.map_or(u64::MAX >> 13, |bytes| bytes / PAGE_SIZE);
        let tiers = swap::tiers(&options.swap)?;
        let (control, listener) = control::open(options)?.unzip();
        let config = Config { mode: Mode::Blocking, nonblocking: false, dont_fork: true };
        let failed = |e: &dyn std::fmt::Display| RunError::Host(e.to_string());
        let linux = Linux::new(frames, tiers.clone(), config).map_err(|e| failed(&e))?;
        let mut linux = linux.with_policy(options.policy);
        if let Some(recorder) = &recorder {
            linux = linux.with_watch(Arc::clone(recorder) as _);
        }
        let pmap = linux.pv().pmap(Window::Whole).map_err(|e| failed(&e))?;
        let vm = Vm::new(linux).map_err(|_| failed(&"no memory for the VM's own structures"))?;
        // The process's one address space lives as long as the process.
        let vm: &'static Vm<Linux> = Box::leak(Box::new(vm));
        let bounds = VaRange::check(RawAddr(LOWEST), RawSize(BEYOND - LOWEST))
            .map_err(|_| failed(&"the bounds of user space are wrong"))?;
        let space = Arc::new(VmSpace {
            vm,
            map: Map::new(vm, pmap, bounds),
            calls: calls::State::default(),
            faults: FaultCounters::default(),
            options: options.clone(),
            slow: Slow::default(),
            lost: Lost::default(),
            moving: Mutex::default(),
            control,
            recorder,
            gate: Gate::default(),
            held: Mutex::default(),
        });
        let thread = |name: &str, body: fn(&VmSpace)| {
            let space = Arc::clone(&space);
            spawn_vm_thread(name, move || body(&space))
                .map_err(|e| RunError::host("cannot start a thread (see ulimit -u)", &e))
        };
        if let Some(tiers) = &tiers {
            space.serve_swap(tiers)?;
        }
        thread("faults", faults::serve)?;
        if options.memory.is_some() {
            thread("pageout", faults::daemon)?;
        }
        if space.recorder.is_some() && options.sample != 0 {
            thread("sample", trace::sample)?;
        }
        if let Some(listener) = listener {
            control::serve(&space, listener)?;
        }
        Ok(space)
    }

    /// Starts the threads that these places need and that are not there yet.
    fn serve_swap(self: &Arc<Self>, tiers: &Arc<Tiers>) -> Result<(), RunError> {
        let all = tiers.tiers();
        let slow = all.iter().any(|t| t.speed == Speed::Slow);
        if slow {
            self.slow.start(self)?;
        }
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        if !*moving && (slow || all.len() > 1) {
            let tiers = Arc::clone(tiers);
            spawn_vm_thread("swap", move || tiers.serve(&|| false))
                .map_err(|e| RunError::host("cannot start a thread (see ulimit -u)", &e))?;
            *moving = true;
        }
        Ok(())
    }

    /// `machvm swap`: answers `list`, `on SPEC` (as after `--swap`) and `off NAME` (S09)
    /// with what is to be printed. The program runs on meanwhile; `off` takes as long as
    /// its pages need to move.
    ///
    /// => on a VM thread, in the VM's descriptor table, inside nothing that the program
    ///    waits for
    ///
    /// # Errors
    /// One sentence: what cannot be, and why. Places of a list before the one that cannot
    /// be used are in use.
    pub fn swap_request(self: &Arc<Self>, request: &str) -> Result<String, String> {
        let tiers = self.platform().tiers();
        let tiers = tiers.ok_or("this run has no swap (it was started with --swap none)")?;
        let answer = swap::request(tiers, request)?;
        self.serve_swap(tiers).map_err(|e| e.to_string())?;
        // Pages that found no room are tried again.
        self.vm.swap_room_came(u64::MAX);
        Ok(answer)
    }

    pub(crate) fn platform(&self) -> &'static Linux {
        self.vm.platform()
    }

    pub(super) fn enter(&self) -> Inside<'_> {
        self.gate.enter()
    }
    /// Being inside as another thread was.
    pub(super) fn resume(&self, owed: Owed) -> Inside<'_> {
        self.gate.resume(owed)
    }

    /// Resolves a fault from a VM thread (MAP_POPULATE and the like).
    pub(crate) fn fault(&self, va: Va, access: Prot) -> Result<(), FaultError> {
        self.map.fault(&Fault { addr: RawAddr(va.get()), access }, &mut MaySleep::claim())
    }

    /// Ends the program at once.
    pub(super) fn kill(&self) {
        // SAFETY: the calls take numbers.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }

    /// The program needs a page and there is none to be had.
    pub(super) fn out_of_memory(&self, va: Va) {
        let limit = (self.vm.statistics().frame_limit * PAGE_SIZE) >> 10;
        tell_user(&format!(
            "machvm: out of memory: the program needs the page at {va:?}, its {limit} KiB are in use and \
             nothing more can be paged out (raise --memory{}); it is killed\n",
            if self.options.swap.is_empty() { ", or use --swap lz4" } else { " or the maximum of --swap" }
        ));
        self.kill();
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Space for VmSpace {
    fn memory_call(&self, call: &Call) -> Reply {
        let _inside = self.gate.enter();
        calls::memory_call(self, call)
    }

    fn map(
        &self,
        addr: u64,
        len: u64,
        prot: i32,
        flags: i32,
        fd: Option<i32>,
        offset: u64,
    ) -> Result<u64, Errno> {
        let _inside = self.gate.enter();
        calls::map(self, addr, len, prot, flags, fd, offset)
    }

    fn make_stack(&self, limit: u64, executable: bool) -> Result<u64, Errno> {
        let _inside = self.gate.enter();
        calls::make_stack(self, limit, executable)
    }

    fn set_brk_start(&self, addr: u64) {
        calls::set_brk_start(self, addr);
    }

    fn heap(&self) -> (u64, u64) {
        calls::heap(self)
    }

    fn protect(&self, addr: u64, len: u64, prot: i32) -> Result<(), Errno> {
        let _inside = self.gate.enter();
        calls::protect(self, addr, len, prot)
    }

    fn unmap(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let _inside = self.gate.enter();
        calls::unmap(self, addr, len)
    }

    fn clear(&self) {
        let _inside = self.gate.enter();
        self.held().clear();
        calls::clear(self);
    }

    fn pieces(&self, f: &mut dyn FnMut(&Piece)) {
        calls::pieces(self, f);
    }

    fn freeze(&self) {
        self.gate.close();
    }
    fn thaw(&self) {
        self.gate.open();
    }

    fn read_page(&self, addr: u64, buf: &mut [u8; 4096]) -> bool {
        let va = Va::containing(RawAddr(addr));
        matches!(self.map.peek(va, buf, &mut MaySleep::claim()), Ok(true))
    }

    fn next_data(&self, addr: u64, end: u64) -> u64 {
        let (from, end) = (Va::containing(RawAddr(addr)), Va::containing(RawAddr(end)));
        self.map.next_populated(from, end, &mut MaySleep::claim()).get()
    }

    fn wire(&self, addr: u64) -> Result<(), Errno> {
        let _inside = self.gate.enter();
        let va = Va::containing(RawAddr(addr));
        match self.map.wire_page(va, &mut MaySleep::claim()) {
            Ok(()) => {
                *self.held().entry(va.get()).or_default() += 1;
                Ok(())
            }
            // Linux's own page: it is resident when Linux needs it.
            Err(FaultError::Foreign(_)) => Ok(()),
            Err(_) => Err(Errno(libc::EFAULT)),
        }
    }

    fn unwire(&self, addr: u64) {
        let _inside = self.gate.enter();
        let va = Va::containing(RawAddr(addr));
        let held = match self.held().get_mut(&va.get()) {
            Some(n) if *n > 0 => {
                *n -= 1;
                true
            }
            _ => false,
        };
        if held {
            self.map.unwire_page(va, &mut MaySleep::claim());
        }
    }

    fn end(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.finish(self);
        }
        if let Some(control) = &self.control {
            control.remove();
        }
    }
    fn close_swap(&self) {
        if let Some(tiers) = self.platform().tiers() {
            tiers.close();
        }
    }
    fn stats(&self) -> String {
        super::report::stats(self)
    }
    fn maps(&self) -> String {
        super::report::maps(self)
    }
}

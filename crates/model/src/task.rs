//! A program: a map, and loads and stores that go through the MMU.

use machvm::fault::Fault;
use machvm::map::Map;
use machvm::{FaultError, Vm};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, Va, VaRange};

use crate::hardware::Access;
use crate::machine::Machine;

/// See the module text.
pub struct Task<'vm> {
    /// Its address map.
    pub map: Map<'vm, Machine>,
}

impl core::fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Task(space {})", self.space())
    }
}

/// Faults on one page before a test gives up: nothing makes progress.
const PATIENCE: u32 = 10_000;

impl<'vm> Task<'vm> {
    /// An empty one, with addresses from 64 KiB to 128 TiB.
    pub fn new(vm: &'vm Vm<Machine>) -> Self {
        let bounds = VaRange::between(Va::from_page(0x10), Va::from_page(vm.platform().end_page()))
            .expect("not empty");
        Task { map: Map::new(vm, vm.platform().pmap(), bounds) }
    }
    /// The number of its address space.
    pub fn space(&self) -> u32 {
        self.map.pmap().space()
    }

    /// Tries `go` until it does not fault, faulting in between.
    fn retry(
        &self,
        va: Va,
        access: Prot,
        may: &mut MaySleep,
        mut go: impl FnMut() -> Option<()>,
    ) -> Result<(), FaultError> {
        for _ in 0..PATIENCE {
            if go().is_some() {
                return Ok(());
            }
            self.map.fault(&Fault { addr: RawAddr(va.get()), access }, may)?;
        }
        panic!("{access:?} at {va:?} faults for ever")
    }

    fn pieces(addr: u64, len: usize) -> impl Iterator<Item = (Va, usize, core::ops::Range<usize>)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = addr + done as u64;
            let off = (at % PAGE_SIZE) as usize;
            let n = (len - done).min(PAGE_SIZE as usize - off);
            let piece = (Va::containing(RawAddr(at)), off, done..done + n);
            done += n;
            (n != 0).then_some(piece)
        })
    }

    /// Reads memory.
    ///
    /// # Errors
    /// The fault's.
    pub fn load(&self, addr: u64, buf: &mut [u8]) -> Result<(), FaultError> {
        let (vm, mut may) = (self.map.vm(), MaySleep::claim());
        let hw = vm.platform();
        for (va, off, part) in Self::pieces(addr, buf.len()) {
            let to = &mut buf[part];
            self.retry(va, Prot::R, &mut may, || hw.load(vm.page_array(), self.map.pmap(), va, off, to))?;
        }
        Ok(())
    }

    /// Writes memory.
    ///
    /// # Errors
    /// The fault's; pages below are written.
    pub fn store(&self, addr: u64, data: &[u8]) -> Result<(), FaultError> {
        let (vm, mut may) = (self.map.vm(), MaySleep::claim());
        let hw = vm.platform();
        for (va, off, part) in Self::pieces(addr, data.len()) {
            let access = Access::Store(&data[part]);
            self.retry(va, Prot::W, &mut may, || {
                hw.touch(vm.page_array(), self.map.pmap(), va, off, access)
            })?;
        }
        Ok(())
    }

    /// Executes an instruction.
    ///
    /// # Errors
    /// The fault's.
    pub fn fetch(&self, addr: u64) -> Result<(), FaultError> {
        let (vm, va) = (self.map.vm(), Va::containing(RawAddr(addr)));
        let hw = vm.platform();
        let go = || hw.touch(vm.page_array(), self.map.pmap(), va, 0, Access::Fetch);
        self.retry(va, Prot::X, &mut MaySleep::claim(), go)
    }

    /// Reads a little-endian word.
    ///
    /// # Errors
    /// The fault's.
    pub fn load_word(&self, addr: u64) -> Result<u64, FaultError> {
        let mut b = [0; 8];
        self.load(addr, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    /// Writes a little-endian word.
    ///
    /// # Errors
    /// The fault's.
    pub fn store_word(&self, addr: u64, v: u64) -> Result<(), FaultError> {
        self.store(addr, &v.to_le_bytes())
    }
}

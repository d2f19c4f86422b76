//! `vm_behavior_set` (U30).

use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize, Va, VaRange};

use super::Task;
use super::msync::{MsyncError, SyncFlags};
use super::raw::{Span, span};
use super::transfer::{self, Denied};
use crate::map::{Advice, Advise, AdviseError, Attributes, CopyWhy, EntryFlags};
use crate::platform::Platform;

/// `VM_BEHAVIOR_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Behavior {
    /// No particular order. Stays.
    Default = 0,
    /// No locality. Stays.
    Random = 1,
    /// Upwards. Stays.
    Sequential = 2,
    /// Downwards. Stays.
    ReverseSequential = 3,
    /// Will be used: bring it in.
    WillNeed = 4,
    /// Will not be used for long: set it aside.
    DontNeed = 5,
    /// The contents do not count any more.
    Free = 6,
    /// Wired contents are zeroed when they are deallocated. Stays.
    ZeroWiredPages = 7,
    /// The contents do not count until they are written again.
    Reusable = 8,
    /// They count again.
    Reuse = 9,
    /// May the memory be declared reusable?
    CanReuse = 10,
    /// Write it out now.
    PageOut = 11,
    /// Zero it.
    Zero = 12,
}

impl Behavior {
    /// From the number.
    pub const fn from_raw(raw: u32) -> Option<Behavior> {
        Some(match raw {
            0 => Behavior::Default,
            1 => Behavior::Random,
            2 => Behavior::Sequential,
            3 => Behavior::ReverseSequential,
            4 => Behavior::WillNeed,
            5 => Behavior::DontNeed,
            6 => Behavior::Free,
            7 => Behavior::ZeroWiredPages,
            8 => Behavior::Reusable,
            9 => Behavior::Reuse,
            10 => Behavior::CanReuse,
            11 => Behavior::PageOut,
            12 => Behavior::Zero,
            _ => return None,
        })
    }

    /// The one that an entry keeps.
    pub(super) fn of(a: &Attributes) -> Behavior {
        match a.advice {
            Advice::Sequential => Behavior::Sequential,
            Advice::Random => Behavior::Random,
            Advice::Normal if a.flags.contains(EntryFlags::REVERSED) => Behavior::ReverseSequential,
            Advice::Normal => Behavior::Default,
        }
    }
}

/// Why a behaviour was not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BehaviorError {
    /// There is no such behaviour (`KERN_INVALID_ARGUMENT`).
    BadBehavior(u32),
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// The range is not inside the map (`KERN_NO_SPACE`).
    Outside(Va),
    /// Nothing is mapped here (`KERN_INVALID_ADDRESS`).
    Hole(Va),
    /// Not writable, and it should be zeroed (`KERN_PROTECTION_FAILURE`).
    Protection(Va),
    /// Wired contents cannot be dropped (`KERN_INVALID_ARGUMENT`).
    Wired(Va),
    /// The memory is mapped so that it cannot be reused in place (`KERN_FAILURE`).
    NotReusable(Va),
    /// No memory for entries (`KERN_RESOURCE_SHORTAGE`).
    NoMemory(Va),
    /// It could not be zeroed, or written to its pager.
    Denied(Denied),
}

fn advise_error(e: AdviseError) -> BehaviorError {
    match e {
        AdviseError::Wired(va) => BehaviorError::Wired(va),
        AdviseError::NoMemory(va) => BehaviorError::NoMemory(va),
    }
}

fn access_error((at, why): (Va, CopyWhy)) -> BehaviorError {
    match why {
        CopyWhy::Hole => BehaviorError::Hole(at),
        CopyWhy::Protection => BehaviorError::Protection(at),
        _ => BehaviorError::Denied((at, why).into()),
    }
}

impl<P: Platform> Task<'_, '_, P> {
    /// Says how a range will be used, or acts on its contents (U30).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`BehaviorError`].
    pub fn vm_behavior_set(
        &self,
        addr: RawAddr,
        size: RawSize,
        behavior: u32,
        may: &mut MaySleep,
    ) -> Result<(), BehaviorError> {
        let which = Behavior::from_raw(behavior).ok_or(BehaviorError::BadBehavior(behavior))?;
        let range = match span(addr, size, self.how.overflow) {
            Span::Nothing => return Ok(()),
            Span::Wraps => return Err(BehaviorError::Wraps(addr.0)),
            Span::Pages(r) => r,
        };
        if range.start() < self.map.min() || range.end() > self.map.max() {
            return Err(BehaviorError::Outside(range.start()));
        }
        match which {
            Behavior::Default => self.persist(range, Advice::Normal, EntryFlags::empty(), may),
            Behavior::Random => self.persist(range, Advice::Random, EntryFlags::empty(), may),
            Behavior::Sequential => self.persist(range, Advice::Sequential, EntryFlags::empty(), may),
            Behavior::ReverseSequential => self.persist(range, Advice::Normal, EntryFlags::REVERSED, may),
            Behavior::ZeroWiredPages => {
                self.map.check_access(range, Prot::W, may).map_err(access_error)?;
                self.flag(
                    range,
                    Advise::Mark { access: None, set: EntryFlags::ZERO_WIRED, clear: EntryFlags::empty() },
                    may,
                )
            }
            Behavior::WillNeed => {
                self.bring_in(range, may);
                Ok(())
            }
            Behavior::DontNeed => self.sync(addr, size, SyncFlags::DEACTIVATE | SyncFlags::CONTIGUOUS, may),
            Behavior::Free | Behavior::Reusable => {
                self.sync(addr, size, SyncFlags::KILLPAGES | SyncFlags::CONTIGUOUS, may)
            }
            Behavior::Reuse | Behavior::CanReuse => self.check_reusable(range, may),
            Behavior::PageOut => {
                let all = SyncFlags::DEACTIVATE | SyncFlags::SYNCHRONOUS | SyncFlags::CONTIGUOUS;
                self.sync(addr, size, all, may)
            }
            Behavior::Zero => self.zero(range, may),
        }
    }

    fn flag(&self, range: VaRange, advise: Advise, may: &mut MaySleep) -> Result<(), BehaviorError> {
        match self.map.madvise(range, advise, may).map_err(advise_error)? {
            None => Ok(()),
            Some(hole) => Err(BehaviorError::Hole(hole)),
        }
    }

    /// Kept in the entries; all of the range must be mapped before anything changes.
    fn persist(
        &self,
        range: VaRange,
        advice: Advice,
        set: EntryFlags,
        may: &mut MaySleep,
    ) -> Result<(), BehaviorError> {
        // Whatever is mapped can have a behaviour.
        if let Err((at, CopyWhy::Hole)) = self.map.check_access(range, Prot::NONE, may) {
            return Err(BehaviorError::Hole(at));
        }
        self.flag(range, Advise::Mark { access: Some(advice), set, clear: EntryFlags::REVERSED - set }, may)
    }

    fn sync(
        &self,
        addr: RawAddr,
        size: RawSize,
        flags: SyncFlags,
        may: &mut MaySleep,
    ) -> Result<(), BehaviorError> {
        self.sync_range(addr, size, flags, may).map_err(|e| match e {
            MsyncError::Hole(va) => BehaviorError::Hole(va),
            MsyncError::Wired(va) => BehaviorError::Wired(va),
            MsyncError::NoMemory(va) => BehaviorError::NoMemory(va),
            MsyncError::Pager(va, _) => BehaviorError::Denied(Denied::Fault(crate::FaultError::PagerIo(va))),
            MsyncError::Wraps(a) => BehaviorError::Wraps(a),
            MsyncError::BadFlags(_) | MsyncError::NotSupported => {
                BehaviorError::Outside(Va::containing(addr))
            }
        })
    }

    /// Faults pages in until the first that cannot be had; asks nothing of whoever
    /// asked.
    fn bring_in(&self, range: VaRange, may: &mut MaySleep) {
        for va in range.iter() {
            let f = crate::fault::Fault { addr: RawAddr(va.get()), access: Prot::R };
            if self.map.vm().memory_is_low() || self.map.fault(&f, may).is_err() {
                return;
            }
        }
    }

    /// Anonymous, private, writable, and not purgeable.
    fn check_reusable(&self, range: VaRange, may: &mut MaySleep) -> Result<(), BehaviorError> {
        self.map.check_access(range, Prot::RW, may).map_err(access_error)?;
        let mut at = range.start();
        while at < range.end() {
            let Some(f) = self.map.facts_at(at, VaRange::page(at), may) else {
                return Err(BehaviorError::Hole(at));
            };
            if f.shared || f.external || self.purgeable_at(at, may).is_some() {
                return Err(BehaviorError::NotReusable(at));
            }
            at = f.entry.range.end();
        }
        Ok(())
    }

    /// Zeroes: drops what is private, writes zeroes into the rest.
    fn zero(&self, range: VaRange, may: &mut MaySleep) -> Result<(), BehaviorError> {
        self.map.check_access(range, Prot::W, may).map_err(access_error)?;
        let mut at = range.start();
        while at < range.end() {
            let Some(f) = self.map.facts_at(at, VaRange::page(at), may) else {
                return Err(BehaviorError::Hole(at));
            };
            let Some(part) = f.entry.range.intersect(range) else { return Ok(()) };
            // Of what others have seen, and nobody sees now, the contents stay too.
            let shared = f.entry.flags.contains(EntryFlags::SHARED);
            if shared || f.external || f.entry.wired != 0 {
                for va in part.iter() {
                    let zeroes = [0; PAGE_SIZE as usize];
                    let done = transfer::write(self.map, va.get(), &zeroes, may);
                    done.map_err(|e| BehaviorError::Denied(e.into()))?;
                }
            } else {
                self.map.madvise(part, Advise::DontNeed, may).map_err(advise_error)?;
            }
            at = part.end();
        }
        Ok(())
    }
}

//! `vm_machine_attribute` (U28): caches.
//!
//! Caches are coherent here, so flushing them needs nothing but memory to flush.

use machvm_hal::{MaySleep, RawAddr, RawSize, Va};

use super::Task;
use super::raw::{Span, span};
use crate::map::CopyWhy;
use crate::platform::Platform;

/// `MATTR_CACHE`.
pub const MATTR_CACHE: u32 = 1;
/// `MATTR_MIGRATE`: pages have no other home here.
pub const MATTR_MIGRATE: u32 = 2;
/// `MATTR_REPLICATE`: pages have no replicas here.
pub const MATTR_REPLICATE: u32 = 4;

/// `MATTR_VAL_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum AttributeValue {
    /// Off.
    Off = 0,
    /// On.
    On = 1,
    /// What is it?
    Get = 2,
    /// Flush every cache.
    CacheFlush = 6,
    /// Flush the data cache.
    DcacheFlush = 7,
    /// Flush the instruction cache.
    IcacheFlush = 8,
    /// Make instructions see data.
    CacheSync = 9,
    /// What caches are there?
    GetInfo = 10,
}

impl AttributeValue {
    /// From the number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => AttributeValue::Off,
            1 => AttributeValue::On,
            2 => AttributeValue::Get,
            6 => AttributeValue::CacheFlush,
            7 => AttributeValue::DcacheFlush,
            8 => AttributeValue::IcacheFlush,
            9 => AttributeValue::CacheSync,
            10 => AttributeValue::GetInfo,
            _ => return None,
        })
    }
}

/// Why nothing was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttributeError {
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// The range is not inside the map (`KERN_INVALID_ADDRESS`; Mach 3:
    /// `KERN_INVALID_ARGUMENT`).
    Outside(Va),
    /// The machine has no such attribute, or cannot be told this of it
    /// (`KERN_INVALID_ARGUMENT`).
    Unsupported(u32, u32),
    /// Nothing is mapped here (`KERN_FAILURE`).
    Hole(Va),
}

impl<P: Platform> Task<'_, '_, P> {
    /// Does something about caches for a range (U28); gives the value of the attribute:
    /// caches are on.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`AttributeError`].
    pub fn vm_machine_attribute(
        &self,
        addr: RawAddr,
        size: RawSize,
        attribute: u32,
        value: u32,
        may: &mut MaySleep,
    ) -> Result<AttributeValue, AttributeError> {
        let range = match span(addr, size, self.how.overflow) {
            Span::Nothing => return Ok(AttributeValue::On),
            Span::Wraps => return Err(AttributeError::Wraps(addr.0)),
            Span::Pages(r) => r,
        };
        if range.start() < self.map.min() || range.end() > self.map.max() {
            return Err(AttributeError::Outside(range.start()));
        }
        let known = AttributeValue::from_raw(value).filter(|_| attribute == MATTR_CACHE);
        match known {
            Some(AttributeValue::Get | AttributeValue::On) => Ok(AttributeValue::On),
            Some(
                AttributeValue::CacheFlush
                | AttributeValue::DcacheFlush
                | AttributeValue::IcacheFlush
                | AttributeValue::CacheSync,
            ) => match self.map.check_access(range, machvm_hal::Prot::NONE, may) {
                Err((va, CopyWhy::Hole)) => Err(AttributeError::Hole(va)),
                _ => Ok(AttributeValue::On),
            },
            _ => Err(AttributeError::Unsupported(attribute, value)),
        }
    }
}

//! mprotect(2).

use machvm::map::{EntryFlags, Holes, ProtectError, SetProt};
use machvm_hal::{MaySleep, Prot, VaRange};

use super::{limit, map, part, prot, range};
use crate::errno::{EACCES, EINVAL, ENOMEM, Result};

const GROWSDOWN: u64 = 0x0100_0000;
const GROWSUP: u64 = 0x0200_0000;

pub(in crate::syscall) fn mprotect(at: u64, len: u64, p: u64) -> Result {
    // 8: PROT_SEM.
    if p & !(0xf | GROWSDOWN | GROWSUP) != 0 || p & (GROWSDOWN | GROWSUP) == GROWSDOWN | GROWSUP {
        return Err(EINVAL);
    }
    let Some(mut r) = range(at, len, ENOMEM)? else { return Ok(0) };
    if p & (GROWSDOWN | GROWSUP) != 0 {
        let first = part(r).ok_or(ENOMEM)?;
        if p & GROWSUP != 0 || !first.info.flags.contains(EntryFlags::GROWS_DOWN) {
            return Err(EINVAL);
        }
        r = VaRange::between(first.info.range.start(), r.end()).ok_or(ENOMEM)?;
    }
    if prot(p).contains(Prot::W) {
        limit::becomes_data(r)?;
    }
    // As Linux: what lies below the first hole, or below what may not be, is changed.
    let mut may = MaySleep::claim();
    let set = SetProt { prot: Some(prot(p)), max: None, holes: Holes::Refuse };
    let stop = match map().protect(r, &set, &mut may) {
        Ok(()) => return Ok(0),
        Err(ProtectError::Hole(at)) => (at, ENOMEM),
        Err(ProtectError::ExceedsMax(at) | ProtectError::OutsideMax(at)) => (at, EACCES),
        Err(_) => return Err(ENOMEM),
    };
    if let Some(below) = VaRange::between(r.start(), stop.0) {
        map().protect(below, &set, &mut may).map_err(|_| ENOMEM)?;
    }
    Err(stop.1)
}

/// pkey_mprotect(2): there are no keys but the default.
pub(in crate::syscall) fn pkey_mprotect(at: u64, len: u64, p: u64, key: i32) -> Result {
    if key == -1 { mprotect(at, len, p) } else { Err(EINVAL) }
}

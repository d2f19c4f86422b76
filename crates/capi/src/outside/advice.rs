//! `vm_msync` and `vm_behavior_set` of outside memory.
//!
//! Linux writes shared files back and takes advice about the rest; contents that do not
//! count any more are dropped where they are anonymous and private, as Mach does.

use machvm::task::{Behavior, SyncFlags};
use machvm_hal::Prot;

use super::attributes::{Done, advise, mappings, whole};
use super::bytes;
use super::maps::Mapping;
use crate::calls::here;
use crate::kr::{self, Code};

/// `MADV_COLD` and `MADV_PAGEOUT` (Linux 5.4).
const COLD: i32 = 20;
const PAGEOUT: i32 = 21;

/// Are there addresses in `[start, end)` that no mapping covers?
fn hole(all: &[Mapping], start: u64, end: u64) -> bool {
    let (from, to) = super::attributes::pages(start, end);
    all.iter().map(Mapping::bytes).sum::<u64>() != to.saturating_sub(from) || end > to
}

/// Drops the contents, where they are this program's alone. Pages that are wired stay.
fn forget(m: &Mapping) {
    if m.is_private_anonymous() {
        let _ = advise(m, libc::MADV_FREE);
    }
}

/// Writes, forgets, or sets aside (U29); the flags were checked.
///
/// # Errors
/// `KERN_INVALID_ADDRESS`: a hole, with CONTIGUOUS; the rest was done. `KERN_FAILURE`: a
/// file could not be written.
pub(crate) fn msync(start: u64, end: u64, flags: SyncFlags) -> Done {
    let all = mappings(start, end)?;
    let kill = flags.intersects(SyncFlags::KILLPAGES | SyncFlags::REUSABLEPAGES);
    let (mut result, mut at) = (Ok(()), super::attributes::pages(start, end).0);
    let contiguous = flags.contains(SyncFlags::CONTIGUOUS);
    for m in &all {
        if kill {
            // Contents are not dropped behind a hole.
            if contiguous && m.start > at {
                break;
            }
            forget(m);
        } else {
            result = result.and(write_back(m, flags));
        }
        if flags.contains(SyncFlags::DEACTIVATE) {
            let _ = advise(m, COLD);
        }
        at = m.end;
    }
    let holes = contiguous && hole(&all, start, end);
    result.and(if holes { Err(kr::KERN_INVALID_ADDRESS) } else { Ok(()) })
}

fn write_back(m: &Mapping, flags: SyncFlags) -> Done {
    let writes = SyncFlags::SYNCHRONOUS | SyncFlags::ASYNCHRONOUS | SyncFlags::INVALIDATE;
    if !m.shared || m.inode == 0 || !flags.intersects(writes) {
        return Ok(()); // nothing that could be written anywhere
    }
    let mut how = if flags.contains(SyncFlags::SYNCHRONOUS) { libc::MS_SYNC } else { libc::MS_ASYNC };
    if flags.contains(SyncFlags::INVALIDATE) {
        how |= libc::MS_INVALIDATE;
    }
    let at = core::ptr::with_exposed_provenance_mut::<libc::c_void>(m.start as usize);
    // SAFETY: contents do not change.
    match unsafe { libc::msync(at, m.bytes() as usize, how) } {
        0 => Ok(()),
        _ => match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EBUSY) => Err(kr::KERN_INVALID_ARGUMENT), // wired
            Some(libc::ENOMEM) => Ok(()),                        // unmapped meanwhile
            _ => Err(kr::KERN_FAILURE),
        },
    }
}

/// Says how memory will be used, or acts on its contents (U30).
///
/// # Errors
/// `KERN_INVALID_ADDRESS`, `KERN_PROTECTION_FAILURE`; `KERN_FAILURE` (CAN_REUSE, REUSE:
/// shared memory, files); `KERN_NOT_SUPPORTED` (ZERO_WIRED_PAGES: Linux does not do it).
pub(crate) fn behavior(start: u64, end: u64, which: Behavior) -> Done {
    let to_all = |advice: i32| {
        for m in whole(start, end, Prot::NONE)? {
            let _ = advise(&m, advice); // advice: where Linux has no use for it, nothing is lost
        }
        Ok(())
    };
    match which {
        Behavior::Default | Behavior::ReverseSequential => to_all(libc::MADV_NORMAL),
        Behavior::Random => to_all(libc::MADV_RANDOM),
        Behavior::Sequential => to_all(libc::MADV_SEQUENTIAL),
        Behavior::DontNeed => to_all(COLD),
        Behavior::PageOut => to_all(PAGEOUT),
        Behavior::WillNeed => {
            // Holes end it, which is no error.
            for m in mappings(start, end)? {
                let _ = advise(&m, libc::MADV_WILLNEED);
            }
            Ok(())
        }
        Behavior::Free | Behavior::Reusable => {
            msync(start, end, SyncFlags::KILLPAGES | SyncFlags::CONTIGUOUS)
        }
        Behavior::ZeroWiredPages => {
            whole(start, end, Prot::W)?;
            Err(kr::KERN_NOT_SUPPORTED)
        }
        Behavior::Reuse | Behavior::CanReuse => {
            let all = whole(start, end, Prot::RW)?;
            let other = all.iter().any(|m| !m.is_private_anonymous());
            if other { Err(kr::KERN_FAILURE) } else { Ok(()) }
        }
        Behavior::Zero => {
            const ZEROES: [u8; 1 << 14] = [0; 1 << 14];
            for m in whole(start, end, Prot::W)? {
                for at in (m.start..m.end).step_by(ZEROES.len()) {
                    let n = (m.end - at).min(ZEROES.len() as u64) as usize;
                    bytes::write(at, &ZEROES[..n]).map_err(|e| e.code(here().1))?;
                }
            }
            Ok(())
        }
    }
}

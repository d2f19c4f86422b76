//! Pages that the program could not be given, told of by object and offset: whoever touched
//! one got SIGBUS, which names an address only.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use machvm::FaultError;
use machvm_hal::{MaySleep, PAGE_SIZE, Va};

use super::vmspace::VmSpace;

/// Errors that are told of one by one: the last ones.
const TOLD: usize = 64;

/// A page that could not be had.
struct Report {
    va: Va,
    /// Number of the object, and byte in it.
    place: Option<(u32, u64)>,
    why: &'static str,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Lost {
    errors: AtomicU64,
    last: Mutex<VecDeque<Report>>,
}

fn why(e: FaultError) -> &'static str {
    match e {
        FaultError::Beyond(_) => "beyond the end of its data",
        FaultError::PagerGone(_) => "its pager is gone",
        _ => "cannot be read",
    }
}

impl Lost {
    /// Errors so far.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Takes note of a page.
    pub(super) fn note(&self, space: &VmSpace, e: FaultError, may: &mut MaySleep) {
        let va = e.va();
        let entry = space.map.entry_from(va, may).filter(|entry| entry.range.contains(va));
        let place = entry.and_then(|entry| Some((entry.object?.get(), entry.pindex(va).0 * PAGE_SIZE)));
        self.errors.fetch_add(1, Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == TOLD {
            last.pop_front();
        }
        last.push_back(Report { va, place, why: why(e) });
    }

    /// The last errors, one a line; nothing if there were none.
    pub(super) fn table(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut t = String::new();
        if !last.is_empty() {
            let _ = writeln!(t, "\nmemory errors: {}\n  object       offset          address", self.errors());
        }
        for Report { va, place, why } in &*last {
            let (object, offset) =
                place.map_or_else(|| ("-".into(), "-".into()), |(o, at)| (o.to_string(), format!("{at:#x}")));
            let _ = writeln!(t, "{object:>8} {offset:>12} {:#16x} {why}", va.get());
        }
        t
    }
}

//! Pages that the program could not be given, told of by object and offset: whoever touched
//! one got SIGBUS, which names an address only.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use machvm::FaultError;
use machvm::object::Object;
use machvm_arena::Handle;
use machvm_hal::{PAGE_SIZE, Pindex, Va};

/// Errors that are told of one by one: the last ones.
const TOLD: usize = 64;

/// A page that could not be had.
struct Report {
    va: Va,
    /// Number of the object, and byte in it.
    place: (u32, u64),
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

    /// Takes note of a page, of its object and its index there.
    pub(super) fn note(&self, (e, va): (FaultError, Va), (object, page): (Handle<Object>, Pindex)) {
        let place = (object.get(), page.0 * PAGE_SIZE);
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
        for Report { va, place: (object, offset), why } in &*last {
            let _ = writeln!(t, "{object:>8} {:>12} {:#16x} {why}", format!("{offset:#x}"), va.get());
        }
        t
    }
}

//! Model checks of the two protocols between a page's list of mappings and the tables;
//! `LOCKING.md` names these tests.
#![cfg(loom)]

#[path = "../src/epoch.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod epoch;

use epoch::Epochs;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use loom::thread;
use machvm_hal::Gather;
use machvm_sync::{Rank, Spin};

const RECORD: u64 = 1;
const DEAD: u64 = 3;
const ENTRY: u64 = 0x27;

/// One entry, its page's list of one, and how often the mapping was taken out.
struct Mapping {
    table: Spin<()>,
    list: Spin<()>,
    entry: AtomicU64,
    record: AtomicU64,
    taken: AtomicU64,
}

impl Mapping {
    fn new() -> Arc<Self> {
        Arc::new(Mapping {
            table: Spin::new(Rank::Table, ()),
            list: Spin::new(Rank::Pv, ()),
            entry: AtomicU64::new(ENTRY),
            record: AtomicU64::new(RECORD),
            taken: AtomicU64::new(0),
        })
    }
    /// => both are locked.
    fn take_out(&self) {
        assert_eq!(self.entry.swap(0, Relaxed), ENTRY, "a record of nothing");
        assert_eq!(self.record.swap(DEAD, Relaxed), RECORD, "an entry without a record");
        self.taken.fetch_add(1, Relaxed);
    }
    /// As a removal by address.
    fn by_address(&self) {
        let _table = self.table.lock();
        if self.entry.load(Relaxed) != 0 {
            let _list = self.list.lock();
            self.take_out();
        }
    }
    /// As a removal by page.
    fn by_page(&self) {
        let list = self.list.lock();
        if self.record.load(Relaxed) != RECORD {
            return;
        }
        if let Some(_table) = self.table.try_lock() {
            return self.take_out();
        }
        drop(list);
        let _table = self.table.lock();
        let _list = self.list.lock();
        if self.record.load(Relaxed) == RECORD {
            self.take_out();
        }
    }
}

fn taken_out_once(other: fn(&Mapping)) {
    loom::model(move || {
        let m = Mapping::new();
        let second = {
            let m = m.clone();
            thread::spawn(move || other(&m))
        };
        m.by_page();
        second.join().expect("no panic");
        assert_eq!(m.taken.load(Relaxed), 1);
        assert_eq!((m.entry.load(Relaxed), m.record.load(Relaxed)), (0, DEAD));
    });
}

#[test]
fn pv_inversion_takes_out_once() {
    taken_out_once(Mapping::by_address);
    taken_out_once(Mapping::by_page);
}

#[test]
fn epoch_is_seen_by_who_finds_the_entry_gone() {
    loom::model(|| {
        let m = Mapping::new();
        let epochs = Arc::new(Epochs::new());
        let flushed = Arc::new(AtomicU64::new(0));
        let remover = {
            let (m, epochs, flushed) = (m.clone(), epochs.clone(), flushed.clone());
            thread::spawn(move || {
                let mut g = Gather::new();
                {
                    let _table = m.table.lock();
                    epochs.of(&mut g, 0);
                    m.entry.store(0, Relaxed);
                }
                flushed.store(1, Relaxed);
                epochs.close(g.epoch().expect("opened"));
                std::mem::forget(g);
            })
        };
        let gone = {
            let _table = m.table.lock();
            m.entry.load(Relaxed) == 0
        };
        if gone && !epochs.others_open(None) {
            // Nobody is about to flush it, so it has been.
            assert_eq!(flushed.load(Relaxed), 1, "gone, not flushed, and nobody says so");
        }
        remover.join().expect("no panic");
    });
}

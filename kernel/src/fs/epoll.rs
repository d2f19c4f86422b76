//! epoll: a list of files to poll that stays.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::file::File;
use super::poll::{POLLERR, POLLHUP, POLLIN, Special};
use crate::errno::{EEXIST, EINVAL, ELOOP, ENOENT, Result};
use crate::mutex::Mutex;

const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;

struct Item {
    file: Weak<File>,
    events: u32,
    data: u64,
    /// What was reported last, and at which turn of the file.
    reported: (u16, u32),
}

/// A set of files.
pub(crate) struct Set {
    items: Mutex<BTreeMap<i32, Item>>,
}

/// What epoll_ctl does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Add,
    Delete,
    Modify,
}

impl Set {
    pub(crate) fn new() -> Self {
        Set { items: Mutex::new(BTreeMap::new()) }
    }
    /// epoll_ctl(2).
    pub(crate) fn change(
        &self,
        what: Change,
        fd: i32,
        file: &Arc<File>,
        events: u32,
        data: u64,
    ) -> Result<()> {
        if !file.can_poll() {
            return Err(crate::errno::EPERM);
        }
        if file.special().is_some_and(|s| s.epoll().is_some()) {
            // Sets in sets are not known.
            return Err(if core::ptr::eq(self, file.special().and_then(|s| s.epoll()).unwrap_or(self)) {
                EINVAL
            } else {
                ELOOP
            });
        }
        let mut items = self.items.lock();
        let there = items.get(&fd).is_some_and(|i| i.file.ptr_eq(&Arc::downgrade(file)));
        let item = Item { file: Arc::downgrade(file), events, data, reported: (0, 0) };
        match what {
            Change::Add if there => return Err(EEXIST),
            Change::Delete | Change::Modify if !there => return Err(ENOENT),
            Change::Delete => drop(items.remove(&fd)),
            Change::Add | Change::Modify => drop(items.insert(fd, item)),
        }
        drop(items);
        super::wait::changed();
        Ok(())
    }
    /// At most `most` files that something can be done with: events and data.
    pub(crate) fn ready(&self, most: usize) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        let mut items = self.items.lock();
        items.retain(|_, i| i.file.strong_count() != 0);
        for i in items.values_mut() {
            let Some(file) = i.file.upgrade() else { continue };
            if found.len() == most || i.events & !(ONESHOT | EDGE) == 0 {
                continue;
            }
            let now = file.poll() & (i.events as u16 | POLLERR | POLLHUP);
            let turn = file.special().map_or(0, |s| s.turn());
            let same = i.events & EDGE != 0 && turn == i.reported.1;
            let report = if same { now & !i.reported.0 } else { now };
            i.reported = (now, turn);
            if report != 0 {
                found.push((u32::from(now), i.data));
                if i.events & ONESHOT != 0 {
                    i.events &= ONESHOT | EDGE;
                }
            }
        }
        found
    }
}

impl Special for Set {
    fn poll(&self) -> u16 {
        let items = self.items.lock();
        let any = items
            .values()
            .any(|i| i.file.upgrade().is_some_and(|f| f.poll() & (i.events as u16 | POLLERR | POLLHUP) != 0));
        if any { POLLIN } else { 0 }
    }
    fn epoll(&self) -> Option<&Set> {
        Some(self)
    }
    fn label(&self) -> &'static str {
        "anon_inode:[eventpoll]"
    }
}

//! What a task should be: pages with rights, and contents that mappings share or not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes of a page.
pub(crate) const P: usize = 4096;

pub(crate) type Cell = Rc<RefCell<Vec<u8>>>;

#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) prot: i32,
    pub(crate) max: i32,
    pub(crate) inherit: u32,
    pub(crate) cell: Cell,
}

pub(crate) fn zeroes() -> Cell {
    Rc::new(RefCell::new(vec![0; P]))
}

fn copy(cell: &Cell) -> Cell {
    Rc::new(RefCell::new(cell.borrow().clone()))
}

/// Codes that may be right: more than one where a range has more than one mistake.
pub(crate) type Codes = Vec<i32>;

const ADDRESS: i32 = 1;
const PROTECTION: i32 = 2;

/// The pages of a task, numbered from the start of the area.
#[derive(Clone, Default)]
pub(crate) struct Space(pub(crate) BTreeMap<usize, Page>);

impl Space {
    fn pages(at: usize, len: usize) -> std::ops::Range<usize> {
        at / P..(at + len).div_ceil(P)
    }

    /// What a transfer of these bytes with this right answers. Small ones do not tell a
    /// missing right from a hole.
    pub(crate) fn access(&self, at: usize, len: usize, right: i32, hide: bool) -> Codes {
        if len == 0 {
            return vec![0];
        }
        let mut codes: Codes = Self::pages(at, len)
            .filter_map(|i| match self.0.get(&i) {
                None => Some(ADDRESS),
                Some(p) if p.prot & right == 0 => Some(if hide { ADDRESS } else { PROTECTION }),
                Some(_) => None,
            })
            .collect();
        codes.sort_unstable();
        codes.dedup();
        if codes.is_empty() { vec![0] } else { codes }
    }

    pub(crate) fn read(&self, at: usize, len: usize) -> Vec<u8> {
        (at..at + len).map(|i| self.0[&(i / P)].cell.borrow()[i % P]).collect()
    }
    pub(crate) fn write(&self, at: usize, data: &[u8]) {
        for (i, b) in (at..).zip(data) {
            self.0[&(i / P)].cell.borrow_mut()[i % P] = *b;
        }
    }

    pub(crate) fn is_free(&self, first: usize, n: usize) -> bool {
        self.0.range(first..first + n).next().is_none()
    }
    pub(crate) fn is_mapped(&self, first: usize, n: usize) -> bool {
        self.0.range(first..first + n).count() == n
    }
    pub(crate) fn allocate(&mut self, first: usize, n: usize) {
        for i in first..first + n {
            self.0.insert(i, Page { prot: 3, max: 7, inherit: 1, cell: zeroes() });
        }
    }
    pub(crate) fn deallocate(&mut self, first: usize, n: usize) {
        (first..first + n).for_each(|i| {
            self.0.remove(&i);
        });
    }

    /// What `vm_protect` answers; done when it succeeds.
    pub(crate) fn protect(&mut self, first: usize, n: usize, set_max: bool, prot: i32) -> Codes {
        let range = first..first + n;
        let mut codes: Codes = range
            .clone()
            .filter_map(|i| match self.0.get(&i) {
                None => Some(ADDRESS),
                Some(p) if prot & !p.max != 0 => Some(PROTECTION),
                Some(_) => None,
            })
            .collect();
        if !codes.is_empty() {
            codes.sort_unstable();
            codes.dedup();
            return codes;
        }
        for (_, p) in self.0.range_mut(range) {
            if set_max {
                p.max &= prot;
                p.prot &= p.max;
            } else {
                p.prot = prot;
            }
        }
        vec![0]
    }

    pub(crate) fn inherit(&mut self, first: usize, n: usize, how: u32) {
        self.0.range_mut(first..first + n).for_each(|(_, p)| p.inherit = how);
    }

    /// The pages of a range for another place, shared or copied.
    pub(crate) fn take(&self, first: usize, n: usize, copied: bool) -> Vec<Page> {
        let page = |i| {
            let p: &Page = &self.0[&i];
            Page { cell: if copied { copy(&p.cell) } else { Rc::clone(&p.cell) }, ..p.clone() }
        };
        (first..first + n).map(page).collect()
    }
    pub(crate) fn put(&mut self, first: usize, pages: Vec<Page>) {
        self.0.extend((first..).zip(pages));
    }

    pub(crate) fn fork(&self) -> Space {
        let child = |p: &Page| match p.inherit {
            0 => Some(p.clone()),
            1 => Some(Page { cell: copy(&p.cell), ..p.clone() }),
            _ => None,
        };
        Space(self.0.iter().filter_map(|(i, p)| Some((*i, child(p)?))).collect())
    }
}

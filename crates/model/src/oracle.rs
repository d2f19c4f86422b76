//! What memory must look like: pages, one by one, with no structure at all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use machvm::map::Inherit;
use machvm_hal::{Prot, VaRange};

/// Words of a page that tests write, 512 bytes apart; the rest stays zero.
pub const WORDS: usize = 8;

/// The contents of a page, shared by those that share the page.
pub type Contents = Rc<RefCell<[u64; WORDS]>>;

/// A page.
#[derive(Clone, Debug)]
pub struct OraclePage {
    /// What is in it.
    pub contents: Contents,
    /// May be done to it.
    pub prot: Prot,
    /// `prot` may become this.
    pub max: Prot,
    /// What a child gets.
    pub inherit: Inherit,
    /// What is there when nothing was written, or it was dropped: a page of a file,
    /// else zeroes.
    pub file: Option<[u64; WORDS]>,
    /// Others could see it once: dropping contents leaves it alone.
    pub shared: bool,
}

impl OraclePage {
    /// Drops what was written, if nobody else can see it.
    pub fn reset(&mut self) {
        if !self.shared {
            self.contents = Rc::new(RefCell::new(self.file.unwrap_or_default()));
        }
    }
    /// The same page, for somebody else too.
    #[must_use]
    pub fn share(&mut self) -> OraclePage {
        self.shared = true;
        self.clone()
    }
    /// A page with the same contents now.
    #[must_use]
    pub fn copy(&self) -> OraclePage {
        let contents = Rc::new(RefCell::new(*self.contents.borrow()));
        OraclePage { contents, shared: false, ..self.clone() }
    }
}

/// An address space.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    /// By page number.
    pub pages: BTreeMap<u64, OraclePage>,
}

impl Oracle {
    /// Fresh zeroes over whatever is there.
    pub fn map(&mut self, r: VaRange, prot: Prot, max: Prot) {
        for va in r.iter() {
            let contents = Contents::default();
            let page = OraclePage { contents, prot, max, inherit: Inherit::Copy, file: None, shared: false };
            self.pages.insert(va.page(), page);
        }
    }
    /// Nothing.
    pub fn unmap(&mut self, r: VaRange) {
        self.pages.retain(|p, _| !(r.start().page()..r.end().page()).contains(p));
    }
    /// The mapped pages of a range.
    pub fn range_mut(&mut self, r: VaRange) -> impl Iterator<Item = (&u64, &mut OraclePage)> {
        self.pages.range_mut(r.start().page()..r.end().page())
    }
    /// Is any page of the range mapped?
    pub fn any(&self, r: VaRange) -> bool {
        self.pages.range(r.start().page()..r.end().page()).next().is_some()
    }
    /// Is all of it mapped?
    pub fn all(&self, r: VaRange) -> bool {
        self.pages.range(r.start().page()..r.end().page()).count() as u64 == r.pages()
    }
    /// The child of this address space.
    #[must_use]
    pub fn fork(&mut self) -> Oracle {
        let pages = self.pages.iter_mut().filter_map(|(va, p)| {
            let page = match p.inherit {
                Inherit::None => return None,
                Inherit::Share => p.share(),
                Inherit::Copy => p.copy(),
                Inherit::Zero => {
                    OraclePage { contents: Contents::default(), file: None, shared: false, ..p.clone() }
                }
            };
            Some((*va, page))
        });
        Oracle { pages: pages.collect() }
    }
}

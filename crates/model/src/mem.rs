//! Frames.

use std::sync::Arc;

use machvm_hal::{ExtentError, PAGE_SIZE, Pfn, PhysMem, Placement, PopulateError};

use crate::hardware::{GARBAGE, Hardware, State};
use crate::inject::Point;

/// Physical memory, in either placement. Panics at what the contract forbids: filling
/// a frame twice, using one that is not resident, freeing one that is still mapped.
#[derive(Clone, Debug)]
pub struct ModelMem {
    pub(crate) hw: Arc<Hardware>,
    pub(crate) placement: Placement,
}

impl ModelMem {
    fn populate(&self, first: Pfn, n: u32, byte: u8) {
        let mut s = self.hw.state();
        for i in 0..u64::from(n) {
            let f = first.add(i);
            self.check_number(f);
            let old = s.frames.insert(f.0, Box::new([byte; PAGE_SIZE as usize]));
            assert!(old.is_none(), "frame {:#x} is populated twice", f.0);
        }
        if let Placement::Sparse { frames } = self.placement {
            assert!(s.frames.len() as u64 <= frames, "more frames resident than the limit of {frames}");
        }
    }

    fn check_number(&self, f: Pfn) {
        if let Placement::Dense { first, frames } = self.placement {
            assert!(f >= first && f.0 < first.0 + u64::from(frames), "no frame {f:?}");
        }
    }

    /// Nothing may lead to a frame that is discarded.
    fn check_unmapped(s: &State, f: Pfn) {
        for (space, sp) in &s.spaces {
            if let Some((va, pte)) = sp.ptes.iter().find(|(_, p)| p.pfn == f) {
                panic!("frame {:#x} is discarded while page {va:#x} of space {space} maps it: {pte:?}", f.0);
            }
        }
        if let Some((at, pte)) = s.stale.iter().find(|(_, p)| p.pfn == f) {
            panic!("frame {:#x} is discarded before the flush of {at:x?}: {pte:?}", f.0);
        }
    }
}

impl PhysMem for ModelMem {
    fn placement(&self) -> Placement {
        self.placement
    }

    fn extent_reserve(&self, pages: u64) -> Result<Pfn, ExtentError> {
        if self.hw.inject.fails(Point::Extent) {
            return Err(ExtentError);
        }
        let mut s = self.hw.state();
        if let Some(base) = s.extents.get_mut(&pages).and_then(Vec::pop) {
            return Ok(Pfn(base));
        }
        let base = s.next_extent;
        s.next_extent = base.checked_add(pages).filter(|e| *e < 1 << 62).ok_or(ExtentError)?;
        Ok(Pfn(base))
    }

    fn extent_release(&self, base: Pfn, pages: u64) {
        let mut s = self.hw.state();
        if let Some(f) = s.frames.keys().find(|f| (base.0..base.0 + pages).contains(f)) {
            panic!("extent {:#x} is released while frame {f:#x} is resident", base.0);
        }
        let list = s.extents.entry(pages).or_default();
        assert!(!list.contains(&base.0), "extent {:#x} is released twice", base.0);
        list.push(base.0);
    }

    fn zero(&self, first: Pfn, n: u32) -> Result<(), PopulateError> {
        self.hw.host.preempt();
        if self.hw.inject.fails(Point::Zero) {
            return Err(PopulateError);
        }
        self.populate(first, n, 0);
        Ok(())
    }

    fn prepare(&self, first: Pfn, n: u32) -> Result<(), PopulateError> {
        self.hw.host.preempt();
        if self.hw.inject.fails(Point::Prepare) {
            return Err(PopulateError);
        }
        self.populate(first, n, GARBAGE);
        Ok(())
    }

    fn discard(&self, first: Pfn, n: u32) {
        self.hw.host.preempt();
        let mut s = self.hw.state();
        for i in 0..u64::from(n) {
            let f = first.add(i);
            self.check_number(f);
            Self::check_unmapped(&s, f);
            // A frame that never got its contents may be discarded too.
            s.frames.remove(&f.0);
        }
    }

    fn copy(&self, from: Pfn, to: Pfn) {
        self.hw.host.preempt();
        let mut s = self.hw.state();
        let contents = *s.frame(from, "copied");
        *s.frame(to, "copied to") = contents;
    }

    fn read(&self, f: Pfn, off: usize, buf: &mut [u8]) {
        self.hw.host.preempt();
        buf.copy_from_slice(&self.hw.state().frame(f, "read")[off..off + buf.len()]);
    }

    fn write(&self, f: Pfn, off: usize, buf: &[u8]) {
        self.hw.host.preempt();
        self.hw.state().frame(f, "written")[off..off + buf.len()].copy_from_slice(buf);
    }
}

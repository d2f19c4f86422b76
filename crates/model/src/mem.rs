//! Frames.

use std::sync::Arc;

use machvm_hal::{ExtentError, PAGE_SIZE, Pfn, PhysMem, Placement, PopulateError};

use crate::hardware::{GARBAGE, Hardware, State};
use crate::host::ModelHost;
use crate::inject::{Injector, Point};
use crate::paging::Tables;

/// Physical memory, in either placement. Panics at what the contract forbids: filling
/// a frame twice, using one that is not resident, freeing one that is still mapped.
#[derive(Clone, Debug)]
pub struct ModelMem {
    pub(crate) frames: Frames,
    pub(crate) placement: Placement,
    pub(crate) host: Arc<ModelHost>,
    pub(crate) inject: &'static Injector,
}

/// Where they are.
#[derive(Clone, Debug)]
pub(crate) enum Frames {
    Flat(Arc<Hardware>),
    Tables(Arc<Tables>),
}

impl ModelMem {
    fn populate(&self, hw: &Hardware, first: Pfn, n: u32, byte: u8) {
        let mut s = hw.state();
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
        if self.inject.fails(Point::Extent) {
            return Err(ExtentError);
        }
        let Frames::Flat(hw) = &self.frames else { return Err(ExtentError) };
        let mut s = hw.state();
        if let Some(base) = s.extents.get_mut(&pages).and_then(Vec::pop) {
            return Ok(Pfn(base));
        }
        let base = s.next_extent;
        s.next_extent = base.checked_add(pages).filter(|e| *e < 1 << 62).ok_or(ExtentError)?;
        Ok(Pfn(base))
    }

    fn extent_release(&self, base: Pfn, pages: u64) {
        let Frames::Flat(hw) = &self.frames else { panic!("dense memory has no extents") };
        let mut s = hw.state();
        if let Some(f) = s.frames.keys().find(|f| (base.0..base.0 + pages).contains(f)) {
            panic!("extent {:#x} is released while frame {f:#x} is resident", base.0);
        }
        let list = s.extents.entry(pages).or_default();
        assert!(!list.contains(&base.0), "extent {:#x} is released twice", base.0);
        list.push(base.0);
    }

    fn zero(&self, first: Pfn, n: u32) -> Result<(), PopulateError> {
        self.host.preempt();
        if self.inject.fails(Point::Zero) {
            return Err(PopulateError);
        }
        match &self.frames {
            Frames::Flat(hw) => self.populate(hw, first, n, 0),
            Frames::Tables(t) => t.zero(first, n),
        }
        Ok(())
    }

    fn prepare(&self, first: Pfn, n: u32) -> Result<(), PopulateError> {
        self.host.preempt();
        if self.inject.fails(Point::Prepare) {
            return Err(PopulateError);
        }
        match &self.frames {
            Frames::Flat(hw) => self.populate(hw, first, n, GARBAGE),
            Frames::Tables(t) => t.prepare(first, n),
        }
        Ok(())
    }

    fn discard(&self, first: Pfn, n: u32) {
        self.host.preempt();
        let hw = match &self.frames {
            Frames::Flat(hw) => hw,
            Frames::Tables(t) => return t.discard(first, n),
        };
        let mut s = hw.state();
        for i in 0..u64::from(n) {
            let f = first.add(i);
            self.check_number(f);
            Self::check_unmapped(&s, f);
            // A frame that never got its contents may be discarded too.
            s.frames.remove(&f.0);
        }
    }

    fn copy(&self, from: Pfn, to: Pfn) {
        self.host.preempt();
        let hw = match &self.frames {
            Frames::Flat(hw) => hw,
            Frames::Tables(t) => return t.copy(from, to),
        };
        let mut s = hw.state();
        let contents = *s.frame(from, "copied");
        *s.frame(to, "copied to") = contents;
    }

    fn read(&self, f: Pfn, off: usize, buf: &mut [u8]) {
        self.host.preempt();
        match &self.frames {
            Frames::Flat(hw) => buf.copy_from_slice(&hw.state().frame(f, "read")[off..off + buf.len()]),
            Frames::Tables(t) => t.read(f, off, buf),
        }
    }

    fn write(&self, f: Pfn, off: usize, buf: &[u8]) {
        self.host.preempt();
        match &self.frames {
            Frames::Flat(hw) => {
                hw.state().frame(f, "written")[off..off + buf.len()].copy_from_slice(buf);
            }
            Frames::Tables(t) => t.write(f, off, buf),
        }
    }
}

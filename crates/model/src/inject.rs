//! Making the k-th thing fail.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use machvm_arena::Gate;

/// What can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Point {
    /// An object of a slab.
    Object = 1,
    /// A run of frame numbers.
    Extent = 2,
    /// Zeroing frames.
    Zero = 4,
    /// Preparing frames.
    Prepare = 8,
    /// The pmap has no memory for a mapping.
    Enter = 0x10,
    /// The machine has no structure for a region.
    Region = 0x20,
    /// The machine cannot change a region.
    RegionProtect = 0x40,
    /// Swap is full.
    SwapPut = 0x80,
    /// Swap lost the contents.
    SwapGet = 0x100,
    /// The pager cannot read.
    PageIn = 0x200,
    /// The pager cannot write.
    PageOut = 0x400,
    /// A frame for a page table.
    Table = 0x800,
    /// A record of a mapping, or the structure of a pmap.
    Record = 0x1000,
}

/// Counts chances to fail, and makes one of them fail.
#[derive(Debug, Default)]
pub struct Injector {
    points: AtomicU32,
    /// Chances until the failure; 0: disarmed.
    left: AtomicU64,
    /// All later ones fail too.
    lasting: AtomicBool,
    fired: AtomicU64,
    /// Chances so far, by the bit of the point.
    chances: [AtomicU64; 13],
}

impl Injector {
    /// The `k`-th chance from now (from one) among `points` (an or of [`Point`]s)
    /// fails, and with `lasting` all that follow.
    pub fn arm(&self, points: u32, k: u64, lasting: bool) {
        self.points.store(points, SeqCst);
        self.lasting.store(lasting, SeqCst);
        self.fired.store(0, SeqCst);
        self.left.store(k, SeqCst);
    }
    /// Nothing fails any more. Gives how many failed since [`Injector::arm`].
    pub fn disarm(&self) -> u64 {
        self.left.store(0, SeqCst);
        self.points.store(0, SeqCst);
        self.fired.swap(0, SeqCst)
    }
    /// How often it could have failed so far: the count of such requests.
    pub fn chances(&self, p: Point) -> u64 {
        self.chances[(p as u32).trailing_zeros() as usize].load(SeqCst)
    }
    /// Nothing fails until [`Injector::resume`] is given the result.
    pub fn pause(&self) -> u32 {
        self.points.swap(0, SeqCst)
    }
    /// Ends a pause.
    pub fn resume(&self, points: u32) {
        self.points.store(points, SeqCst);
    }
    /// Does this one fail?
    pub fn fails(&self, p: Point) -> bool {
        self.chances[(p as u32).trailing_zeros() as usize].fetch_add(1, SeqCst);
        if self.points.load(SeqCst) & p as u32 == 0 {
            return false;
        }
        let lasting = self.lasting.load(SeqCst);
        let fails = self
            .left
            .fetch_update(SeqCst, SeqCst, |n| match n {
                0 => None,
                1 if lasting => Some(1),
                n => Some(n - 1),
            })
            .is_ok_and(|n| n == 1);
        if fails {
            self.fired.fetch_add(1, SeqCst);
        }
        fails
    }
}

impl Gate for Injector {
    fn admit(&self) -> bool {
        !self.fails(Point::Object)
    }
}

/// An injector as those see it who ask for one thing.
#[derive(Debug)]
pub(crate) struct GateAt(pub(crate) &'static Injector, pub(crate) Point);

impl Gate for GateAt {
    fn admit(&self) -> bool {
        !self.0.fails(self.1)
    }
}

//! Where mappings go when the program does not say.
//!
//! Far below Linux's own area, where the VM's memory is: the two never meet.

use machvm::map::{Order, Place, Search};
use machvm_hal::{PAGE_SIZE, Va};

use super::args::{Geometry, MAP_32BIT, Where};
use super::{Calls, va};

/// The area of mappings; the lower end is not used up before the addresses of the
/// heap are.
const AREA: (u64, u64) = (0x0100_0000_0000, 0x5000_0000_0000);
/// The area of MAP_32BIT.
const LOW_AREA: (u64, u64) = (0x4000_0000, 0x8000_0000);
/// The area's top is lowered at random by less than this: 28 bits of pages, as Linux.
const SLIDE: u64 = 1 << 40;

impl Calls<'_> {
    fn slide(&mut self) -> u64 {
        *self.s.slide.get_or_insert_with(|| {
            let mut random = [0; 8];
            // SAFETY: the buffer has the length. A failure leaves no slide.
            unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
            u64::from_ne_bytes(random) % SLIDE / PAGE_SIZE * PAGE_SIZE
        })
    }

    /// Anywhere: high addresses first, low ones for MAP_32BIT. `unit`: alignment in
    /// bytes.
    pub(super) fn anywhere(&mut self, flags: u32, unit: u64) -> Search {
        let align = unit / PAGE_SIZE;
        if flags & MAP_32BIT != 0 {
            return Search { min: va(LOW_AREA.0), max: va(LOW_AREA.1), align, order: Order::LowestFirst };
        }
        let max = va(AREA.1 - self.slide());
        Search { min: va(AREA.0), max, align, order: Order::HighestFirst }
    }

    /// The places to try, one after the other.
    pub(super) fn places(&mut self, g: &Geometry, flags: u32, unit: u64) -> Vec<Place> {
        let at = Va::from_page(g.addr / PAGE_SIZE);
        match g.place {
            Where::Fixed => vec![Place::Over(at)],
            Where::NoReplace => vec![Place::At(at)],
            Where::Any => vec![Place::Any(self.anywhere(flags, unit))],
            Where::Hint if flags & MAP_32BIT != 0 && g.addr + g.len > LOW_AREA.1 => {
                vec![Place::Any(self.anywhere(flags, unit))]
            }
            Where::Hint => vec![Place::At(at), Place::Any(self.anywhere(flags, unit))],
        }
    }
}

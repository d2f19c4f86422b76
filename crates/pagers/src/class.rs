//! Sizes of blocks.
//!
//! All sizes are multiples of [`UNIT`], so a block's header never crosses the end of
//! a frame. Steps grow with the size: rounding up costs about one part in a hundred.

/// Every block begins and ends at a multiple of this many bytes.
pub(crate) const UNIT: usize = 16;
/// Size of the largest class: a header and an incompressible page.
pub(crate) const LARGEST: usize = crate::chain::HEADER + machvm_hal::PAGE_SIZE as usize;
/// Number of classes.
pub(crate) const CLASSES: usize = 64 + 32 + 32 + 1;

/// The smallest class whose blocks have room for `bytes`, header included. What is
/// larger than [`LARGEST`] has none.
pub(crate) fn class_of(bytes: usize) -> Option<u16> {
    let class = match bytes {
        0..=1024 => bytes.div_ceil(16).max(1) - 1,
        1025..=2048 => 64 + (bytes - 1024).div_ceil(32) - 1,
        2049..=4096 => 96 + (bytes - 2048).div_ceil(64) - 1,
        4097..=LARGEST => 128,
        _ => return None,
    };
    Some(class as u16)
}

/// Bytes in a block of `class`.
pub(crate) fn size_of(class: u16) -> usize {
    let c = usize::from(class);
    match c {
        0..64 => (c + 1) * 16,
        64..96 => 1024 + (c - 63) * 32,
        96..128 => 2048 + (c - 95) * 64,
        _ => LARGEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_fits() {
        for bytes in 1..=LARGEST {
            let c = class_of(bytes).expect("in range");
            assert!(usize::from(c) < CLASSES);
            assert!(size_of(c) >= bytes && size_of(c).is_multiple_of(UNIT));
            assert!(c == 0 || size_of(c - 1) < bytes, "{bytes} bytes fit class {} too", c - 1);
        }
        assert_eq!(class_of(LARGEST + 1), None);
        assert_eq!(size_of(CLASSES as u16 - 1), LARGEST);
    }
}

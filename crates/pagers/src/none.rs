//! `--swap none`.

use machvm_hal::{PAGE_SIZE, Swap, SwapError, SwapSlot};

/// Swap without room for a single page: only pages that a file still has can be
/// evicted.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSwap;

impl Swap for NoSwap {
    fn put(&self, _: &[u8; PAGE_SIZE as usize]) -> Result<SwapSlot, SwapError> {
        Err(SwapError::Full)
    }
    fn get(&self, _: SwapSlot, _: &mut [u8; PAGE_SIZE as usize]) -> Result<(), SwapError> {
        Err(SwapError::Lost)
    }
    fn free(&self, _: SwapSlot) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_everything() {
        let mut page = [7; PAGE_SIZE as usize];
        assert_eq!(NoSwap.put(&page), Err(SwapError::Full));
        let slot = SwapSlot(core::num::NonZeroU64::MIN);
        assert_eq!(NoSwap.get(slot, &mut page), Err(SwapError::Lost));
        NoSwap.free(slot);
    }
}

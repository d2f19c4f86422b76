//! The pager of what has ended (G17).

use machvm_hal::{ControlId, HasPage, PAGE_SIZE, PageIn, PageOut, Pager, PagerError};

/// Refuses everything: for objects whose data is gone, but that somebody still maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeadPager;

impl Pager for DeadPager {
    fn page_in(&self, req: PageIn<'_>) {
        req.failed(0, PagerError::Gone);
    }
    fn page_out(&self, _: u64, _: &[u8; PAGE_SIZE as usize]) -> Result<(), PagerError> {
        Err(PagerError::Gone)
    }
    fn page_out_run(&self, run: &mut PageOut<'_>) {
        (0..run.pages()).for_each(|i| run.done(i, Err(PagerError::Gone)));
    }
    fn has_page(&self, _: u64) -> HasPage {
        HasPage::No
    }
    fn synchronize(&self, _: ControlId, _: u64, _: u64) -> Result<(), PagerError> {
        Err(PagerError::Gone)
    }
}

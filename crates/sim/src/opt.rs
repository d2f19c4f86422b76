//! Belady's optimum (1966): the page that goes is the one whose next use is furthest away. No
//! replacement that brings pages in when they are needed has fewer misses.

use std::collections::BinaryHeap;

use crate::memory::Outcome;
use crate::stream::Use;

/// Never, or not before its contents end.
const NEVER: u32 = u32::MAX;

/// When the page of each use is used next: the same for every size.
#[must_use]
pub(crate) fn next_uses(uses: &[Use], pages: u32) -> Vec<u32> {
    let mut at = vec![NEVER; pages as usize];
    let mut next = vec![NEVER; uses.len()];
    for (i, one) in uses.iter().enumerate().rev() {
        let page = &mut at[one.page() as usize];
        next[i] = std::mem::replace(page, if one.is_gone() { NEVER } else { i as u32 });
    }
    next
}

/// What the optimum does in so many pages.
#[must_use]
pub fn optimum(uses: &[Use], pages: u32, frames: u64) -> Outcome {
    optimum_of(uses, &next_uses(uses, pages), pages, frames)
}

pub(crate) fn optimum_of(uses: &[Use], next: &[u32], pages: u32, frames: u64) -> Outcome {
    // When a page in memory is used next; absent ones have none.
    let mut when: Vec<Option<u32>> = vec![None; pages as usize];
    // Entries whose time is not that of the page are of the past.
    let mut order: BinaryHeap<(u32, u32)> = BinaryHeap::new();
    let (mut resident, mut count) = (0, Outcome::default());
    for (one, next) in uses.iter().zip(next) {
        let page = one.page();
        let was = when[page as usize];
        if one.is_gone() {
            resident -= u64::from(was.is_some());
            when[page as usize] = None;
            continue;
        }
        if was.is_none() {
            count.misses += 1;
            count.page_ins += u64::from(one.is_stored());
            resident += 1;
            while resident > frames.max(1) {
                let Some((time, victim)) = order.pop() else { break };
                if when[victim as usize] == Some(time) {
                    when[victim as usize] = None;
                    resident -= 1;
                }
            }
        }
        when[page as usize] = Some(*next);
        order.push((*next, page));
        if order.len() > 64 + 4 * resident as usize {
            order.retain(|(time, p)| when[*p as usize] == Some(*time));
        }
    }
    count
}

//! Free blocks (S10): a bitmap under a radix tree of hints.
//!
//! ```text
//!   hints[2]   one for 64 of hints[1]
//!   hints[1]   one for 64 words
//!   hints[0]   one a word: the longest run of free blocks in it
//!   words      64 blocks each; a bit is set while the block is free
//! ```
//!
//! A hint is an upper bound of the longest run below it. It is raised when blocks are
//! freed and lowered only when a search came back empty-handed, so freeing is a walk to
//! the root and a failed search is paid for once. Runs do not cross words: no more than
//! 64 blocks are allocated together, and a word is 256 KiB of the device.

/// Blocks in a word, and the largest allocation.
pub(crate) const RADIX: usize = 64;

/// See the module text.
#[derive(Debug)]
pub(crate) struct Blist {
    words: Vec<u64>,
    hints: Vec<Vec<u8>>,
    blocks: u64,
    #[cfg(test)]
    free: u64,
    /// The word where the last allocation was: the next one is beside it.
    hand: usize,
}

/// The longest run of ones.
fn longest(word: u64) -> u8 {
    let (mut w, mut n) = (word, 0);
    while w != 0 {
        w &= w << 1;
        n += 1;
    }
    n
}

/// The lowest bit at which `n` ones begin.
fn find(word: u64, n: usize) -> Option<u32> {
    let mut w = word;
    // After each step a bit says that so many ones begin there.
    let mut have = 1;
    while have < n {
        let step = have.min(n - have);
        w &= w >> step;
        have += step;
    }
    (w != 0).then(|| w.trailing_zeros())
}

fn mask(n: usize) -> u64 {
    if n >= RADIX { u64::MAX } else { (1 << n) - 1 }
}

impl Blist {
    /// `blocks` blocks, all free.
    pub(crate) fn new(blocks: u64) -> Self {
        let count = blocks.div_ceil(RADIX as u64) as usize;
        let mut words = vec![u64::MAX; count];
        if let Some(last) = words.last_mut() {
            *last = mask((blocks - (count as u64 - 1) * RADIX as u64) as usize);
        }
        let mut hints = vec![words.iter().map(|w| longest(*w)).collect::<Vec<u8>>()];
        while let Some(below) = hints.last().filter(|l| l.len() > 1) {
            hints.push(below.chunks(RADIX).map(|c| c.iter().copied().max().unwrap_or(0)).collect());
        }
        Blist {
            words,
            hints,
            blocks,
            #[cfg(test)]
            free: blocks,
            hand: 0,
        }
    }

    /// Free blocks.
    #[cfg(test)]
    pub(crate) fn available(&self) -> u64 {
        self.free
    }
    /// All blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// `n` blocks next to each other, near the last ones; `None`: there are none.
    pub(crate) fn alloc(&mut self, n: usize) -> Option<u64> {
        if n == 0 || n > RADIX || self.words.is_empty() {
            return None;
        }
        let word = self.search(self.hand, n).or_else(|| self.search(0, n))?;
        let bit = find(self.words[word], n)?;
        self.words[word] &= !(mask(n) << bit);
        #[cfg(test)]
        {
            self.free -= n as u64;
        }
        self.hand = word;
        Some((word * RADIX) as u64 + u64::from(bit))
    }

    /// The first word at or after `from` with a run of `n`; corrects hints on its way.
    fn search(&mut self, from: usize, n: usize) -> Option<usize> {
        let mut at = from;
        while at < self.words.len() {
            // The highest subtree that begins here and has nothing is passed over whole.
            let mut level = 0;
            while level + 1 < self.hints.len() && at.is_multiple_of(RADIX.pow(level as u32 + 1)) {
                level += 1;
            }
            let skip = (0..=level).rev().find(|l| {
                let span = RADIX.pow(*l as u32);
                at.is_multiple_of(span) && usize::from(self.hints[*l][at / span]) < n
            });
            if let Some(l) = skip {
                at += RADIX.pow(l as u32);
                continue;
            }
            let run = longest(self.words[at]);
            if usize::from(run) >= n {
                return Some(at);
            }
            self.lower(at, run);
            at += 1;
        }
        None
    }

    /// The word's longest run is known to be no more than this.
    fn lower(&mut self, word: usize, run: u8) {
        self.hints[0][word] = run;
        let mut at = word;
        for level in 1..self.hints.len() {
            at /= RADIX;
            let below = &self.hints[level - 1];
            let end = below.len().min((at + 1) * RADIX);
            let most = below[at * RADIX..end].iter().copied().max().unwrap_or(0);
            if self.hints[level][at] == most {
                break;
            }
            self.hints[level][at] = most;
        }
    }

    /// Frees a block. `false`: it was free, or there is none of that number.
    #[must_use]
    pub(crate) fn free(&mut self, block: u64) -> bool {
        let (word, bit) = (block as usize / RADIX, 1 << (block % RADIX as u64));
        if block >= self.blocks || self.words[word] & bit != 0 {
            return false;
        }
        self.words[word] |= bit;
        #[cfg(test)]
        {
            self.free += 1;
        }
        let run = longest(self.words[word]);
        let mut at = word;
        for hints in &mut self.hints {
            if hints[at] >= run {
                break;
            }
            hints[at] = run;
            at /= RADIX;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn s10_all_blocks_and_no_more() {
        for blocks in [0u64, 1, 63, 64, 65, 1000, 300_000] {
            let mut b = Blist::new(blocks);
            let mut seen = std::collections::HashSet::new();
            while let Some(block) = b.alloc(1) {
                assert!(block < blocks && seen.insert(block));
            }
            assert_eq!((seen.len() as u64, b.available()), (blocks, 0));
            assert!(seen.iter().all(|block| b.free(*block)));
            assert_eq!(b.available(), blocks);
            assert!(!b.free(0) && !b.free(blocks), "free already, or not there");
            let whole = blocks >= 64;
            assert_eq!(b.alloc(64).is_some(), whole);
        }
    }

    proptest! {
        #[test]
        fn s10_like_a_list_of_booleans(
            blocks in 1usize..9000,
            ops in prop::collection::vec((0usize..34, any::<prop::sample::Index>()), 1..400),
        ) {
            let mut b = Blist::new(blocks as u64);
            let mut taken = vec![false; blocks];
            for (n, which) in ops {
                if n == 0 {
                    let block = which.index(blocks);
                    prop_assert_eq!(b.free(block as u64), std::mem::replace(&mut taken[block], false));
                } else if let Some(first) = b.alloc(n) {
                    for t in &mut taken[first as usize..first as usize + n] {
                        prop_assert!(!std::mem::replace(t, true));
                    }
                } else {
                    // Nothing was there within a word.
                    let none = taken.chunks(RADIX).all(|w| !w.windows(n).any(|r| r.iter().all(|t| !t)));
                    prop_assert!(none, "{} blocks are free", n);
                }
                prop_assert_eq!(b.available(), taken.iter().filter(|t| !**t).count() as u64);
            }
        }
    }
}

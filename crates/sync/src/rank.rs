//! The lock order.

/// The lock order: take only higher. The table in `LOCKING.md` is checked against
/// this by a test.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// A map. Sleeps. Two maps: only by try, or parent before child.
    Map = 10,
    /// An object. Sleeps.
    Object = 20,
    /// Table of pager requests.
    PagerTable = 30,
    /// What a pmap has to flush at its next `pmap_update`.
    Deferred = 35,
    /// A pmap or a part of one.
    Pmap = 40,
    /// A leaf page table.
    Table = 45,
    /// The mappings of a page.
    Pv = 50,
    /// Pages that a CPU gathers for the page queues.
    Arrivals = 58,
    /// A page queue.
    PageQueue = 60,
    /// A slab of an arena.
    Slab = 65,
    /// Free frames.
    Free = 70,
    /// Address-space numbers.
    Shootdown = 80,
    /// Leaves of the embedder's own (waiting queues); nothing below.
    Leaf = 90,
}

impl Rank {
    /// Every rank, ascending.
    pub const ALL: [Rank; 13] = [
        Rank::Map,
        Rank::Object,
        Rank::PagerTable,
        Rank::Deferred,
        Rank::Pmap,
        Rank::Table,
        Rank::Pv,
        Rank::Arrivals,
        Rank::PageQueue,
        Rank::Slab,
        Rank::Free,
        Rank::Shootdown,
        Rank::Leaf,
    ];

    /// Does a thread that waits for this lock sleep?
    pub const fn sleeps(self) -> bool {
        matches!(self, Rank::Map | Rank::Object)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Rank;
    use std::string::String;
    use std::vec::Vec;

    /// The rows of the first table: number, name in backquotes, kind.
    fn table() -> Vec<(u8, String, bool)> {
        let text = include_str!("../../../LOCKING.md");
        let mut rows = Vec::new();
        for line in text.lines().skip_while(|l| !l.starts_with("| rank |")).take_while(|l| l.starts_with('|'))
        {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            // The head, the rule under it, and rows without a rank (busy) have no number.
            if let Ok(rank) = cells[0].parse() {
                let kind = cells[3];
                assert!(kind.starts_with("sleep") != kind.starts_with("spin"), "kind of {line}");
                rows.push((rank, cells[1].trim_matches('`').into(), kind.starts_with("sleep")));
            }
        }
        rows
    }

    #[test]
    fn locking_md_has_this_order() {
        let code: Vec<_> = Rank::ALL.iter().map(|r| (*r as u8, std::format!("{r:?}"), r.sleeps())).collect();
        assert_eq!(table(), code, "LOCKING.md (left) against Rank (right)");
    }

    #[test]
    fn all_is_all_and_ascends() {
        assert!(Rank::ALL.windows(2).all(|w| w[0] < w[1]));
        // A rank that is added without extending ALL fails to compile here, and the
        // count below says where to.
        let place = |r: Rank| match r {
            Rank::Map => 0,
            Rank::Object => 1,
            Rank::PagerTable => 2,
            Rank::Deferred => 3,
            Rank::Pmap => 4,
            Rank::Table => 5,
            Rank::Pv => 6,
            Rank::Arrivals => 7,
            Rank::PageQueue => 8,
            Rank::Slab => 9,
            Rank::Free => 10,
            Rank::Shootdown => 11,
            Rank::Leaf => 12,
        };
        assert!(Rank::ALL.iter().enumerate().all(|(i, r)| place(*r) == i));
    }
}

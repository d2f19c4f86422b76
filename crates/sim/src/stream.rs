//! A trace made ready to be replayed: pages numbered from zero, each contents' life once.

use std::collections::HashMap;

use machvm_trace::Event;

/// A use within so many events of a page's coming is the one that it came for: a fault's
/// cluster is sixteen pages, each told twice.
const SAME_FAULT: usize = 64;

/// See the module text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stream {
    /// What happened, as in the trace.
    pub events: Vec<Event>,
    /// Pages there are, counted anew when their contents are.
    pub pages: u32,
    /// Most pages with contents at one time.
    pub footprint: u32,
    /// References and ends of pages, for replacement that needs no more.
    pub uses: Vec<Use>,
    /// How many of them are references.
    pub references: u64,
}

/// A reference to a page, or its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Use(u32);

impl Use {
    /// A reference; `stored`: if the page is not in memory, it must be read from backing store.
    #[must_use]
    pub const fn touch(page: u32, stored: bool) -> Use {
        Use(page << 2 | (stored as u32) << 1)
    }
    /// The page's contents are no more.
    #[must_use]
    pub const fn gone(page: u32) -> Use {
        Use(page << 2 | 1)
    }
    /// Which page.
    #[must_use]
    pub const fn page(self) -> u32 {
        self.0 >> 2
    }
    /// Is it the page's end?
    #[must_use]
    pub const fn is_gone(self) -> bool {
        self.0 & 1 != 0
    }
    /// Would a miss be a page-in?
    #[must_use]
    pub const fn is_stored(self) -> bool {
        self.0 & 2 != 0
    }
}

/// What is known of contents on the way through the trace.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// They are, or would be when evicted, on backing store.
    stored: bool,
    /// The event with which they came last, plus one, until they are used.
    came: usize,
}

#[derive(Default)]
struct Builder {
    out: Stream,
    /// Numbers in the trace to ours.
    names: HashMap<u32, u32>,
    seen: Vec<Seen>,
}

impl Stream {
    /// Of a trace's events.
    #[must_use]
    pub fn new(events: &[Event]) -> Stream {
        let mut b = Builder::default();
        b.out.events.reserve(events.len());
        events.iter().for_each(|e| b.event(*e));
        b.out
    }
}

impl Builder {
    fn event(&mut self, event: Event) {
        let at = self.out.events.len();
        let event = match event {
            Event::In { page, stored } => {
                let page = self.number(page, stored);
                self.touch(page);
                self.seen[page as usize].came = at + 1;
                Event::In { page, stored }
            }
            Event::Used { page, write } => {
                let page = self.number(page, false);
                let came = std::mem::take(&mut self.seen[page as usize].came);
                if came == 0 || at + 1 - came > SAME_FAULT {
                    self.touch(page);
                }
                self.seen[page as usize].stored |= write;
                Event::Used { page, write }
            }
            Event::Along { page, write } => {
                let Some(&page) = self.names.get(&page) else { return };
                self.seen[page as usize].stored |= write;
                Event::Along { page, write }
            }
            Event::Gone { page } => {
                let Some(page) = self.names.remove(&page) else { return };
                self.out.uses.push(Use::gone(page));
                Event::Gone { page }
            }
            other => other,
        };
        self.out.events.push(event);
    }

    fn number(&mut self, name: u32, stored: bool) -> u32 {
        let next = self.out.pages;
        let page = *self.names.entry(name).or_insert(next);
        if page == next {
            self.out.pages += 1;
            self.seen.push(Seen { stored, came: 0 });
            self.out.footprint = self.out.footprint.max(self.names.len() as u32);
        }
        page
    }

    fn touch(&mut self, page: u32) {
        self.out.uses.push(Use::touch(page, self.seen[page as usize].stored));
        self.out.references += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_reference_and_a_number_that_is_given_again_another_page() {
        let (a, b) = (7, 900);
        let stream = Stream::new(&[
            Event::In { page: a, stored: false },
            Event::In { page: b, stored: true },
            Event::Used { page: a, write: true },
            Event::Along { page: b, write: false },
            Event::Used { page: a, write: true },
            Event::Gone { page: a },
            Event::Gone { page: 3 },
            Event::Used { page: a, write: false },
        ]);
        let uses = [
            Use::touch(0, false),
            Use::touch(1, true),
            Use::touch(0, true),
            Use::gone(0),
            Use::touch(2, false),
        ];
        assert_eq!(stream.uses, uses);
        assert_eq!((stream.pages, stream.footprint, stream.references), (3, 2, 4));
        assert_eq!(stream.events.len(), 7);
        assert!(uses[3].is_gone() && uses[4].page() == 2 && uses[2].is_stored());
    }
}

//! Events, and how they are written: one to three bytes each.

/// Something that happened. Pages are named by numbers that are given again only after
/// [`Event::Gone`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A page's contents came into memory.
    In {
        /// Which.
        page: u32,
        /// From backing store (a page-in); else they are new, or zero.
        stored: bool,
    },
    /// The program used the page: the fault mapped it.
    Used {
        /// Which.
        page: u32,
        /// It can be written from now on.
        write: bool,
    },
    /// The page was mapped along with the one that was used.
    Along {
        /// Which.
        page: u32,
        /// It can be written from now on.
        write: bool,
    },
    /// The page's contents are no more: unmapped, cut off, or the program's end.
    Gone {
        /// Which.
        page: u32,
    },
    /// Page-out freed so many pages.
    Freed {
        /// How many.
        pages: u32,
    },
    /// Page-out wrote so many pages ahead of their turn.
    Ahead {
        /// How many.
        pages: u32,
    },
    /// What follows happened so many milliseconds after the beginning, or later.
    Time {
        /// Milliseconds.
        ms: u32,
    },
}

/// A block of events cannot be read: it is not what [`Encoder`] wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadBlock;

/// Bytes of an event, at most.
pub const LONGEST: usize = 7;

/// Writes events. A block begins with a new encoder, so that it can be read without those
/// before.
///
/// A number of 7 bits a byte, the lowest first, the highest bit set when others follow. Its
/// lowest three bits say what: 0 new, 1 stored, 2 used, 3 used and writable, 4 along, 5
/// along and writable, 6 gone, each with the page in the bits above, as the difference from
/// the last page of the block (bit 0 its sign, the others its amount, less one if negative);
/// 7 another, with the next two bits 0 freed, 1 ahead (and how many in those above), 2 time (and
/// the milliseconds since the last time of the block).
#[derive(Clone, Copy, Default, Debug)]
pub struct Encoder {
    page: u32,
    ms: u32,
}

impl Encoder {
    /// Writes an event at the beginning of `out`; gives its length.
    pub fn put(&mut self, event: Event, out: &mut [u8; LONGEST]) -> usize {
        let mut paged = |code: u64, page: u32| {
            let by = i64::from(page) - i64::from(self.page);
            self.page = page;
            let folded = ((by << 1) ^ (by >> 63)) as u64;
            folded << 3 | code
        };
        let value = match event {
            Event::In { page, stored } => paged(u64::from(stored), page),
            Event::Used { page, write } => paged(2 + u64::from(write), page),
            Event::Along { page, write } => paged(4 + u64::from(write), page),
            Event::Gone { page } => paged(6, page),
            Event::Freed { pages } => u64::from(pages) << 5 | 7,
            Event::Ahead { pages } => u64::from(pages) << 5 | 1 << 3 | 7,
            Event::Time { ms } => {
                // Clocks of two CPUs may differ: time stands still then.
                let ms = ms.max(self.ms);
                let by = ms - core::mem::replace(&mut self.ms, ms);
                u64::from(by) << 5 | 2 << 3 | 7
            }
        };
        varint(value, out)
    }
}

fn varint(mut value: u64, out: &mut [u8; LONGEST]) -> usize {
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return i + 1;
        }
        *byte |= 0x80;
    }
    LONGEST // values have 37 bits at most
}

/// Reads a block; `f` gets each event.
///
/// # Errors
/// [`BadBlock`]; `f` had those before.
pub fn decode(mut block: &[u8], f: &mut dyn FnMut(Event)) -> Result<(), BadBlock> {
    let (mut last, mut now) = (0u32, 0u32);
    while !block.is_empty() {
        let value = take(&mut block)?;
        let narrow = |n: u64| u32::try_from(n).map_err(|_| BadBlock);
        let mut page = || {
            let folded = value >> 3;
            let by = (folded >> 1) as i64 ^ -((folded & 1) as i64);
            last = u32::try_from(i64::from(last) + by).map_err(|_| BadBlock)?;
            Ok(last)
        };
        f(match value & 7 {
            code @ 0..=1 => Event::In { page: page()?, stored: code == 1 },
            code @ 2..=3 => Event::Used { page: page()?, write: code == 3 },
            code @ 4..=5 => Event::Along { page: page()?, write: code == 5 },
            6 => Event::Gone { page: page()? },
            _ => match value >> 3 & 3 {
                0 => Event::Freed { pages: narrow(value >> 5)? },
                1 => Event::Ahead { pages: narrow(value >> 5)? },
                2 => {
                    now = now.checked_add(narrow(value >> 5)?).ok_or(BadBlock)?;
                    Event::Time { ms: now }
                }
                _ => return Err(BadBlock),
            },
        });
    }
    Ok(())
}

fn take(block: &mut &[u8]) -> Result<u64, BadBlock> {
    let mut value = 0;
    for i in 0..LONGEST.min(block.len()) {
        value |= u64::from(block[i] & 0x7f) << (7 * i);
        if block[i] & 0x80 == 0 {
            *block = &block[i + 1..];
            return Ok(value);
        }
    }
    Err(BadBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = Event> {
        let page = prop_oneof![any::<u32>(), 0..100u32];
        let (a, b, c, d) = (page.clone(), page.clone(), page.clone(), page);
        prop_oneof![
            (a, any::<bool>()).prop_map(|(page, stored)| Event::In { page, stored }),
            (b, any::<bool>()).prop_map(|(page, write)| Event::Used { page, write }),
            (c, any::<bool>()).prop_map(|(page, write)| Event::Along { page, write }),
            d.prop_map(|page| Event::Gone { page }),
            any::<u32>().prop_map(|pages| Event::Freed { pages }),
            any::<u32>().prop_map(|pages| Event::Ahead { pages }),
            any::<u32>().prop_map(|ms| Event::Time { ms }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in prop::collection::vec(event(), 0..200)) {
            let (mut encoder, mut block, mut now) = (Encoder::default(), Vec::new(), 0);
            let mut wanted = Vec::new();
            for event in events {
                let mut bytes = [0; LONGEST];
                let n = encoder.put(event, &mut bytes);
                block.extend_from_slice(&bytes[..n]);
                wanted.push(match event {
                    Event::Time { ms } => {
                        now = now.max(ms);
                        Event::Time { ms: now }
                    }
                    other => other,
                });
            }
            let mut got = Vec::new();
            prop_assert_eq!(decode(&block, &mut |e| got.push(e)), Ok(()));
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn any_bytes_are_read_or_refused(block in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&block, &mut |_| {});
        }
    }
}

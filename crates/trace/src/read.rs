//! Reading a trace.

use std::fmt;
use std::io::Read;
use std::path::Path;

use crate::event::{Event, decode};
use crate::frame::{HEAD, Kind, MAGIC, MOST, Packing, VERSION, checksum};
use crate::text::{Header, Summary};

/// A trace, in memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// What was recorded.
    pub header: Header,
    /// What the run counted; `None`: it was killed.
    pub summary: Option<Summary>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// The file ends in the middle of something.
    pub cut: Option<Cut>,
}

/// Where a file was cut off; what is before is good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Bytes that were read.
    pub good: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why a file cannot be read as a trace.
#[derive(Debug)]
pub enum ReadError {
    /// The file cannot be read.
    Io(std::io::Error),
    /// It is something else.
    Foreign,
    /// It is of another version.
    Version(u32),
    /// It ends before anything happened.
    Empty,
    /// It was changed: the frame at that byte is not what was written.
    Damaged(u64),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(e) => write!(f, "cannot be read: {e}"),
            ReadError::Foreign => f.write_str("is not a trace (record one with machvm run --trace FILE)"),
            ReadError::Version(v) => {
                write!(f, "is a trace of version {v}, and this program reads version {VERSION}")
            }
            ReadError::Empty => f.write_str("is a trace that ends before its header"),
            ReadError::Damaged(at) => write!(f, "is damaged: the frame at byte {at} is not what was written"),
        }
    }
}

impl std::error::Error for ReadError {}

/// Reads a trace from a file.
///
/// # Errors
/// [`ReadError`]. A file that was cut off is none: see [`Trace::cut`].
pub fn read(path: &Path) -> Result<Trace, ReadError> {
    let mut file = std::fs::File::open(path).map_err(ReadError::Io)?;
    // What is not a trace is not read to its end: it may have none.
    let mut bytes = Vec::new();
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes == MAGIC {
        file.read_to_end(&mut bytes).map_err(ReadError::Io)?;
    }
    parse(&bytes)
}

/// Reads a trace.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8]) -> Result<Trace, ReadError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(ReadError::Foreign)?;
    let version = rest.first_chunk().ok_or(ReadError::Empty)?;
    match u32::from_le_bytes(*version) {
        VERSION => {}
        other => return Err(ReadError::Version(other)),
    }
    let (mut trace, mut last, mut at) = (Trace::default(), None, MAGIC.len() + 4);
    while at < bytes.len() {
        let Some((frame, len)) = next(&bytes[at..], at as u64)? else {
            trace.cut = Some(Cut { good: at as u64, bytes: bytes.len() as u64 });
            break;
        };
        // One that was written twice, at the death of a run, is the same.
        if last.is_none_or(|last| frame.sequence > last) {
            if last.is_none() && frame.kind != Some(Kind::Header) {
                return Err(ReadError::Damaged(at as u64));
            }
            last = Some(frame.sequence);
            frame.take(&mut trace).ok_or(ReadError::Damaged(at as u64))?;
        }
        at += len;
    }
    if last.is_none() { Err(ReadError::Empty) } else { Ok(trace) }
}

struct Frame<'a> {
    kind: Option<Kind>,
    packing: Option<Packing>,
    sequence: u32,
    raw: usize,
    data: &'a [u8],
}

/// The next frame and its length; `None`: it is cut off.
fn next(bytes: &[u8], at: u64) -> Result<Option<(Frame<'_>, usize)>, ReadError> {
    let Some(head) = bytes.get(..HEAD) else { return Ok(None) };
    let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|b| head[4 * i + b]));
    let (sequence, raw, len, sum) = (word(1), word(2), word(3), word(4));
    if raw > MOST || len > MOST {
        return Err(ReadError::Damaged(at));
    }
    let end = HEAD + len as usize;
    let Some(data) = bytes.get(HEAD..end) else { return Ok(None) };
    if checksum(head, data) != sum {
        return Err(ReadError::Damaged(at));
    }
    let packing = [Packing::Stored, Packing::Zstd].into_iter().find(|p| *p as u8 == head[1]);
    Ok(Some((Frame { kind: Kind::of(head[0]), packing, sequence, raw: raw as usize, data }, end)))
}

impl Frame<'_> {
    fn take(&self, trace: &mut Trace) -> Option<()> {
        let Some(kind) = self.kind else { return Some(()) };
        let unpacked = match self.packing? {
            Packing::Stored => self.data.to_vec(),
            Packing::Zstd => zstd::bulk::decompress(self.data, self.raw).ok()?,
        };
        if unpacked.len() != self.raw {
            return None;
        }
        match kind {
            Kind::Header => trace.header = Header::of_text(str::from_utf8(&unpacked).ok()?)?,
            Kind::Summary => trace.summary = Some(Summary::of_text(str::from_utf8(&unpacked).ok()?)?),
            Kind::Events => decode(&unpacked, &mut |e| trace.events.push(e)).ok()?,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Encoder, LONGEST};
    use crate::frame::{pack, preamble, stored};

    fn block(events: &[Event]) -> Vec<u8> {
        let (mut encoder, mut all) = (Encoder::default(), Vec::new());
        for event in events {
            let mut bytes = [0; LONGEST];
            let n = encoder.put(*event, &mut bytes);
            all.extend_from_slice(&bytes[..n]);
        }
        all
    }

    fn sample() -> (Trace, Vec<u8>, Vec<usize>) {
        let events: Vec<Event> = (0..500)
            .flat_map(|n| {
                [Event::In { page: n % 70, stored: n > 70 }, Event::Used { page: n % 70, write: n % 3 == 0 }]
            })
            .collect();
        let header = Header {
            page_size: 4096,
            frames: 64,
            sample: 1500,
            words: vec![("program".into(), "sort".into()), ("policy".into(), "clock".into())],
        };
        let summary = Summary { page_ins: 429, ms: 77, ..Summary::default() };
        let mut bytes = preamble().to_vec();
        let mut ends = vec![bytes.len()];
        let mut put = |frame: Vec<u8>| {
            bytes.extend_from_slice(&frame);
            ends.push(bytes.len());
        };
        put(pack(Kind::Header, 0, header.to_text().as_bytes()).unwrap());
        put(pack(Kind::Events, 1, &block(&events[..600])).unwrap());
        put(stored(Kind::Events, 2, &block(&events[600..])));
        put(pack(Kind::Summary, 3, summary.to_text().as_bytes()).unwrap());
        (Trace { header, summary: Some(summary), events, cut: None }, bytes, ends)
    }

    #[test]
    fn a_trace_is_read_as_it_was_written() {
        let (trace, bytes, ends) = sample();
        assert_eq!(parse(&bytes).unwrap(), trace);
        assert_eq!(trace.header.word("program"), "sort");
        // A block that was written again by whoever found the run dead.
        let mut twice = bytes[..ends[3]].to_vec();
        twice.extend_from_slice(&bytes[ends[2]..]);
        assert_eq!(parse(&twice).unwrap(), trace);
    }

    #[test]
    fn a_trace_that_is_cut_off_gives_what_is_whole() {
        let (trace, bytes, ends) = sample();
        for len in 0..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= len).count();
            match parse(&bytes[..len]) {
                Err(ReadError::Foreign) => assert!(len < MAGIC.len()),
                Err(ReadError::Empty) => assert!((MAGIC.len()..ends[1]).contains(&len)),
                Err(e) => panic!("{len} bytes: {e}"),
                Ok(part) => {
                    let events = [0, 0, 0, 600, trace.events.len(), 0][whole];
                    assert_eq!(part.events, trace.events[..events]);
                    assert_eq!(part.summary, None);
                    assert_eq!(part.cut.is_some(), !ends.contains(&len));
                }
            }
        }
    }

    #[test]
    fn a_changed_byte_is_found() {
        let (_, bytes, _) = sample();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            match parse(&bad) {
                Err(ReadError::Foreign) => assert!(at < 8),
                Err(ReadError::Version(_)) => assert!((8..12).contains(&at)),
                Err(ReadError::Damaged(_) | ReadError::Empty) => assert!(at >= 12),
                Err(e) => panic!("byte {at}: {e}"),
                // A length that reaches beyond the end looks as if it had been cut off.
                Ok(part) => assert!(part.cut.is_some(), "byte {at}"),
            }
        }
    }

    #[test]
    fn other_files_are_refused() {
        for other in [&b""[..], b"\x7fELF", b"machvm: out of memory", &[0; 100]] {
            assert!(matches!(parse(other), Err(ReadError::Foreign)));
        }
        assert!(matches!(parse(b"machvmtr\x09\0\0\0"), Err(ReadError::Version(9))));
        let says = parse(b"hello").unwrap_err().to_string();
        assert!(says.contains("machvm run --trace"), "{says}");
    }
}

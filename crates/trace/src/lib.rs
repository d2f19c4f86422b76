//! Traces: which pages a program used, as page faults told, and what page-out did meanwhile.
//!
//! ```text
//!   trace  = "machvmtr", version (u32), frame, ...
//!   frame  = kind, packing (u8, u8), 0 (u16), sequence, raw length, length, checksum (u32), data
//!   kind   = 'H': the header, lines KEY=VALUE; comes first
//!            'E': a block of events, see [`Encoder`]
//!            'S': the summary, lines KEY=VALUE; comes last, unless the run was killed
//! ```
//! Numbers are little-endian. A frame's checksum is the CRC-32 of its head before the
//! checksum and of its data as they are in the file. A frame whose sequence number is not
//! above that of the last was written twice and is passed over. A reader skips frames of kinds
//! and lines with keys that it does not know; what old readers would take for something
//! else needs a new version.
//!
//! This crate does not know where events come from (`machvm run --trace`), nor what is made of
//! them (`machvm-sim`).
#![forbid(unsafe_code)]

mod event;
mod frame;
mod read;
mod text;

pub use event::{BadBlock, Encoder, Event, LONGEST, decode};
pub use frame::{BLOCK, Kind, pack, preamble, stored};
pub use read::{Cut, ReadError, Trace, parse, read};
pub use text::{Header, Summary};

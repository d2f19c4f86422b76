//! The last things that happened, for the reader of a report.

use std::fmt;

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Write { cpu: u16, table: u32, index: u16, old: u64, new: u64 },
    Fill { cpu: u16, va: u64, pfn: u64, asid: u16 },
    FillTable { cpu: u16, va: u64, table: u32, level: u8 },
    Noted { cpu: u16, table: u32, index: u16, new: u64 },
    Instruction { cpu: u16, name: &'static str, operand: u64 },
    Load { cpu: u16, root: u64, asid: u16 },
    Access { cpu: u16, va: u64, what: &'static str, frame: Option<u64> },
    Ipi { from: u16, to: u64 },
    Taken { cpu: u16, by: u16 },
    Alloc { table: u32 },
    Free { table: u32 },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Event::Write { cpu, table, index, old, new } => {
                write!(f, "cpu {cpu} writes table {table:#x}[{index}]: {old:#x} -> {new:#x}")
            }
            Event::Fill { cpu, va, pfn, asid } => {
                write!(f, "cpu {cpu} caches {va:#x} -> frame {pfn:#x} under {asid}")
            }
            Event::FillTable { cpu, va, table, level } => {
                write!(f, "cpu {cpu} caches the level-{level} table {table:#x} of {va:#x}")
            }
            Event::Noted { cpu, table, index, new } => {
                write!(f, "cpu {cpu} notes use in table {table:#x}[{index}]: {new:#x}")
            }
            Event::Instruction { cpu, name, operand } => write!(f, "cpu {cpu}: {name} {operand:#x}"),
            Event::Load { cpu, root, asid } => write!(f, "cpu {cpu} loads root {root:#x} under {asid}"),
            Event::Access { cpu, va, what, frame: Some(p) } => {
                write!(f, "cpu {cpu}: {what} {va:#x} reaches frame {p:#x}")
            }
            Event::Access { cpu, va, what, frame: None } => write!(f, "cpu {cpu}: {what} {va:#x} faults"),
            Event::Ipi { from, to } => write!(f, "cpu {from} interrupts {to:#b}"),
            Event::Taken { cpu, by } => write!(f, "cpu {cpu} takes its interrupt (seen by {by})"),
            Event::Alloc { table } => write!(f, "frame {table:#x} becomes a table"),
            Event::Free { table } => write!(f, "table {table:#x} is freed"),
        }
    }
}

/// The last so many.
#[derive(Debug)]
pub(crate) struct Ring {
    events: Vec<(u64, Event)>,
    next: usize,
    keep: usize,
}

impl Ring {
    pub(crate) fn new(keep: usize) -> Self {
        Ring { events: Vec::with_capacity(keep), next: 0, keep }
    }
    pub(crate) fn push(&mut self, step: u64, e: Event) {
        if self.keep == 0 {
        } else if self.events.len() < self.keep {
            self.events.push((step, e));
        } else {
            self.events[self.next] = (step, e);
            self.next = (self.next + 1) % self.keep;
        }
    }
    /// Oldest first, a line each.
    pub(crate) fn text(&self) -> String {
        let (newer, older) = self.events.split_at(self.next);
        older.iter().chain(newer).map(|(step, e)| format!("  {step:>8} {e}\n")).collect()
    }
}

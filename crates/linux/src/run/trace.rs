//! `machvm run --trace`: recording how the program uses its memory.
//!
//! ```text
//!   faults, page-out --note--> block --full--> thread "trace": packed, to the file
//!                                +--killed---> the keeper: as it is, to the file
//! ```
//! Whoever learns something writes it down at once, in the order in which it became so. Two
//! blocks bound the memory: who finds both full waits for the file. A thread unmaps
//! pages in rotation, so that uses are seen that make no fault otherwise.

mod tail;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machvm::pageout::{Note, Rotation, Watch};
use machvm_hal::{MaySleep, PAGE_SIZE};
use machvm_trace::{BLOCK, Encoder, Event, Header, Kind, LONGEST, Summary, pack, preamble};

use super::error::RunError;
use super::files::tell_user;
use super::options::Options;
use super::vmspace::VmSpace;
use super::vmthread::spawn_vm_thread;

pub(super) use tail::Tail;

/// Between two samples.
const TICK: Duration = Duration::from_millis(10);
/// Pages unmapped in a second, at most: a fifth of a CPU goes into mapping them again.
const MOST_SAMPLES: u64 = 20_000;

/// See the module text.
pub(super) struct Recorder {
    state: Mutex<State>,
    /// A block is full, or there is nothing to wait for any more.
    full: Condvar,
    /// A block was written.
    written: Condvar,
    tail: &'static Tail,
    file: Mutex<File>,
    path: PathBuf,
    began: Instant,
    sampled: AtomicU64,
}

struct State {
    encoder: Encoder,
    /// The block that is filled, and how far.
    current: usize,
    len: usize,
    /// The sequence number of the next block.
    sequence: u32,
    ms: u32,
    /// Nothing is recorded any more.
    closed: bool,
}

/// The words of the command line, as a shell would take them.
fn quoted(words: &[Vec<u8>]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    let one = |word: &Vec<u8>| {
        let word = String::from_utf8_lossy(word);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    words.iter().map(one).collect::<Vec<_>>().join(" ")
}

impl Recorder {
    /// Creates the file and starts the thread that fills it.
    ///
    /// => on a VM thread, in the VM's descriptor table
    ///
    /// # Errors
    /// The file cannot be written, or there is no thread to be had.
    pub(super) fn start(
        options: &Options,
        program: &[Vec<u8>],
        tail: &'static Tail,
    ) -> Result<Option<Arc<Recorder>>, RunError> {
        let Some(path) = &options.trace else { return Ok(None) };
        let failed = |e: io::Error| RunError::host("cannot write the file of --trace", &e);
        let header = Header {
            page_size: PAGE_SIZE,
            frames: options.memory.map_or(0, |bytes| bytes / PAGE_SIZE),
            sample: options.sample.into(),
            words: vec![
                ("policy".into(), options.policy.policy().name().into()),
                ("program".into(), quoted(program)),
            ],
        };
        let mut file = File::create(path).map_err(failed)?;
        tail.begin(&mut file, &preamble()).map_err(failed)?;
        let frame = pack(Kind::Header, 0, header.to_text().as_bytes()).map_err(failed)?;
        tail.append(&mut file, &frame).map_err(failed)?;
        tail.blocks[0].begin(1);
        let state =
            State { encoder: Encoder::default(), current: 0, len: 0, sequence: 2, ms: 0, closed: false };
        let recorder = Arc::new(Recorder {
            state: Mutex::new(state),
            full: Condvar::new(),
            written: Condvar::new(),
            tail,
            file: Mutex::new(file),
            path: path.clone(),
            began: Instant::now(),
            sampled: AtomicU64::new(0),
        });
        let writer = Arc::clone(&recorder);
        spawn_vm_thread("trace", move || writer.write())
            .map_err(|e| RunError::host("cannot start a thread (see ulimit -u)", &e))?;
        Ok(Some(recorder))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down an event that happens now.
    fn record(&self, event: Event) {
        let mut s = self.state();
        let ms = u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX);
        if s.len + 2 * LONGEST > BLOCK {
            s = self.turn(s);
        }
        if s.closed {
            return;
        }
        if s.len == 0 || ms != s.ms {
            s.ms = ms;
            self.put(&mut s, Event::Time { ms });
        }
        self.put(&mut s, event);
    }

    /// => there is room.
    fn put(&self, s: &mut State, event: Event) {
        let mut bytes = [0; LONGEST];
        let n = s.encoder.put(event, &mut bytes);
        self.tail.blocks[s.current].add(s.len, &bytes[..n]);
        s.len += n;
    }

    /// Goes on with the other block, when that is written.
    fn turn<'a>(&'a self, mut s: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while !s.closed && s.len + 2 * LONGEST > BLOCK {
            let other = 1 - s.current;
            if self.tail.blocks[other].is_empty() {
                self.tail.blocks[other].begin(s.sequence);
                (s.current, s.len, s.encoder) = (other, 0, Encoder::default());
                s.sequence += 1;
                self.full.notify_all();
            } else {
                s = self.written.wait(s).unwrap_or_else(PoisonError::into_inner);
            }
        }
        s
    }

    /// The thread that writes full blocks.
    fn write(&self) {
        loop {
            let mut s = self.state();
            let other = loop {
                if s.closed {
                    return;
                }
                let other = 1 - s.current;
                if !self.tail.blocks[other].is_empty() {
                    break other;
                }
                s = self.full.wait(s).unwrap_or_else(PoisonError::into_inner);
            };
            drop(s);
            let done = self.write_block(other);
            if let Err(e) = &done {
                self.fail(e);
            }
            // Who waits looks at the block under this lock.
            drop(self.state());
            self.written.notify_all();
        }
    }

    fn write_block(&self, which: usize) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let block = &self.tail.blocks[which];
        if let Some((sequence, bytes)) = block.get() {
            self.tail.append(&mut file, &pack(Kind::Events, sequence, &bytes)?)?;
            block.empty();
        }
        Ok(())
    }

    fn fail(&self, error: &io::Error) {
        let was = std::mem::replace(&mut self.state().closed, true);
        self.tail.give_up();
        self.tail.blocks.iter().for_each(tail::Block::empty);
        if !was {
            tell_user(&format!(
                "cannot write the trace to {}: {error}; the trace ends here, and the program goes on",
                self.path.display()
            ));
        }
    }

    /// Writes what is left, and what the run counted. Nothing is recorded any more.
    pub(super) fn finish(&self, space: &VmSpace) {
        let sequence = {
            let mut s = self.state();
            if std::mem::replace(&mut s.closed, true) {
                return;
            }
            self.full.notify_all();
            self.written.notify_all();
            s.sequence
        };
        let (s, f) = (space.vm.statistics(), &space.faults);
        let summary = Summary {
            page_ins: s.swapins + s.pageins,
            zero_fill: s.zero_fill,
            page_outs: s.swapouts + s.pageouts,
            faults: f.reads.load(Relaxed) + f.writes.load(Relaxed) + f.protected.load(Relaxed),
            sampled: self.sampled.load(Relaxed),
            ms: self.began.elapsed().as_millis() as u64,
            words: Vec::new(),
        };
        let write = || {
            let mut order: Vec<usize> = vec![0, 1];
            order.sort_by_key(|b| self.tail.blocks[*b].get().map(|(sequence, _)| sequence));
            order.into_iter().try_for_each(|b| self.write_block(b))?;
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            self.tail.append(&mut file, &pack(Kind::Summary, sequence, summary.to_text().as_bytes())?)
        };
        if let Err(e) = write() {
            self.state().closed = false;
            self.fail(&e);
        }
    }
}

impl Watch for Recorder {
    fn note(&self, note: Note) {
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        self.record(match note {
            Note::In { page, stored } => Event::In { page, stored },
            Note::Used { page, write } => Event::Used { page, write },
            Note::Along { page, write } => Event::Along { page, write },
            Note::Gone { page } => Event::Gone { page },
            Note::Freed { pages } => Event::Freed { pages: narrow(pages) },
            Note::Ahead { pages } => Event::Ahead { pages: narrow(pages) },
        });
    }
}

/// The thread that unmaps pages in rotation, for ever.
pub(super) fn sample(space: &VmSpace) {
    let Some(recorder) = &space.recorder else { return };
    let (mut may, mut rotation) = (MaySleep::claim(), Rotation::default());
    let (mut last, mut owed) = (Instant::now(), 0.0);
    loop {
        std::thread::sleep(TICK);
        let seconds = std::mem::replace(&mut last, Instant::now()).elapsed().as_secs_f64().min(1.0);
        let resident = space.vm.statistics().frames_resident as f64;
        let rate = (resident * f64::from(space.options.sample) / 1000.0).min(MOST_SAMPLES as f64);
        owed += rate * seconds;
        let inside = space.enter();
        let done = space.vm.sample_uses(&mut rotation, owed as u64, &mut may);
        drop(inside);
        recorder.sampled.fetch_add(done, Relaxed);
        owed = owed.fract();
    }
}

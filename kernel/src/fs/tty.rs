//! The console as a terminal: lines and their editing, echo, keys that are signals.
//!
//! The serial line's interrupt leaves bytes in a ring; a thread of the kernel takes them through the line discipline.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use super::poll::{POLLIN, POLLOUT, Special};
use super::wait::Waiters;
use crate::errno::{EAGAIN, EFAULT, ENOTTY, Result};
use crate::mutex::Mutex;
use crate::{arch, sched, user};

const ICRNL: u32 = 0x100;
const INLCR: u32 = 0x40;
const IGNCR: u32 = 0x80;
const OPOST: u32 = 1;
const ONLCR: u32 = 4;
const ISIG: u32 = 1;
const ICANON: u32 = 2;
const ECHO: u32 = 8;
const ECHOE: u32 = 0x10;
const ECHOK: u32 = 0x20;
const ECHONL: u32 = 0x40;
const NOFLSH: u32 = 0x80;
const ECHOCTL: u32 = 0x200;

/// Places in `c_cc`.
const VINTR: usize = 0;
const VQUIT: usize = 1;
const VERASE: usize = 2;
const VKILL: usize = 3;
const VEOF: usize = 4;
const VTIME: usize = 5;
const VMIN: usize = 6;
const VSUSP: usize = 10;
const VEOL: usize = 11;
const VWERASE: usize = 14;
const VEOL2: usize = 16;

const SIGINT: u32 = 2;
const SIGQUIT: u32 = 3;
const SIGTSTP: u32 = 20;

/// Longest line that is edited.
const LINE_MAX: usize = 4095;

/// `struct termios` of the system calls.
#[derive(Clone, Copy)]
struct Termios {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    discipline: u8,
    keys: [u8; 19],
}

impl Termios {
    const BYTES: usize = 36;
    fn bytes(&self) -> [u8; Self::BYTES] {
        let mut b = [0; Self::BYTES];
        for (i, w) in [self.input, self.output, self.control, self.local].iter().enumerate() {
            b[4 * i..4 * i + 4].copy_from_slice(&w.to_le_bytes());
        }
        b[16] = self.discipline;
        b[17..36].copy_from_slice(&self.keys);
        b
    }
    fn from_bytes(b: &[u8; Self::BYTES]) -> Self {
        let word = |i: usize| u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]]);
        let mut keys = [0; 19];
        keys.copy_from_slice(&b[17..36]);
        Termios { input: word(0), output: word(1), control: word(2), local: word(3), discipline: b[16], keys }
    }
}

struct State {
    termios: Termios,
    size: [u16; 4],
    /// The line that is being typed.
    line: Vec<u8>,
    /// Bytes that may be read.
    ready: VecDeque<u8>,
    /// In `ready`: how many bytes each line has that ended; an empty one is an end of file.
    lines: VecDeque<usize>,
}

static STATE: Mutex<State> = Mutex::new(State {
    termios: Termios {
        input: 0x500,
        output: 5,
        control: 0xbf,
        local: 0x8a3b,
        discipline: 0,
        keys: [3, 0x1c, 0x7f, 0x15, 4, 0, 1, 0, 0x11, 0x13, 0x1a, 0, 0x12, 0x0f, 0x17, 0x16, 0, 0, 0],
    },
    size: [24, 80, 0, 0],
    line: Vec::new(),
    ready: VecDeque::new(),
    lines: VecDeque::new(),
});
static READERS: Waiters = Waiters::new();
/// Woken by the interrupt.
static ARRIVED: Waiters = Waiters::new();
/// The foreground process group; 0: nobody said.
static FOREGROUND: AtomicU32 = AtomicU32::new(0);

/// Bytes came. => in the interrupt.
pub(crate) fn arrived() {
    ARRIVED.wake();
}

/// Takes bytes through the line discipline, for ever: a thread of the kernel.
pub(super) fn daemon() -> ! {
    let _big = crate::sched::big::hold();
    loop {
        let byte = ARRIVED.until(None, || arch::take().map(Ok));
        if let Ok(b) = byte {
            input(b);
        }
    }
}

fn put(b: u8, output: u32) {
    if b == b'\n' && output & (OPOST | ONLCR) == OPOST | ONLCR {
        arch::put(b'\r');
    }
    arch::put(b);
}

/// How a byte is shown.
fn echo(s: &State, b: u8) {
    let t = &s.termios;
    if t.local & ECHO == 0 {
        if b == b'\n' && t.local & ECHONL != 0 {
            put(b, t.output);
        }
        return;
    }
    if t.local & ECHOCTL != 0 && (b < 32 || b == 127) && b != b'\n' && b != b'\t' {
        put(b'^', t.output);
        put(b ^ 0x40, t.output);
    } else {
        put(b, t.output);
    }
}

/// Takes the last character of the line away.
fn erase(s: &mut State) -> bool {
    let Some(b) = s.line.pop() else { return false };
    // The bytes of a character of UTF-8 go together.
    if b & 0xc0 == 0x80 {
        while s.line.pop().is_some_and(|b| b & 0xc0 == 0x80) {}
    }
    if s.termios.local & (ECHO | ECHOE) == ECHO | ECHOE {
        let wide = if (b < 32 || b == 127) && s.termios.local & ECHOCTL != 0 { 2 } else { 1 };
        for _ in 0..wide {
            [8, b' ', 8].iter().for_each(|b| arch::put(*b));
        }
    }
    true
}

/// The line is over.
fn finish(s: &mut State) {
    let line = core::mem::take(&mut s.line);
    s.lines.push_back(line.len());
    s.ready.extend(line);
}

/// A byte was typed.
fn input(b: u8) {
    let mut s = STATE.lock();
    let t = s.termios;
    let b = match b {
        b'\r' if t.input & IGNCR != 0 => return,
        b'\r' if t.input & ICRNL != 0 => b'\n',
        b'\n' if t.input & INLCR != 0 => b'\r',
        b => b,
    };
    let is = |key: usize| b != 0 && t.keys[key] == b;
    if t.local & ISIG != 0 {
        let signal = [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)].iter().find(|(k, _)| is(*k));
        if let Some((_, signal)) = signal {
            echo(&s, b);
            if t.local & NOFLSH == 0 {
                s.line.clear();
                s.ready.clear();
                s.lines.clear();
            }
            drop(s);
            return super::signal_group(FOREGROUND.load(Ordering::Acquire), *signal);
        }
    }
    if t.local & ICANON == 0 {
        s.ready.push_back(b);
        echo(&s, b);
    } else if is(VERASE) || b == 8 {
        erase(&mut s);
    } else if is(VKILL) {
        while erase(&mut s) {}
        if t.local & (ECHO | ECHOK | ECHOE) == ECHO | ECHOK {
            put(b'\n', t.output);
        }
    } else if is(VWERASE) {
        while s.line.last() == Some(&b' ') {
            erase(&mut s);
        }
        while s.line.last().is_some_and(|b| *b != b' ') {
            erase(&mut s);
        }
    } else if is(VEOF) {
        finish(&mut s);
    } else if b == b'\n' || is(VEOL) || is(VEOL2) {
        echo(&s, b);
        s.line.push(b);
        finish(&mut s);
    } else if s.line.len() < LINE_MAX {
        s.line.push(b);
        echo(&s, b);
    }
    drop(s);
    READERS.wake();
}

/// The console, open.
pub(super) struct Tty;

impl State {
    fn is_readable(&self) -> bool {
        if self.termios.local & ICANON != 0 { !self.lines.is_empty() } else { !self.ready.is_empty() }
    }
    fn take(&mut self, buf: &mut [u8]) -> usize {
        let most = match self.lines.front().copied() {
            Some(line) if self.termios.local & ICANON != 0 => {
                let n = line.min(buf.len());
                if n == line {
                    self.lines.pop_front();
                } else if let Some(first) = self.lines.front_mut() {
                    *first -= n;
                }
                n
            }
            _ => {
                self.lines.clear();
                buf.len().min(self.ready.len())
            }
        };
        super::pipe::take(&mut self.ready, &mut buf[..most])
    }
}

impl Special for Tty {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        super::background_read(FOREGROUND.load(Ordering::Acquire))?;
        let (canonical, min, time) = {
            let s = STATE.lock();
            let t = &s.termios;
            (t.local & ICANON != 0, usize::from(t.keys[VMIN]), u64::from(t.keys[VTIME]))
        };
        if canonical {
            return READERS.until(None, || {
                let mut s = STATE.lock();
                if s.is_readable() {
                    return Some(Ok(s.take(buf)));
                }
                nonblock.then_some(Err(EAGAIN))
            });
        }
        let deadline = (time != 0 && min == 0).then(|| arch::now_ns() + time * 100_000_000);
        let want = min.clamp(usize::from(time != 0 || min != 0), buf.len());
        let got = READERS.until(deadline, || {
            let mut s = STATE.lock();
            if s.ready.len() >= want || nonblock && !s.ready.is_empty() {
                return Some(Ok(s.take(buf)));
            }
            nonblock.then_some(Err(EAGAIN))
        });
        if got == Err(crate::errno::ETIMEDOUT) { Ok(0) } else { got }
    }
    fn write(&self, data: &[u8], _nonblock: bool) -> Result<usize> {
        let output = STATE.lock().termios.output;
        data.iter().for_each(|b| put(*b, output));
        Ok(data.len())
    }
    fn turn(&self) -> u32 {
        READERS.turn()
    }
    fn poll(&self) -> u16 {
        if STATE.lock().is_readable() { POLLIN | POLLOUT } else { POLLOUT }
    }
    fn available(&self) -> Option<usize> {
        let s = STATE.lock();
        Some(if s.termios.local & ICANON != 0 {
            s.lines.front().copied().unwrap_or(0)
        } else {
            s.ready.len()
        })
    }
    fn label(&self) -> &'static str {
        "/dev/console"
    }

    fn ioctl(&self, code: u32, argument: u64) -> Result {
        match code {
            // TCGETS
            0x5401 => {
                let b = STATE.lock().termios.bytes();
                user::write(argument, &b)?;
            }
            // TCSETS, TCSETSW, TCSETSF
            0x5402..=0x5404 => {
                let mut b = [0; Termios::BYTES];
                user::read(argument, &mut b)?;
                let mut s = STATE.lock();
                s.termios = Termios::from_bytes(&b);
                if code == 0x5404 {
                    s.ready.clear();
                    s.lines.clear();
                    s.line.clear();
                }
                drop(s);
                READERS.wake();
            }
            // TCSBRK, TCXONC: nothing is held back.
            0x5409 | 0x540a => {}
            // TCFLSH
            0x540b => {
                if argument != 1 {
                    let mut s = STATE.lock();
                    s.ready.clear();
                    s.lines.clear();
                    s.line.clear();
                }
            }
            // TIOCSCTTY, TIOCNOTTY: it is every session's.
            0x540e | 0x5422 => {}
            // TIOCGPGRP
            0x540f => {
                let group = match FOREGROUND.load(Ordering::Acquire) {
                    0 => super::own_group(),
                    g => g,
                };
                user::write(argument, &group.to_le_bytes())?;
            }
            // TIOCSPGRP
            0x5410 => FOREGROUND.store(user::read_u32(argument)?, Ordering::Release),
            // TIOCOUTQ
            0x5411 => user::write(argument, &0u32.to_le_bytes())?,
            // TIOCGWINSZ
            0x5413 => {
                let size = STATE.lock().size;
                let mut b = [0; 8];
                for (to, w) in b.chunks_exact_mut(2).zip(size) {
                    to.copy_from_slice(&w.to_le_bytes());
                }
                user::write(argument, &b)?;
            }
            // TIOCSWINSZ
            0x5414 => {
                let mut b = [0; 8];
                user::read(argument, &mut b).map_err(|_| EFAULT)?;
                let mut s = STATE.lock();
                for (w, from) in s.size.iter_mut().zip(b.chunks_exact(2)) {
                    *w = u16::from_le_bytes([from[0], from[1]]);
                }
            }
            // TIOCGSID
            0x5429 => user::write(argument, &sched::process().pid.to_le_bytes())?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

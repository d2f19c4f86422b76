//! Pairs of local sockets.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::pipe::take;
use super::poll::{POLLHUP, POLLIN, POLLOUT, POLLRDHUP, Special};
use super::wait::Waiters;
use crate::errno::{EAGAIN, ECONNRESET, EMSGSIZE, EPIPE, Result};
use crate::mutex::Mutex;

/// Bytes that wait at most in each direction.
const CAPACITY: usize = 212_992;

/// What a kind of socket carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carries {
    Bytes,
    /// Messages, without a connection that could end.
    Datagrams,
    /// Messages, with an end.
    Packets,
}

/// One direction.
#[derive(Default)]
struct Queue {
    bytes: VecDeque<u8>,
    /// Lengths of the messages in it.
    messages: VecDeque<usize>,
    /// Nothing more will come.
    ended: bool,
    /// Nobody will read.
    deaf: bool,
}

struct Pair {
    queues: [Mutex<Queue>; 2],
    waiters: Waiters,
}

/// One of the two.
pub(crate) struct Socket {
    pair: Arc<Pair>,
    /// Which queue it reads; it writes the other.
    side: usize,
    pub(crate) carries: Carries,
}

/// Two connected sockets.
pub(crate) fn pair(carries: Carries) -> (Socket, Socket) {
    let queues = [Mutex::new(Queue::default()), Mutex::new(Queue::default())];
    let pair = Arc::new(Pair { queues, waiters: Waiters::new() });
    (Socket { pair: pair.clone(), side: 0, carries }, Socket { pair, side: 1, carries })
}

/// What a receive gave.
pub(crate) struct Received {
    pub(crate) copied: usize,
    /// How long the message was.
    pub(crate) length: usize,
}

impl Socket {
    fn incoming(&self) -> &Mutex<Queue> {
        &self.pair.queues[self.side]
    }
    fn outgoing(&self) -> &Mutex<Queue> {
        &self.pair.queues[1 - self.side]
    }

    /// Receives; with `peek` what is received stays.
    pub(crate) fn receive(&self, buf: &mut [u8], nonblock: bool, peek: bool) -> Result<Received> {
        let got = self.pair.waiters.until(None, || {
            let mut q = self.incoming().lock();
            if self.carries == Carries::Bytes {
                if !q.bytes.is_empty() {
                    let n = if peek { look(&q.bytes, buf) } else { take(&mut q.bytes, buf) };
                    return Some(Ok(Received { copied: n, length: n }));
                }
            } else if let Some(length) = q.messages.front().copied() {
                let n = length.min(buf.len());
                if peek {
                    look(&q.bytes, &mut buf[..n]);
                } else {
                    take(&mut q.bytes, &mut buf[..n]);
                    q.bytes.drain(..length - n);
                    q.messages.pop_front();
                }
                return Some(Ok(Received { copied: n, length }));
            }
            if q.ended && self.carries != Carries::Datagrams {
                return Some(Ok(Received { copied: 0, length: 0 }));
            }
            nonblock.then_some(Err(EAGAIN))
        })?;
        self.pair.waiters.wake();
        Ok(got)
    }

    fn send(&self, data: &[u8], nonblock: bool) -> Result<usize> {
        let messages = self.carries != Carries::Bytes;
        if messages && data.len() > CAPACITY - 32 {
            return Err(EMSGSIZE);
        }
        let mut done = 0;
        while done < data.len() || messages {
            let rest = &data[done..];
            let put = self.pair.waiters.until(None, || {
                let mut q = self.outgoing().lock();
                if q.ended || q.deaf {
                    let gone = self.carries == Carries::Datagrams && !q.ended;
                    return Some(Err(if gone { ECONNRESET } else { EPIPE }));
                }
                let room = CAPACITY.saturating_sub(q.bytes.len());
                if room == 0 || messages && room < rest.len() {
                    return nonblock.then_some(Err(EAGAIN));
                }
                let n = room.min(rest.len());
                q.bytes.extend(&rest[..n]);
                if messages {
                    q.messages.push_back(n);
                }
                Some(Ok(n))
            });
            match put {
                Ok(n) => done += n,
                Err(_) if done != 0 => break,
                Err(e) => return Err(e),
            }
            self.pair.waiters.wake();
            if messages {
                break;
            }
        }
        Ok(done)
    }

    /// shutdown(2): 0: no more reading, 1: no more writing, 2: neither.
    pub(crate) fn shutdown(&self, how: u64) {
        if how != 1 {
            let mut q = self.incoming().lock();
            (q.deaf, q.ended) = (true, true);
        }
        if how != 0 {
            self.outgoing().lock().ended = true;
        }
        self.pair.waiters.wake();
    }
}

/// Copies the first bytes of a queue.
fn look(from: &VecDeque<u8>, to: &mut [u8]) -> usize {
    let some: Vec<u8> = from.iter().take(to.len()).copied().collect();
    to[..some.len()].copy_from_slice(&some);
    some.len()
}

impl Special for Socket {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        if buf.is_empty() && self.carries == Carries::Bytes {
            return Ok(0);
        }
        self.receive(buf, nonblock, false).map(|r| r.copied)
    }
    fn write(&self, data: &[u8], nonblock: bool) -> Result<usize> {
        self.send(data, nonblock)
    }
    fn turn(&self) -> u32 {
        self.pair.waiters.turn()
    }
    fn poll(&self) -> u16 {
        let mut events = 0;
        let ended = {
            let q = self.incoming().lock();
            let any = !q.bytes.is_empty() || !q.messages.is_empty();
            let ended = q.ended && self.carries != Carries::Datagrams;
            events |= if any || ended { POLLIN } else { 0 };
            events |= if ended { POLLRDHUP } else { 0 };
            ended
        };
        let q = self.outgoing().lock();
        if q.ended || q.deaf || q.bytes.len() < CAPACITY / 2 {
            events |= POLLOUT;
        }
        if ended && (q.ended || q.deaf) {
            events |= POLLHUP;
        }
        events
    }
    fn available(&self) -> Option<usize> {
        let q = self.incoming().lock();
        Some(if self.carries == Carries::Bytes {
            q.bytes.len()
        } else {
            q.messages.front().copied().unwrap_or(0)
        })
    }
    fn message_max(&self) -> Option<usize> {
        (self.carries != Carries::Bytes).then_some(CAPACITY)
    }
    fn socket(&self) -> Option<&Socket> {
        Some(self)
    }
    fn label(&self) -> &'static str {
        "socket"
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        {
            let mut q = self.incoming().lock();
            q.deaf = true;
            q.bytes = VecDeque::new();
            q.messages.clear();
        }
        self.outgoing().lock().ended = true;
        self.pair.waiters.wake();
    }
}

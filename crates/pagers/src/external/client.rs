//! The kernel's side of a connection.
//!
//! A thread that needs a page takes an entry of the table, writes what it sends into the
//! entry's slot of the shared memory, sends the request and sleeps until the connection's
//! service thread has the answer, or until the deadline. Nothing on that way allocates:
//! it may be a signal handler.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use machvm_hal::{ObjectControl, PAGE_SIZE, PagerError};
use rustix::event::EventfdFlags;

use super::link::{Link, Received};
use super::object::Object;
use super::ring::{KERNEL_SLOTS, RING, Ring};
use super::service;
use super::table::{Answer, State, Table};
use super::wire::{CLUSTER, Kind, MAGIC, Message, Status, VERSION};

/// Starts a thread with that name.
pub type Spawn = fn(&str, Box<dyn FnOnce() + Send>) -> io::Result<()>;

/// The memory system whose objects they are, while it is there.
pub type Kernel = Weak<dyn ObjectControl + Send + Sync>;

/// How a kernel deals with a pager.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A request that is not answered in this time is an error.
    pub timeout: Duration,
    /// A pager that is gone is looked for again: requests wait for it up to their deadline.
    /// If not, they fail at once, for ever.
    pub reconnect: bool,
    /// Starts the threads of the connection.
    pub spawn: Spawn,
}

impl Default for Options {
    fn default() -> Options {
        Options { timeout: Duration::from_secs(10), reconnect: true, spawn }
    }
}

fn spawn(name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(body).map(drop)
}

/// What became of the messages of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Requests sent.
    pub requests: u64,
    /// Requests that were not answered in time.
    pub timeouts: u64,
    /// Answers after that.
    pub late: u64,
    /// Answers to nothing: the second to a request, or with an unknown number.
    pub stray: u64,
    /// Answers that do not fit what was asked, for another object or range.
    pub misfits: u64,
    /// Connections ended for what came over them.
    pub garbage: u64,
    /// Times that a connection was made.
    pub connections: u64,
    /// Requests that wait now, or whose slot the pager may still write to.
    pub pending: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) stray: AtomicU64,
    pub(super) misfits: AtomicU64,
    pub(super) garbage: AtomicU64,
    pub(super) connections: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Why a call of a pager has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CallError {
    /// There is no connection, nor will there be.
    Gone,
    /// No answer in time.
    Timeout,
    /// An answer to something else.
    Misfit,
    /// The shared memory failed.
    Ring,
}

impl CallError {
    pub(super) fn pager_error(self) -> PagerError {
        match self {
            CallError::Gone => PagerError::Gone,
            CallError::Timeout | CallError::Misfit | CallError::Ring => PagerError::Io,
        }
    }
}

/// One connection, from its handshake to its end.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) ring: Ring,
    /// What the pager calls its store; 0: nothing.
    pub(super) instance: u64,
}

/// What is locked together.
struct Shared {
    table: Table,
    session: Option<Arc<Session>>,
    /// There will be no further session.
    closed: bool,
    /// When the last session ended.
    lost: Option<Instant>,
    /// A request was not answered in time, and the pager has said nothing since.
    stalled: bool,
}

pub(super) struct Inner {
    pub(super) path: PathBuf,
    pub(super) options: Options,
    /// The process that has the connection: a child of `fork(2)` has none.
    pid: u32,
    shared: Mutex<Shared>,
    /// One for each entry of the table.
    answered: Box<[Condvar]>,
    /// An entry is free, or there is another session.
    changed: Condvar,
    /// Wakes the service thread.
    wake: OwnedFd,
    pub(super) kernel: OnceLock<Kernel>,
    /// To the thread that carries out the pager's calls.
    pub(super) calls: OnceLock<SyncSender<service::Call>>,
    handles: AtomicU32,
    pub(super) objects: Mutex<Vec<Arc<Object>>>,
    /// Held while an object is opened, so that one name is opened once.
    opening: Mutex<()>,
    next_object: AtomicU64,
    pub(super) counters: Counters,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pager in another process. Clones are the same connection, which lasts until the last of
/// them and of its objects is dropped.
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

impl core::fmt::Debug for Client {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Client({})", self.inner.path.display())
    }
}

impl Clone for Client {
    fn clone(&self) -> Client {
        self.inner.handles.fetch_add(1, Relaxed);
        Client { inner: Arc::clone(&self.inner) }
    }
}
impl Drop for Client {
    fn drop(&mut self) {
        if self.inner.handles.fetch_sub(1, Release) == 1 {
            self.inner.wake_up();
        }
    }
}

/// A pager that is stalled has this part of the time to answer.
const STALLED: u32 = 32;
/// What the pager has for its welcome, at least.
const HELLO: Duration = Duration::from_secs(10);

/// Connects to the pager at `path` and agrees on the version.
pub(super) fn handshake(path: &Path, timeout: Duration) -> io::Result<Session> {
    let end = Instant::now() + timeout.max(HELLO);
    let (link, ring) = (Link::connect(path)?, Ring::new()?);
    let hello = Message {
        object: MAGIC,
        offset: PAGE_SIZE,
        size: RING,
        place: ring.pagers(),
        how: VERSION,
        extra: CLUSTER,
        ..Message::new(Kind::Hello)
    };
    link.send_with(&hello, ring.fd(), end)?;
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    match link.receive_until(end)? {
        Received::Message(m) if m.kind == Kind::Welcome && m.object == MAGIC => {
            if m.status() != Status::Success || m.how != VERSION {
                return wrong(format!(
                    "the pager speaks version {} of the protocol, this is {VERSION}",
                    m.how
                ));
            }
            Ok(Session { link, ring, instance: m.extra })
        }
        Received::End => Err(io::ErrorKind::ConnectionReset.into()),
        Received::Garbage(e) => wrong(format!("the pager does not speak the protocol: {e}")),
        other => wrong(format!("the pager does not speak the protocol: {other:?}")),
    }
}

impl Client {
    /// Connects to the pager that listens at `path`.
    ///
    /// # Errors
    /// There is none, it speaks another version, or it does not answer in time.
    pub fn connect(path: &Path, options: Options) -> io::Result<Client> {
        let session = handshake(path, options.timeout)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let inner = Arc::new(Inner {
            path: path.into(),
            options,
            pid: std::process::id(),
            shared: Mutex::new(Shared {
                table: Table::new(KERNEL_SLOTS as usize),
                session: Some(Arc::new(session)),
                closed: false,
                lost: None,
                stalled: false,
            }),
            answered: (0..KERNEL_SLOTS).map(|_| Condvar::new()).collect(),
            changed: Condvar::new(),
            wake,
            kernel: OnceLock::new(),
            calls: OnceLock::new(),
            handles: AtomicU32::new(1),
            objects: Mutex::default(),
            opening: Mutex::default(),
            next_object: AtomicU64::new(1),
            counters: Counters::default(),
        });
        count(&inner.counters.connections);
        let theirs = Arc::clone(&inner);
        (options.spawn)("machvm-pager", Box::new(move || service::serve(&theirs)))?;
        Ok(Client { inner })
    }

    /// The memory system that the pager's own calls go to, once; without one they are
    /// answered with [`Status::Unsupported`].
    ///
    /// # Errors
    /// No thread could be started.
    pub fn set_kernel(&self, kernel: Kernel) -> io::Result<()> {
        if self.inner.kernel.set(kernel).is_err() {
            return Ok(());
        }
        service::start_calls(&self.inner)
    }

    /// Where the pager is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }
    /// What the pager calls its store, now; 0: nothing, or there is no connection.
    #[must_use]
    pub fn instance(&self) -> u64 {
        self.inner.session().map_or(0, |s| s.instance)
    }
    /// Is there a connection?
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.session().is_some()
    }
    /// The objects in use.
    #[must_use]
    pub fn objects(&self) -> Vec<Arc<Object>> {
        lock(&self.inner.objects).clone()
    }
    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let c = &self.inner.counters;
        let get = |n: &AtomicU64| n.load(Relaxed);
        Stats {
            requests: get(&c.requests),
            timeouts: get(&c.timeouts),
            late: get(&c.late),
            stray: get(&c.stray),
            misfits: get(&c.misfits),
            garbage: get(&c.garbage),
            connections: get(&c.connections),
            pending: lock(&self.inner.shared).table.taken() as u64,
        }
    }
}

impl Inner {
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        lock(&self.shared).session.clone()
    }
    /// The service thread looks around.
    pub(super) fn wake_up(&self) {
        // Full: it is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
    pub(super) fn has_handles(&self) -> bool {
        self.handles.load(Acquire) != 0
    }
    pub(super) fn new_object_number(&self) -> u64 {
        self.next_object.fetch_add(1, Relaxed)
    }
    pub(super) fn opening(&self) -> MutexGuard<'_, ()> {
        lock(&self.opening)
    }

    /// Sends a request and waits for its answer. `send` fills the request's slot, `receive`
    /// empties it; both get the slot's place. Repeated over a new connection when one ends.
    pub(super) fn call(
        &self,
        m: &Message,
        uses_slot: bool,
        send: &mut dyn FnMut(&Ring, u64) -> io::Result<()>,
        receive: &mut dyn FnMut(&Ring, &Message) -> io::Result<()>,
    ) -> Result<Message, CallError> {
        if rustix::process::getpid().as_raw_nonzero().get() as u32 != self.pid {
            return Err(CallError::Gone);
        }
        let end = self.deadline();
        loop {
            let (index, id, session) = self.begin(end)?;
            let place = index as u64 * CLUSTER;
            let asked = Message { id, place: if uses_slot { place } else { 0 }, ..*m };
            if send(&session.ring, place).is_err() {
                self.end(index);
                return Err(CallError::Ring);
            }
            lock(&self.shared).table.ask(index, asked);
            count(&self.counters.requests);
            let sent = session.link.send(&asked, end);
            match sent.map(|()| self.wait(index, end)) {
                Ok(Ok(Answer::Fits(answer))) => {
                    let taken = receive(&session.ring, &answer);
                    self.end(index);
                    return taken.map(|()| answer).map_err(|_| CallError::Ring);
                }
                Ok(Ok(Answer::Misfit)) => {
                    self.end(index);
                    count(&self.counters.misfits);
                    return Err(CallError::Misfit);
                }
                Ok(Err(CallError::Timeout)) => return Err(CallError::Timeout),
                // The connection ended: with another one, again.
                Ok(Err(_)) => self.end(index),
                // It was not sent, so nobody will answer.
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    self.end(index);
                    count(&self.counters.timeouts);
                    return Err(CallError::Timeout);
                }
                Err(_) => {
                    self.end(index);
                    session.link.hang_up();
                    self.until_replaced(&session, end);
                }
            }
        }
    }

    /// When a request that begins now is to be answered. Of a pager that has let one deadline
    /// pass little is expected, or a thousand requests would take a thousand deadlines.
    fn deadline(&self) -> Instant {
        let shared = lock(&self.shared);
        let now = Instant::now();
        match (&shared.session, shared.lost) {
            (Some(_), _) if shared.stalled => now + self.options.timeout / STALLED,
            (None, Some(lost)) => now.max(lost + self.options.timeout),
            _ => now + self.options.timeout,
        }
    }

    /// An entry of the table and the session, as soon as there are both.
    fn begin(&self, end: Instant) -> Result<(usize, u64, Arc<Session>), CallError> {
        let mut shared = lock(&self.shared);
        loop {
            if shared.closed {
                return Err(CallError::Gone);
            }
            if let Some(session) = shared.session.clone()
                && let Some((index, id)) = shared.table.take()
            {
                return Ok((index, id, session));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                count(&self.counters.timeouts);
                return Err(CallError::Timeout);
            }
            shared = self.changed.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Until the answer. After a timeout the entry is left to the late answer.
    fn wait(&self, index: usize, end: Instant) -> Result<Answer, CallError> {
        let mut shared = lock(&self.shared);
        loop {
            match shared.table.state(index) {
                State::Answered(answer) => return Ok(answer),
                State::Waiting => {}
                State::Broken | State::Free | State::Abandoned => return Err(CallError::Gone),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                shared.table.abandon(index);
                shared.stalled = true;
                count(&self.counters.timeouts);
                return Err(CallError::Timeout);
            }
            let woken = self.answered[index].wait_timeout(shared, left);
            shared = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn end(&self, index: usize) {
        lock(&self.shared).table.free(index);
        self.changed.notify_one();
    }

    fn until_replaced(&self, session: &Arc<Session>, end: Instant) {
        let mut shared = lock(&self.shared);
        while shared.session.as_ref().is_some_and(|now| Arc::ptr_eq(now, session)) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            shared = self.changed.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends what has no answer. Lost when there is no connection, or when the pager does
    /// not read.
    pub(super) fn tell(&self, m: &Message) {
        if rustix::process::getpid().as_raw_nonzero().get() as u32 != self.pid {
            return;
        }
        if let Some(session) = self.session() {
            let end = Instant::now() + self.options.timeout.min(Duration::from_secs(1));
            let _ = session.link.send(m, end);
        }
    }

    // What follows is called by the service thread.

    /// An answer came.
    pub(super) fn answer(&self, m: &Message) {
        use super::table::Effect;
        let effect = {
            let mut shared = lock(&self.shared);
            shared.stalled = false;
            shared.table.answer(m)
        };
        match effect {
            Effect::Answered(index) => self.answered[index].notify_one(),
            Effect::Late => {
                count(&self.counters.late);
                self.changed.notify_one();
            }
            Effect::Stray => count(&self.counters.stray),
        }
    }

    /// Whoever waits for pages of the object need not any more.
    pub(super) fn object_destroyed(&self, object: u64) {
        let answered = &self.answered;
        lock(&self.shared).table.destroyed(object, |index| answered[index].notify_one());
    }

    /// The session has ended.
    pub(super) fn lost(&self) {
        let mut shared = lock(&self.shared);
        shared.session = None;
        shared.closed = !self.options.reconnect;
        (shared.lost, shared.stalled) = (Some(Instant::now()), false);
        shared.table.break_all();
        drop(shared);
        self.answered.iter().for_each(Condvar::notify_one);
        self.changed.notify_all();
    }

    /// There is another.
    pub(super) fn found(&self, session: Arc<Session>) {
        count(&self.counters.connections);
        lock(&self.shared).session = Some(session);
        self.changed.notify_all();
    }

    /// Nothing will come any more.
    pub(super) fn close(&self) {
        let mut shared = lock(&self.shared);
        shared.closed = true;
        shared.session = None;
        shared.table.break_all();
        drop(shared);
        self.answered.iter().for_each(Condvar::notify_one);
        self.changed.notify_all();
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

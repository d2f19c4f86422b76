//! The pager's side of the protocol.
//!
//! A [`Pager`] has the data; a [`Server`] listens and serves any number of kernels, each on a
//! thread of its own. Requests are tokens: they may be answered later and from any thread,
//! and dropping one answers it with an error.
//!
//! ```no_run
//! use machvm_pagers::external::server::{About, Control, DataRequest, Pager, Server};
//! use machvm_pagers::external::wire::Status;
//!
//! /// Every page holds its own number.
//! struct Numbers;
//! impl Pager for Numbers {
//!     type Object = ();
//!     fn init(&self, name: &[u8], _: &Control) -> Result<((), About), Status> {
//!         if name == b"numbers" { Ok(((), About::read_only(1 << 30))) } else { Err(Status::Unknown) }
//!     }
//!     fn data_request(&self, (): &(), request: DataRequest) {
//!         let mut data = vec![0; request.size() as usize];
//!         for (i, page) in data.chunks_mut(4096).enumerate() {
//!             page[..8].copy_from_slice(&(request.offset() / 4096 + i as u64).to_le_bytes());
//!         }
//!         request.supply(&data);
//!     }
//! }
//! # fn main() -> std::io::Result<()> {
//! Server::bind("/run/numbers.sock".as_ref())?.run(Numbers)
//! # }
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use machvm_hal::{Attributes, PAGE_SIZE, Prot, Return};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::convert::{rights, rights_number, strategy, strategy_number};
use super::link::{Link, Received, wait};
use super::ring::Ring;
use super::slots::Slots;
use super::wire::{self, CLUSTER, From, Kind, LONGEST_NAME, MAGIC, Message, Status, VERSION};

/// How long a kernel may take to read what it was sent, and to say hello.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a pager says of an object that is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct About {
    /// Bytes of data.
    pub size: u64,
    /// Rights that mappings may have.
    pub rights: Prot,
    /// Caching and copying.
    pub attributes: Attributes,
}

impl About {
    /// Data that may be read and executed.
    #[must_use]
    pub fn read_only(size: u64) -> About {
        About { size, rights: Prot::R.union(Prot::X), attributes: Attributes::default() }
    }
    /// Data that may be changed.
    #[must_use]
    pub fn read_write(size: u64) -> About {
        About { size, rights: Prot::ALL, attributes: Attributes::default() }
    }
}

/// A part of another object (E27): what a name may stand for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proxy {
    /// The number of an object that is ready on the same connection ([`Control::object`]).
    pub object: u64,
    /// First byte, of a page.
    pub offset: u64,
    /// Bytes, whole pages.
    pub size: u64,
    /// Rights at most.
    pub rights: Prot,
}

/// Where data comes from and goes to: what the memory object calls ask of a pager. Called by
/// the thread of a connection; only the answers to requests may be left to others.
pub trait Pager: Send + Sync + 'static {
    /// What is kept for an object in use.
    type Object: Send + Sync + 'static;

    /// What the store is called: a kernel that finds another after a reconnection knows that
    /// what it gave away is lost. 0: nothing is said.
    fn instance(&self) -> u64 {
        0
    }
    /// A kernel wants to use the object of that name (E01); what is given makes it ready.
    ///
    /// # Errors
    /// Why not.
    fn init(&self, name: &[u8], control: &Control) -> Result<(Self::Object, About), Status>;
    /// Does the name stand for a part of an object in use? Asked before [`Pager::init`].
    fn proxy(&self, _name: &[u8], _control: &Control) -> Option<Proxy> {
        None
    }
    /// A kernel wants memory of its own kept (E22). `None`: this is no default pager.
    fn create(&self, _size: u64, _control: &Control) -> Option<Self::Object> {
        None
    }
    /// Pages are wanted (E05).
    fn data_request(&self, object: &Self::Object, request: DataRequest);
    /// Pages come back (E11, E13).
    ///
    /// # Errors
    /// Why they could not be kept: they stay modified in the kernel.
    fn data_return(&self, _object: &Self::Object, _data: &DataReturn<'_>) -> Result<(), Status> {
        Err(Status::Denied)
    }
    /// More access to pages in memory is wanted than a lock leaves (E14). Given at once
    /// unless this says something else.
    fn data_unlock(&self, _object: &Self::Object, unlock: &Unlock, control: &Control) {
        let none = Lock { ret: Return::None, flush: false, lock: Some(Prot::NONE) };
        let _ = control.lock_request(0, unlock.offset, unlock.size, none);
    }
    /// What was returned is to be where it shall stay (E23).
    ///
    /// # Errors
    /// What `msync` reports.
    fn synchronize(&self, _object: &Self::Object, _offset: u64, _size: u64) -> Result<(), Status> {
        Ok(())
    }
    /// A range was copied (E21), mappings begin and end (E24), calls of the pager are carried
    /// out (E07, E16, E18, E20).
    fn told(&self, _object: &Self::Object, _what: Told, _control: &Control) {}
    /// The kernel is done with the object, or is no more (E03).
    fn terminate(&self, _object: Self::Object) {}
}

/// More access is wanted; see [`Pager::data_unlock`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unlock {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// What is wanted.
    pub access: Prot,
}

/// What a lock request is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Which pages are returned.
    pub ret: Return,
    /// Pages leave memory.
    pub flush: bool,
    /// Accesses not allowed from now on; `None`: as before.
    pub lock: Option<Prot>,
}

/// See [`Pager::told`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// `memory_object_copy`: first byte and size.
    Copied(u64, u64),
    /// `memory_object_map`.
    Mapped,
    /// `memory_object_last_unmap`.
    LastUnmap,
    /// `memory_object_lock_completed`: the number that was given, and how it went.
    LockCompleted(u64, Status),
    /// `memory_object_supply_completed`: the same; and where it stopped.
    SupplyCompleted(u64, Status, u64),
    /// `memory_object_change_completed`.
    ChangeCompleted(u64, Status),
    /// The answer to [`Control::get_attributes`]: is it ready, and how.
    Attributes(u64, Status, bool, Attributes),
}

/// A connection, seen from the pager.
struct Peer {
    link: Link,
    ring: Ring,
    /// Those of our part that may be used.
    slots: Slots,
}

impl Peer {
    fn send(&self, m: &Message) -> io::Result<()> {
        self.link.send(m, Instant::now() + PATIENCE).inspect_err(|_| self.link.hang_up())
    }
}

/// An object as its kernel knows it: the calls that a pager makes.
#[derive(Clone)]
pub struct Control {
    peer: Arc<Peer>,
    object: u64,
}

impl core::fmt::Debug for Control {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Control({})", self.object)
    }
}

impl Control {
    /// The number that the object has on its connection.
    #[must_use]
    pub fn object(&self) -> u64 {
        self.object
    }

    /// Gives pages that nobody asked for (E06), at most a cluster. The answer is
    /// [`Told::SupplyCompleted`], with `size` as well as `offset` of this call.
    ///
    /// # Errors
    /// `InvalidInput`: not whole pages, or too many. `WouldBlock`: no slot is free; the
    /// answers to earlier ones free them. Anything else: the kernel is no more.
    pub fn supply(&self, offset: u64, data: &[u8], lock: Prot, precious: bool) -> io::Result<()> {
        let size = data.len() as u64;
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) || size > CLUSTER {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let slot = self.peer.slots.take().ok_or(io::ErrorKind::WouldBlock)?;
        let place = self.peer.ring.pagers() + slot * CLUSTER;
        let m = Message {
            flags: if precious { wire::PRECIOUS } else { 0 },
            offset,
            size,
            place,
            access: rights_number(lock),
            ..Message::about(Kind::DataSupply, self.object)
        };
        let sent = self.peer.ring.write(place, data).and_then(|()| {
            self.peer.slots.lend(self.object, offset, slot);
            self.peer.send(&m)
        });
        sent.inspect_err(|_| self.peer.slots.give(slot))
    }

    /// Restricts, takes back or forgets pages (E15). The answer is [`Told::LockCompleted`]
    /// with the number `id`.
    ///
    /// # Errors
    /// The kernel is no more.
    pub fn lock_request(&self, id: u64, offset: u64, size: u64, how: Lock) -> io::Result<()> {
        let keep = if how.lock.is_none() { wire::NO_CHANGE } else { 0 };
        self.peer.send(&Message {
            id,
            flags: keep | if how.flush { wire::FLUSH } else { 0 },
            offset,
            size,
            access: rights_number(how.lock.unwrap_or(Prot::NONE)),
            how: match how.ret {
                Return::None => 0,
                Return::Dirty => 1,
                Return::All => 2,
            },
            ..Message::about(Kind::LockRequest, self.object)
        })
    }

    /// Changes the attributes (E17). The answer is [`Told::ChangeCompleted`].
    ///
    /// # Errors
    /// The kernel is no more.
    pub fn change_attributes(&self, id: u64, how: Attributes) -> io::Result<()> {
        let flags = if how.may_cache { wire::MAY_CACHE } else { 0 };
        let how = strategy_number(how.copy);
        self.peer.send(&Message { id, flags, how, ..Message::about(Kind::ChangeAttributes, self.object) })
    }

    /// Asks for the attributes (E20). The answer is [`Told::Attributes`].
    ///
    /// # Errors
    /// The kernel is no more.
    pub fn get_attributes(&self, id: u64) -> io::Result<()> {
        self.peer.send(&Message { id, ..Message::about(Kind::GetAttributes, self.object) })
    }

    /// Ends the object in the kernel (E04): faults fail, pages are lost.
    ///
    /// # Errors
    /// The kernel is no more.
    pub fn destroy(&self, reason: Status) -> io::Result<()> {
        self.peer.send(&Message { status: reason as u32, ..Message::about(Kind::Destroy, self.object) })
    }
}

/// Pages that are wanted.
#[derive(Debug)]
#[must_use]
pub struct DataRequest {
    control: Control,
    asked: Message,
    answered: bool,
}

impl DataRequest {
    /// First byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.asked.offset
    }
    /// Bytes: whole pages, at most a cluster.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.asked.size
    }
    /// The access that waits.
    #[must_use]
    pub fn access(&self) -> Prot {
        rights(self.asked.access)
    }
    /// Gives the first pages, as many as `data` has (the last is filled with zeroes). The
    /// others are asked for again when they are touched.
    pub fn supply(self, data: &[u8]) {
        self.supply_how(data, Prot::NONE, false);
    }
    /// As [`DataRequest::supply`]; `lock`: accesses not allowed, `precious`: to be returned even
    /// if not modified.
    pub fn supply_how(mut self, data: &[u8], lock: Prot, precious: bool) {
        let data = &data[..data.len().min(self.asked.size as usize)];
        let size = (data.len() as u64).next_multiple_of(PAGE_SIZE);
        let ring = &self.control.peer.ring;
        let place = self.asked.place;
        // The slot has another user's bytes.
        let tail = vec![0; size as usize - data.len()];
        let written = ring.write(place, data).and_then(|()| ring.write(place + data.len() as u64, &tail));
        if size == 0 || written.is_err() {
            return; // as an error
        }
        let flags = if precious { wire::PRECIOUS } else { 0 };
        let access = rights_number(lock);
        let offset = self.asked.offset;
        let m = self.asked.answer(Kind::DataSupply, Status::Success);
        self.finish(&Message { flags, offset, size, place, access, ..m });
    }
    /// There is no data: zeroes (E09).
    pub fn unavailable(mut self) {
        let m = self.asked.answer(Kind::DataUnavailable, Status::Success);
        self.finish(&Message { offset: self.asked.offset, size: self.asked.size, ..m });
    }
    /// It cannot be had (E10).
    pub fn error(mut self, why: Status) {
        self.fail(why);
    }
    fn fail(&mut self, why: Status) {
        let m = self.asked.answer(Kind::DataError, why);
        self.finish(&Message { offset: self.asked.offset, size: self.asked.size, ..m });
    }
    fn finish(&mut self, m: &Message) {
        self.answered = true;
        // A kernel that is gone needs no answer.
        let _ = self.control.peer.send(m);
    }
}

impl Drop for DataRequest {
    fn drop(&mut self) {
        if !self.answered {
            self.fail(Status::Error);
        }
    }
}

/// Pages that come back.
#[derive(Clone, Copy)]
pub struct DataReturn<'a> {
    ring: &'a Ring,
    m: &'a Message,
}

impl core::fmt::Debug for DataReturn<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "DataReturn({:#x} bytes at {:#x})", self.m.size, self.m.offset)
    }
}

impl DataReturn<'_> {
    /// First byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.m.offset
    }
    /// Bytes: whole pages, at most a cluster.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.m.size
    }
    /// Modified; else precious.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.m.flags & wire::DIRTY != 0
    }
    /// The first page-out of memory that the kernel made (E13).
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.m.flags & wire::INITIALIZE != 0
    }
    /// The data.
    ///
    /// # Errors
    /// The shared memory failed.
    pub fn read(&self) -> Result<Vec<u8>, Status> {
        let mut data = vec![0; self.m.size as usize];
        self.ring.read(self.m.place, &mut data).map_err(|_| Status::Error)?;
        Ok(data)
    }
}

/// A socket at which kernels are served.
#[derive(Debug)]
pub struct Server {
    socket: OwnedFd,
}

impl Server {
    /// Listens at `path`; what is there from an earlier server is replaced.
    ///
    /// # Errors
    /// It cannot be listened there.
    pub fn bind(path: &Path) -> io::Result<Server> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 16)?;
        Ok(Server { socket })
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// The socket failed.
    pub fn run<P: Pager>(self, pager: P) -> io::Result<()> {
        self.run_until(pager, || false)
    }

    /// Serves until `stop`, which is asked several times a second. Connections go on until
    /// their kernels end them.
    ///
    /// # Errors
    /// The socket failed.
    pub fn run_until<P: Pager>(self, pager: P, stop: impl Fn() -> bool) -> io::Result<()> {
        let pager = Arc::new(pager);
        while !stop() {
            wait(&[self.socket.as_fd()], false, Instant::now() + Duration::from_millis(100))?;
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    let pager = Arc::clone(&pager);
                    std::thread::Builder::new().name("pager".into()).spawn(move || serve(&*pager, socket))?;
                }
                Err(e) if [rustix::io::Errno::AGAIN, rustix::io::Errno::INTR].contains(&e) => {}
                Err(rustix::io::Errno::CONNABORTED) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// Serves one kernel until it hangs up or sends nonsense.
pub fn serve<P: Pager>(pager: &P, socket: OwnedFd) {
    let link = Link::new(socket);
    let Ok(Some(ring)) = welcome(pager, &link) else { return };
    let slots = Slots::new((ring.size() - ring.pagers()) / CLUSTER);
    let peer = Arc::new(Peer { link, ring, slots });
    let mut objects = HashMap::new();
    loop {
        let end = Instant::now() + Duration::from_hours(1);
        match peer.link.receive_until(end) {
            Ok(Received::Message(m)) if m.kind.from() == From::Kernel => {
                if dispatch(pager, &peer, &mut objects, &m).is_none() {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {}
            _ => break,
        }
    }
    peer.link.hang_up();
    objects.into_values().for_each(|o| pager.terminate(o));
}

fn welcome<P: Pager>(pager: &P, link: &Link) -> io::Result<Option<Ring>> {
    let end = Instant::now() + PATIENCE;
    let (Received::Message(m), Some(fd)) = link.receive_with(end)? else { return Ok(None) };
    if m.kind != Kind::Hello || m.object != MAGIC {
        return Ok(None);
    }
    let ours = Message { object: MAGIC, how: VERSION, ..Message::new(Kind::Welcome) };
    if m.how != VERSION || m.offset != PAGE_SIZE || m.extra > CLUSTER {
        link.send(&Message { status: Status::Unsupported as u32, ..ours }, end)?;
        return Ok(None);
    }
    let ring = Ring::shared(fd, m.size, m.place)?;
    link.send(&Message { extra: pager.instance(), ..ours }, end)?;
    Ok(Some(ring))
}

/// `None`: nonsense.
fn dispatch<P: Pager>(
    pager: &P,
    peer: &Arc<Peer>,
    objects: &mut HashMap<u64, P::Object>,
    m: &Message,
) -> Option<()> {
    let control = Control { peer: Arc::clone(peer), object: m.object };
    let reply = |m: &Message| peer.send(m).ok();
    match m.kind {
        Kind::Init => return init(pager, &control, objects, m),
        Kind::Create => {
            if let Some(object) = pager.create(m.size, &control) {
                objects.insert(m.object, object);
            }
            return Some(());
        }
        Kind::Terminate => {
            if let Some(object) = objects.remove(&m.object) {
                pager.terminate(object);
            }
            return Some(());
        }
        // Also of an object that is gone by now.
        Kind::SupplyCompleted => peer.slots.returned(m.object, m.offset),
        _ => {}
    }
    let Some(object) = objects.get(&m.object) else {
        let range = |kind| Message { offset: m.offset, size: m.size, ..m.answer(kind, Status::Unknown) };
        return match m.kind {
            Kind::DataRequest => reply(&range(Kind::DataError)),
            Kind::DataReturn => reply(&m.answer(Kind::ReturnCompleted, Status::Unknown)),
            Kind::Synchronize => reply(&m.answer(Kind::SynchronizeCompleted, Status::Unknown)),
            _ => Some(()),
        };
    };
    match m.kind {
        Kind::DataRequest if peer.ring.is_kernels(m.place, m.size) => {
            pager.data_request(object, DataRequest { control, asked: *m, answered: false });
        }
        Kind::DataReturn if peer.ring.is_kernels(m.place, m.size) => {
            let done = pager.data_return(object, &DataReturn { ring: &peer.ring, m });
            reply(&m.answer(Kind::ReturnCompleted, done.err().unwrap_or(Status::Success)))?;
        }
        Kind::DataUnlock => {
            let unlock = Unlock { offset: m.offset, size: m.size, access: rights(m.access) };
            pager.data_unlock(object, &unlock, &control);
        }
        Kind::Synchronize => {
            let done = pager.synchronize(object, m.offset, m.size);
            reply(&m.answer(Kind::SynchronizeCompleted, done.err().unwrap_or(Status::Success)))?;
        }
        _ => pager.told(object, told(m)?, &control),
    }
    Some(())
}

fn told(m: &Message) -> Option<Told> {
    Some(match m.kind {
        Kind::Copy => Told::Copied(m.offset, m.size),
        Kind::Map => Told::Mapped,
        Kind::LastUnmap => Told::LastUnmap,
        Kind::LockCompleted => Told::LockCompleted(m.id, m.status()),
        Kind::SupplyCompleted => Told::SupplyCompleted(m.id, m.status(), m.extra),
        Kind::ChangeCompleted => Told::ChangeCompleted(m.id, m.status()),
        Kind::Attributes => {
            let copy = strategy(m.how)?;
            let how = Attributes { may_cache: m.flags & wire::MAY_CACHE != 0, copy };
            Told::Attributes(m.id, m.status(), m.flags & wire::IS_READY != 0, how)
        }
        _ => return None,
    })
}

fn init<P: Pager>(
    pager: &P,
    control: &Control,
    objects: &mut HashMap<u64, P::Object>,
    m: &Message,
) -> Option<()> {
    let peer = &control.peer;
    if m.size == 0 || m.size > LONGEST_NAME as u64 || !peer.ring.is_kernels(m.place, m.size) {
        return None;
    }
    let mut name = vec![0; m.size as usize];
    peer.ring.read(m.place, &mut name).ok()?;
    if let Some(p) = pager.proxy(&name, control) {
        let (offset, size, access) = (p.offset, p.size, rights_number(p.rights));
        let proxy = m.answer(Kind::CreateProxy, Status::Success);
        return peer.send(&Message { offset, size, access, extra: p.object, ..proxy }).ok();
    }
    let answer = match pager.init(&name, control) {
        Ok((object, about)) => {
            objects.insert(m.object, object);
            Message {
                flags: if about.attributes.may_cache { wire::MAY_CACHE } else { 0 },
                size: about.size,
                access: rights_number(about.rights),
                how: strategy_number(about.attributes.copy),
                ..m.answer(Kind::Ready, Status::Success)
            }
        }
        Err(why) => m.answer(Kind::Refused, why),
    };
    peer.send(&answer).ok()
}

//! The threads of a connection, on the kernel's side.
//!
//! The *service* thread receives: it completes requests, and makes a new connection when one
//! ends. It waits for nothing else. What the pager itself calls is carried out by a second
//! thread, since that may wait for pages that the first one brings.

use std::io;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use machvm_hal::{
    Attributes, ControlError, ControlId, LockRequest, MaySleep, ObjectControl, Return, Supply, SupplyError,
};

use super::client::{Inner, Session, count, handshake, lock};
use super::convert::{pager_error, rights, strategy, strategy_number};
use super::link::{Received, wait};
use super::object::Object;
use super::wire::{self, From, Kind, Message, Status};

/// How long nothing is looked after when nothing happens.
const IDLE: Duration = Duration::from_secs(5);
/// The same, when somebody is just letting go.
const SOON: Duration = Duration::from_millis(20);
/// First and longest pause between two tries to reach a pager.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Messages received before objects are looked after.
const ROUND: usize = 256;
/// Calls of the pager that may wait to be carried out.
const CALLS: usize = 64;
/// The id of inits that nobody waits for but the service thread.
const AGAIN: u64 = u64::MAX;

/// A call of the pager.
pub(super) struct Call {
    session: Arc<Session>,
    object: Arc<Object>,
    message: Message,
}

/// What came is not the protocol.
struct Garbage;

/// The service thread.
pub(super) fn serve(inner: &Arc<Inner>) {
    // Sessions that ended: a thread that still uses one must not be the one that frees it.
    let mut old: Vec<Arc<Session>> = Vec::new();
    let mut pause = PAUSE.0;
    loop {
        let idle = if forget_unused(inner) { SOON } else { IDLE };
        old.retain(|s| Arc::strong_count(s) > 1);
        if !inner.has_handles() && lock(&inner.objects).is_empty() {
            break;
        }
        let now = Instant::now();
        if let Some(session) = inner.session() {
            let _ = wait(&[session.link.fd(), inner.wake_fd()], false, now + idle);
            drain(inner);
            if !receive(inner, &session) {
                session.link.hang_up();
                inner.lost();
                old.push(session);
                pause = PAUSE.0;
            }
        } else if !inner.options.reconnect {
            let _ = wait(&[inner.wake_fd()], false, now + idle);
            drain(inner);
        } else if let Ok(session) = connect_again(inner) {
            inner.found(Arc::new(session));
        } else {
            let _ = wait(&[inner.wake_fd()], false, now + pause);
            drain(inner);
            pause = (pause * 2).min(PAUSE.1);
        }
    }
    inner.close();
}

fn drain(inner: &Inner) {
    let mut count = [0; 8];
    // Empty: nobody woke us.
    let _ = rustix::io::read(inner.wake_fd(), &mut count[..]);
}

/// Takes leave of objects that nobody has but us. `true`: more will go soon.
fn forget_unused(inner: &Inner) -> bool {
    let (mut gone, mut soon) = (Vec::new(), false);
    lock(&inner.objects).retain(|o| {
        let used = Arc::strong_count(o) > 1;
        soon |= used && o.is_released();
        if !used {
            gone.push(Arc::clone(o));
        }
        used
    });
    for object in gone {
        inner.tell(&Message::about(Kind::Terminate, object.number()));
    }
    soon
}

/// `false`: the session is over.
fn receive(inner: &Arc<Inner>, session: &Arc<Session>) -> bool {
    for _ in 0..ROUND {
        let good = match session.link.receive() {
            Received::Nothing => return true,
            Received::End => return false,
            Received::Garbage(_) => Err(Garbage),
            Received::Message(m) => dispatch(inner, session, &m),
        };
        if good.is_err() {
            count(&inner.counters.garbage);
            return false;
        }
    }
    true
}

fn dispatch(inner: &Arc<Inner>, session: &Arc<Session>, m: &Message) -> Result<(), Garbage> {
    if m.kind.from() != From::Pager || m.kind == Kind::Welcome {
        return Err(Garbage);
    }
    match m.kind {
        Kind::DataSupply | Kind::DataUnavailable | Kind::DataError if m.id == 0 => {}
        Kind::LockRequest | Kind::ChangeAttributes | Kind::GetAttributes => {}
        Kind::Destroy => {
            let Some(object) = find(inner, m.object) else { return Ok(()) };
            object.die();
            inner.object_destroyed(m.object);
        }
        _ => {
            inner.answer(m);
            return Ok(());
        }
    }
    if m.kind == Kind::DataSupply && !session.ring.is_pagers(m.place, m.size) {
        return Err(Garbage);
    }
    let Some(object) = find(inner, m.object) else {
        count(&inner.counters.stray);
        refuse(session, m, Status::Invalid);
        return Ok(());
    };
    let call = Call { session: Arc::clone(session), object, message: *m };
    let status = match inner.calls.get().map(|calls| calls.try_send(call)) {
        Some(Ok(())) => return Ok(()),
        Some(Err(TrySendError::Full(_))) => Status::Busy,
        Some(Err(TrySendError::Disconnected(_))) | None => Status::Unsupported,
    };
    refuse(session, m, status);
    Ok(())
}

fn find(inner: &Inner, number: u64) -> Option<Arc<Object>> {
    lock(&inner.objects).iter().find(|o| o.number() == number).cloned()
}

/// Answers a call of the pager. One who does not read its answers is not waited for.
fn reply(session: &Session, m: &Message) {
    if session.link.send(m, Instant::now() + Duration::from_secs(1)).is_err() {
        session.link.hang_up();
    }
}

/// The completion of a call that was not carried out. Some have none.
fn refuse(session: &Session, m: &Message, status: Status) {
    let range = |kind| Message { offset: m.offset, size: m.size, ..m.answer(kind, status) };
    match m.kind {
        Kind::DataSupply => reply(session, &Message { extra: m.offset, ..range(Kind::SupplyCompleted) }),
        Kind::LockRequest => reply(session, &range(Kind::LockCompleted)),
        Kind::ChangeAttributes => reply(session, &m.answer(Kind::ChangeCompleted, status)),
        Kind::GetAttributes => reply(session, &m.answer(Kind::Attributes, status)),
        _ => {}
    }
}

/// A new session, in which the pager knows the objects that are in use.
fn connect_again(inner: &Arc<Inner>) -> io::Result<Session> {
    let session = handshake(&inner.path, inner.options.timeout)?;
    let objects: Vec<_> = lock(&inner.objects).iter().filter(|o| o.is_usable()).cloned().collect();
    for object in objects {
        let end = Instant::now() + inner.options.timeout;
        if object.name().is_empty() {
            session.link.send(&object.create_message(), end)?;
            continue;
        }
        // Nobody uses the slots yet.
        session.ring.write(0, object.name())?;
        session.link.send(&object.init_message(AGAIN, 0), end)?;
        loop {
            match session.link.receive_until(end)? {
                Received::Message(m) if m.id == AGAIN && m.object == object.number() => {
                    if m.kind != Kind::Ready || !object.take_attributes(&m) {
                        object.die();
                    }
                    break;
                }
                // What the pager calls before it is asked anything concerns nothing here.
                Received::Message(m) if m.kind.from() == From::Pager => {}
                Received::Nothing => {}
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
    Ok(session)
}

/// Starts the thread that carries out the pager's calls.
pub(super) fn start_calls(inner: &Arc<Inner>) -> io::Result<()> {
    let (calls, work) = sync_channel(CALLS);
    (inner.options.spawn)("machvm-emmi", Box::new(move || carry_out(&work)))?;
    let _ = inner.calls.set(calls);
    Ok(())
}

/// Until the connection is dropped, and with it the sending end.
fn carry_out(work: &Receiver<Call>) {
    while let Ok(call) = work.recv() {
        let Call { session, object, message } = call;
        perform(&session, &object, &message);
    }
}

fn perform(session: &Session, object: &Object, m: &Message) {
    let Some(kernel) = object.kernel().and_then(Weak::upgrade) else {
        return refuse(session, m, Status::Unsupported);
    };
    if m.kind == Kind::ChangeAttributes {
        let Some(copy) = strategy(m.how) else { return refuse(session, m, Status::Invalid) };
        object.set_attributes(Attributes { may_cache: m.flags & wire::MAY_CACHE != 0, copy });
    }
    let Some(control) = object.control() else { return unused(session, object, m) };
    let mut may = MaySleep::claim();
    match m.kind {
        Kind::LockRequest => {
            let status = lock_request(&*kernel, control, m, &mut may);
            refuse(session, m, status);
        }
        Kind::DataSupply => supply(session, &*kernel, control, m, &mut may),
        // These have no completion: what is wrong with them concerns nobody.
        Kind::DataUnavailable => {
            let _ = kernel.data_unavailable(control, m.offset, m.size, &mut may);
        }
        Kind::DataError => {
            let _ = kernel.data_error(control, m.offset, m.size, pager_error(m.status()), &mut may);
        }
        Kind::ChangeAttributes => {
            let done = kernel.change_attributes(control, object.attributes(), &mut may);
            let how = m.answer(Kind::ChangeCompleted, done.map_or_else(control_status, |()| Status::Success));
            reply(session, &Message { flags: m.flags, how: m.how, ..how });
        }
        Kind::GetAttributes => match kernel.get_attributes(control) {
            Ok((ready, how)) => attributes(session, m, ready, how),
            Err(e) => refuse(session, m, control_status(e)),
        },
        Kind::Destroy => {
            let _ = kernel.destroy(control, &mut may);
        }
        _ => {}
    }
}

/// The core has nothing of the object: there is nothing to do, or nowhere to put it.
fn unused(session: &Session, object: &Object, m: &Message) {
    match m.kind {
        Kind::LockRequest => refuse(session, m, Status::Success),
        Kind::GetAttributes => attributes(session, m, object.is_usable(), object.attributes()),
        Kind::ChangeAttributes => {
            let done = m.answer(Kind::ChangeCompleted, Status::Success);
            reply(session, &Message { flags: m.flags, how: m.how, ..done });
        }
        _ => refuse(session, m, Status::Gone),
    }
}

fn attributes(session: &Session, m: &Message, ready: bool, how: Attributes) {
    let flags = if ready { wire::IS_READY } else { 0 } | if how.may_cache { wire::MAY_CACHE } else { 0 };
    let strategy = strategy_number(how.copy);
    reply(session, &Message { flags, how: strategy, ..m.answer(Kind::Attributes, Status::Success) });
}

fn control_status(e: ControlError) -> Status {
    use machvm_hal::PagerError;
    match e {
        ControlError::Dead => Status::Gone,
        ControlError::Argument => Status::Invalid,
        ControlError::Pager(PagerError::Beyond) => Status::Beyond,
        ControlError::Pager(PagerError::Gone) => Status::Gone,
        ControlError::Pager(PagerError::Io) => Status::Error,
    }
}

fn lock_request(kernel: &dyn ObjectControl, control: ControlId, m: &Message, may: &mut MaySleep) -> Status {
    let ret = match m.how {
        0 => Return::None,
        1 => Return::Dirty,
        2 => Return::All,
        _ => return Status::Invalid,
    };
    let lock = (m.flags & wire::NO_CHANGE == 0).then(|| rights(m.access));
    let flush = m.flags & wire::FLUSH != 0;
    let request = LockRequest { offset: m.offset, bytes: m.size, ret, flush, lock };
    kernel.lock_request(control, &request, may).map_or_else(control_status, |()| Status::Success)
}

fn supply(
    session: &Session,
    kernel: &dyn ObjectControl,
    control: ControlId,
    m: &Message,
    may: &mut MaySleep,
) {
    let mut data = vec![0; m.size as usize];
    if session.ring.read(m.place, &mut data).is_err() {
        return refuse(session, m, Status::Error);
    }
    let how = if m.flags & wire::PRECIOUS != 0 { Supply::Precious } else { Supply::Clean };
    let done = kernel.data_supply(control, m.offset, &data, rights(m.access), how, may);
    let (status, extra) = match done {
        Ok(()) => (Status::Success, 0),
        Err(SupplyError::Dead) => (Status::Gone, m.offset),
        Err(SupplyError::Argument) => (Status::Invalid, m.offset),
        Err(SupplyError::Present(at)) => (Status::Present, at),
        Err(SupplyError::NoMemory(at)) => (Status::Full, at),
    };
    let done = m.answer(Kind::SupplyCompleted, status);
    reply(session, &Message { offset: m.offset, size: m.size, extra, ..done });
}

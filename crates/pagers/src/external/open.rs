//! Opening objects by name.

use std::sync::Arc;

use machvm_hal::Prot;

use super::client::{Client, lock};
use super::convert::rights;
use super::object::Object;
use super::wire::{Kind, LONGEST_NAME, Message, Status};

/// Why an object could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// The name is empty or too long.
    Name,
    /// The pager refused it, and why.
    Refused(Status),
    /// The pager answered nonsense.
    Nonsense,
    /// The pager did not answer in time.
    Timeout,
    /// There is no connection.
    Gone,
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            OpenError::Name => write!(f, "a name has 1 to {LONGEST_NAME} bytes"),
            OpenError::Refused(why) => write!(f, "the pager refused: {why}"),
            OpenError::Nonsense => f.write_str("the pager's answer makes no sense"),
            OpenError::Timeout => f.write_str("the pager did not answer in time"),
            OpenError::Gone => f.write_str("there is no connection to the pager"),
        }
    }
}
impl std::error::Error for OpenError {}

/// What a name stands for: an object, or a part of one (a proxy, E27).
#[derive(Clone, Debug)]
pub struct Opened {
    /// The object.
    pub object: Arc<Object>,
    /// The first byte that may be mapped.
    pub offset: u64,
    /// So many may be.
    pub size: u64,
    /// With these rights at most.
    pub rights: Prot,
}

impl Client {
    /// Opens the object of that name; waits until it is ready (E01, E02). One that is in use
    /// already is the same one.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, name: &[u8]) -> Result<Opened, OpenError> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(OpenError::Name);
        }
        let _one = self.inner.opening();
        let same = |o: &&Arc<Object>| o.name() == name && o.is_usable();
        if let Some(object) = lock(&self.inner.objects).iter().find(same) {
            return Ok(Opened::whole(Arc::clone(object)));
        }
        let object = Object::new(&self.inner, name);
        // Known before it is ready: what the pager says of it then is heard.
        lock(&self.inner.objects).push(Arc::clone(&object));
        let answer = object.start().and_then(|answer| self.opened(&object, &answer));
        if !answer.as_ref().is_ok_and(|o| Arc::ptr_eq(&o.object, &object)) {
            object.die();
            self.inner.wake_up();
        }
        answer
    }

    fn opened(&self, object: &Arc<Object>, answer: &Message) -> Result<Opened, OpenError> {
        match answer.kind {
            Kind::Ready if object.take_attributes(answer) => Ok(Opened::whole(Arc::clone(object))),
            Kind::Refused => Err(OpenError::Refused(answer.status())),
            Kind::CreateProxy => {
                let target = |o: &&Arc<Object>| o.number() == answer.extra && o.is_usable();
                let object = lock(&self.inner.objects).iter().find(target).cloned();
                let object = object.ok_or(OpenError::Nonsense)?;
                let whole = Opened::whole(object);
                let end = answer.offset.checked_add(answer.size);
                if end.is_none_or(|end| end > whole.size) {
                    return Err(OpenError::Nonsense);
                }
                let rights = rights(answer.access).intersection(whole.rights);
                Ok(Opened { offset: answer.offset, size: answer.size, rights, ..whole })
            }
            _ => Err(OpenError::Nonsense),
        }
    }

    /// Has the pager keep memory that the kernel made, of `size` bytes (E22
    /// `memory_object_create`). It is ready at once.
    ///
    /// # Errors
    /// [`OpenError::Gone`]: there is no connection.
    pub fn create(&self, size: u64) -> Result<Arc<Object>, OpenError> {
        if !self.is_connected() {
            return Err(OpenError::Gone);
        }
        let object = Object::new(&self.inner, &[]);
        object.is_kernels(size);
        lock(&self.inner.objects).push(Arc::clone(&object));
        self.inner.tell(&object.create_message());
        Ok(object)
    }
}

impl Opened {
    fn whole(object: Arc<Object>) -> Opened {
        let (size, rights) = (object.size(), object.rights());
        Opened { object, offset: 0, size, rights }
    }
}

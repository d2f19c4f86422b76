//! Objects on an engine: memory that outlives runs, and machines.
//!
//! One host at a time writes an object, others read snapshots of it. What is written is
//! seen when it is *committed*, all of it at once: a commit writes changed clusters under new
//! keys, then leaves that name them, then replaces the head by compare and swap. So after a
//! crash at any moment the object is as of the last commit, and who lost his lease can
//! neither change nor spoil anything: nothing that he wrote since is named anywhere.

mod delete;
mod head;
mod lease;
mod pager;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, mem};

use tokio::task::JoinHandle;

use super::cluster::MOST_PAGES;
use super::engine::{Engine, EngineError};
use super::seal::Key;
use crate::tier::PAGE;
use head::{Entry, Head, LEAF, Name, Orphans, check_name};
use lease::Lease;
pub use pager::RemotePager;
use store::Store;

/// Why an object could not be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ObjectError {
    /// There is none of that name; or no such snapshot.
    Unknown(String),
    /// There is one of that name.
    Exists(String),
    /// Not what a name may be: letters, digits, `-`, `_` and `.`, at most 100.
    BadName(String),
    /// Somebody else may write it.
    Held {
        /// Who.
        who: String,
        /// How long his lease is good from when he last renewed it.
        length: Duration,
    },
    /// Somebody else has taken the lease: what was not committed is lost.
    LeaseLost {
        /// Ours.
        epoch: u32,
        /// The one after it that was seen.
        now: u32,
    },
    /// It is a snapshot.
    ReadOnly,
    /// Beyond its end; or a size that is none.
    Beyond(u64),
    /// What is there is not what was stored, or was sealed with another key.
    Damaged(String),
    /// The server's.
    Engine(EngineError),
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectError::Unknown(name) => write!(f, "there is no {name:?}"),
            ObjectError::Exists(name) => write!(f, "there is a {name:?} already"),
            ObjectError::BadName(name) => {
                write!(f, "{name:?} is no name: use 1 to 100 letters, digits, '-', '_' and '.'")
            }
            ObjectError::Held { who, length } => {
                write!(f, "{who} may write it, and is given up {length:?} after the last sign of life")
            }
            ObjectError::LeaseLost { epoch, now } => {
                write!(
                    f,
                    "somebody else may write it now (epoch {now} after {epoch}); what was not committed is lost"
                )
            }
            ObjectError::ReadOnly => f.write_str("it is a snapshot"),
            ObjectError::Beyond(at) => write!(f, "byte {at} is beyond its end"),
            ObjectError::Damaged(what) => write!(f, "{what} is damaged, or sealed with another key"),
            ObjectError::Engine(e) => write!(f, "{e}"),
        }
    }
}
impl std::error::Error for ObjectError {}

impl From<EngineError> for ObjectError {
    fn from(e: EngineError) -> Self {
        ObjectError::Engine(e)
    }
}

/// How an object is used.
#[derive(Clone)]
pub struct ObjectOptions {
    /// The key that everything is sealed with; all who use the object have the same. `None`:
    /// nothing is encrypted, and a checksum finds accidents only.
    pub key: Option<[u8; 32]>,
    /// Pages of a cluster, 1 to 64, of an object that is made.
    pub cluster: u32,
    /// How long the lease is good without being renewed, of whoever writes.
    pub lease: Duration,
    /// How long to wait for somebody else's lease.
    pub wait: Duration,
    /// Bytes that wait to be written, at most, before a write waits for them.
    pub dirty: usize,
    /// Bytes of compressed clusters that are kept to be read again.
    pub cache: usize,
}

impl Default for ObjectOptions {
    fn default() -> Self {
        let (lease, wait) = (Duration::from_secs(15), Duration::from_secs(60));
        ObjectOptions { key: None, cluster: 16, lease, wait, dirty: 16 << 20, cache: 16 << 20 }
    }
}

impl fmt::Debug for ObjectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectOptions({} pages, sealed: {})", self.cluster, self.key.is_some())
    }
}

/// The largest object: 1 TiB.
const LARGEST: u64 = 1 << 40;

/// An object, or a snapshot of one, in use.
pub struct RemoteObject {
    shared: Arc<Shared>,
    renewer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    engine: Arc<Engine>,
    name: String,
    /// Derived, of this object alone.
    key: Option<Key>,
    size: u64,
    options: ObjectOptions,
    store: tokio::sync::Mutex<Store>,
    /// Of who writes.
    lease: Option<tokio::sync::Mutex<Lease>>,
    lost: Mutex<Option<ObjectError>>,
    /// Objects written, read and deleted, and clusters that wait.
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    writes: AtomicU64,
    reads: AtomicU64,
    commits: AtomicU64,
    dirty: AtomicUsize,
}

/// Figures of an object.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ObjectStats {
    /// Clusters and leaves written.
    pub writes: u64,
    /// Clusters and leaves read.
    pub reads: u64,
    /// Heads replaced.
    pub commits: u64,
    /// Bytes that wait to be written.
    pub dirty: u64,
}

fn base(name: &str) -> String {
    format!("objects/{name}")
}

fn derived(options: &ObjectOptions, salt: &[u8; 12]) -> Result<Option<Key>, ObjectError> {
    let Some(bytes) = options.key else { return Ok(None) };
    let key = Key::from(bytes).derive(salt);
    key.map(Some).ok_or_else(|| ObjectError::Damaged("the key".into()))
}

impl fmt::Debug for RemoteObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteObject({:?}, {} bytes)", self.shared.name, self.shared.size)
    }
}

impl RemoteObject {
    /// Makes an object of `size` bytes, whole pages, all zero.
    ///
    /// # Errors
    /// [`ObjectError::Exists`], [`ObjectError::BadName`], [`ObjectError::Beyond`]: no whole
    /// pages, or more than 1 TiB; the server's.
    pub fn create(
        engine: &Engine,
        name: &str,
        size: u64,
        options: &ObjectOptions,
    ) -> Result<(), ObjectError> {
        check_name(name)?;
        let right = size != 0 && size <= LARGEST && size.is_multiple_of(PAGE as u64);
        if !right || !(1..=MOST_PAGES as u32).contains(&options.cluster) {
            return Err(ObjectError::Beyond(size));
        }
        let mut salt = [0; 12];
        getrandom::fill(&mut salt).map_err(|e| EngineError::Refused(e.to_string()))?;
        let mut head = Head {
            salt,
            name: Name { epoch: 0, number: 1 },
            generation: 1,
            size,
            cluster: options.cluster,
            deleted: false,
            leaves: Vec::new(),
            dead: Vec::new(),
            orphans: Vec::new(),
            snapshots: Vec::new(),
        };
        head.leaves = vec![Entry::default(); head.clusters().div_ceil(LEAF as u64) as usize];
        let key = derived(options, &salt)?;
        let blob = head.emit(key.as_ref()).ok_or_else(|| ObjectError::Damaged("the key".into()))?;
        match engine.wait(engine.replace(&format!("{}/head", base(name)), None, blob)) {
            Ok(_) => Ok(()),
            Err(EngineError::Changed) => Err(ObjectError::Exists(name.to_owned())),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens it to write, when nobody else does any more.
    ///
    /// # Errors
    /// [`ObjectError::Unknown`], [`ObjectError::Held`], [`ObjectError::Damaged`]; the server's.
    pub fn open(
        engine: &Arc<Engine>,
        name: &str,
        options: ObjectOptions,
    ) -> Result<RemoteObject, ObjectError> {
        engine.wait(RemoteObject::open_as(engine, name, options, false))
    }

    async fn open_as(
        engine: &Arc<Engine>,
        name: &str,
        options: ObjectOptions,
        deleted: bool,
    ) -> Result<RemoteObject, ObjectError> {
        check_name(name)?;
        let head_key = format!("{}/head", base(name));
        let unknown = || ObjectError::Unknown(name.to_owned());
        // Nobody's lease is taken for what is not there.
        engine.load(&head_key).await?.ok_or_else(unknown)?;
        let lease_key = format!("{}/lease", base(name));
        let (mut lease, before) = Lease::take(engine, lease_key, options.lease, options.wait).await?;
        let epoch = lease.terms.epoch;
        // Ours from the first compare and swap on: whoever had it before cannot commit.
        let opened = async {
            loop {
                let found = engine.load(&head_key).await?.ok_or_else(unknown)?;
                let salt = Head::salt(&found.bytes).ok_or_else(|| ObjectError::Damaged("its head".into()))?;
                let key = derived(&options, &salt)?;
                let head = Head::parse(key.as_ref(), &found.bytes);
                let mut head = head.ok_or_else(|| ObjectError::Damaged("its head".into()))?;
                if head.deleted && !deleted {
                    return Err(unknown());
                }
                if let Some(before) = &before {
                    let from = if head.name.epoch == before.epoch { head.name.number + 1 } else { 1 };
                    if from < before.numbers {
                        head.orphans.push(Orphans { epoch: before.epoch, from, to: before.numbers });
                    }
                }
                head.name = Name { epoch, number: 1 };
                let blob = head.emit(key.as_ref()).ok_or_else(|| ObjectError::Damaged("its key".into()))?;
                match engine.replace(&head_key, Some(&found), blob).await {
                    Ok(tagged) => return Ok((Store::new(head, Some(tagged)), key)),
                    Err(EngineError::Changed) => lease.renew(engine, 0).await?,
                    Err(e) => return Err(e.into()),
                }
            }
        };
        match opened.await {
            Ok((store, key)) => {
                let object = RemoteObject::with(engine, name, options, (store, key), Some(lease));
                object.start_renewing();
                Ok(object)
            }
            Err(e) => {
                let _ = lease.release(engine).await;
                Err(e)
            }
        }
    }

    fn with(
        engine: &Arc<Engine>,
        name: &str,
        options: ObjectOptions,
        (store, key): (Store, Option<Key>),
        lease: Option<Lease>,
    ) -> RemoteObject {
        let shared = Arc::new(Shared {
            engine: Arc::clone(engine),
            name: name.to_owned(),
            key,
            size: store.head.size,
            options,
            store: tokio::sync::Mutex::new(store),
            lease: lease.map(tokio::sync::Mutex::new),
            lost: Mutex::default(),
            counts: Counts::default(),
        });
        RemoteObject { shared, renewer: Mutex::default() }
    }

    fn start_renewing(&self) {
        let (weak, pause) = (Arc::downgrade(&self.shared), self.shared.options.lease / 3);
        let renew = async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(shared) = weak.upgrade() else { return };
                let Some(lease) = &shared.lease else { return };
                // Without an answer it is ours still, as far as we know: the next attempt, or
                // the next commit, tells.
                if let Err(e @ ObjectError::LeaseLost { .. }) =
                    lease.lock().await.renew(&shared.engine, 0).await
                {
                    shared.lose(e);
                    return;
                }
            }
        };
        let task = self.shared.engine.handle().spawn(renew);
        *self.renewer.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.shared.size
    }
    /// The figures of the moment.
    pub fn stats(&self) -> ObjectStats {
        let c = &self.shared.counts;
        ObjectStats {
            writes: c.writes.load(Relaxed),
            reads: c.reads.load(Relaxed),
            commits: c.commits.load(Relaxed),
            dirty: c.dirty.load(Relaxed) as u64,
        }
    }
    /// Reads bytes, also those that are not committed yet.
    ///
    /// # Errors
    /// [`ObjectError::Beyond`], [`ObjectError::LeaseLost`], [`ObjectError::Damaged`]; the
    /// server's.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), ObjectError> {
        self.shared.engine.wait(self.shared.read(at, to))
    }
    /// Writes bytes. They are seen by others, and are there after a crash, when they were
    /// committed.
    ///
    /// # Errors
    /// As [`RemoteObject::read`]; [`ObjectError::ReadOnly`]. Some may have been written.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), ObjectError> {
        self.shared.engine.wait(self.shared.write(at, from))
    }
    /// Makes what was written the object's contents, all of it at once.
    ///
    /// # Errors
    /// [`ObjectError::LeaseLost`]: it never will be. The server's: it is kept, and may be
    /// tried again.
    pub fn commit(&self) -> Result<(), ObjectError> {
        self.shared.engine.wait(self.shared.commit())
    }
    /// Commits, and gives the lease up.
    ///
    /// # Errors
    /// As [`RemoteObject::commit`].
    pub fn close(self) -> Result<(), ObjectError> {
        self.commit()
    }
}

impl Drop for RemoteObject {
    /// Gives the lease up; what was not committed is lost.
    fn drop(&mut self) {
        let renewer = mem::take(&mut *self.renewer.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(renewer) = renewer else { return };
        renewer.abort();
        let shared = &self.shared;
        shared.engine.wait(async {
            let _ = renewer.await;
            shared.tidy().await;
            if let (None, Some(lease)) = (shared.lost(), &shared.lease) {
                let _ = lease.lock().await.release(&shared.engine).await;
            }
        });
    }
}

impl Shared {
    fn lose(&self, e: ObjectError) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
    }
    fn lost(&self) -> Option<ObjectError> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// # Errors
    /// The lease is lost.
    fn alive(&self) -> Result<(), ObjectError> {
        self.lost().map_or(Ok(()), Err)
    }
    fn key_of(&self, name: Name) -> String {
        format!("{}/d/{:x}-{:x}", base(&self.name), name.epoch, name.number)
    }
}

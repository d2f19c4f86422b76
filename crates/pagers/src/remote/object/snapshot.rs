//! Snapshots: an object as it was, for any number of readers on any hosts.
//!
//! A snapshot is a copy of a head. Clusters and leaves that it names stay until it is
//! dropped: a commit does not delete what was there when one was made.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::super::engine::{Engine, EngineError};
use super::head::{Head, LEAF, Name, check_name};
use super::store::Store;
use super::{ObjectError, ObjectOptions, RemoteObject, Shared, base, derived};

fn key(object: &str, snapshot: &str) -> String {
    format!("{}/s/{snapshot}", base(object))
}

/// Reads a head.
async fn load(engine: &Engine, options: &ObjectOptions, key: &str) -> Result<Option<Head>, ObjectError> {
    let bytes = match engine.read(key).await {
        Ok(bytes) => bytes,
        Err(EngineError::Missing) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let damaged = || ObjectError::Damaged(format!("the head {key}"));
    let salt = Head::salt(&bytes).ok_or_else(damaged)?;
    Head::parse(derived(options, &salt)?.as_ref(), &bytes).map(Some).ok_or_else(damaged)
}

impl RemoteObject {
    /// The snapshots of an object.
    ///
    /// # Errors
    /// [`ObjectError::Unknown`], [`ObjectError::Damaged`]; the server's.
    pub fn snapshots(
        engine: &Engine,
        name: &str,
        options: &ObjectOptions,
    ) -> Result<Vec<String>, ObjectError> {
        check_name(name)?;
        let head = engine.wait(load(engine, options, &format!("{}/head", base(name))))?;
        let head = head.filter(|h| !h.deleted).ok_or_else(|| ObjectError::Unknown(name.to_owned()))?;
        Ok(head.snapshots.into_iter().map(|(name, _)| name).collect())
    }

    /// Opens a snapshot, to be read.
    ///
    /// # Errors
    /// As [`RemoteObject::snapshots`].
    pub fn open_snapshot(
        engine: &Arc<Engine>,
        name: &str,
        snapshot: &str,
        options: ObjectOptions,
    ) -> Result<RemoteObject, ObjectError> {
        check_name(name)?;
        check_name(snapshot)?;
        let unknown = || ObjectError::Unknown(format!("{name}/{snapshot}"));
        engine.wait(async {
            let now = load(engine, &options, &format!("{}/head", base(name))).await?;
            let now = now.filter(|h| !h.deleted).ok_or_else(|| ObjectError::Unknown(name.to_owned()))?;
            let head = load(engine, &options, &key(name, snapshot)).await?.ok_or_else(unknown)?;
            // One whose maker died before it was an object's.
            let known = now.snapshots.iter().any(|(n, g)| n == snapshot && *g == head.generation);
            if !known || head.salt != now.salt {
                return Err(unknown());
            }
            let derived = derived(&options, &head.salt)?;
            Ok(RemoteObject::with(engine, name, options, (Store::new(head, None), derived), None))
        })
    }

    /// Commits, and keeps the object as it is then under a name.
    ///
    /// # Errors
    /// As [`RemoteObject::commit`]; [`ObjectError::Exists`].
    pub fn snapshot(&self, name: &str) -> Result<(), ObjectError> {
        check_name(name)?;
        self.shared.engine.wait(self.shared.snapshot(name))
    }

    /// Drops a snapshot, and what only it needs. Who reads it gets errors.
    ///
    /// # Errors
    /// As [`RemoteObject::commit`]; [`ObjectError::Unknown`].
    pub fn drop_snapshot(&self, name: &str) -> Result<(), ObjectError> {
        check_name(name)?;
        self.shared.engine.wait(self.shared.drop_snapshot(name))
    }
}

impl Shared {
    async fn snapshot(&self, name: &str) -> Result<(), ObjectError> {
        let mut store = self.store.lock().await;
        self.commit_with(&mut store, |_| {}).await?;
        if store.head.snapshots.iter().any(|(n, _)| n == name) {
            return Err(ObjectError::Exists(name.to_owned()));
        }
        // Its copy comes first; it counts when the head lists it.
        let generation = store.head.generation;
        let blob =
            store.head.emit(self.key.as_ref()).ok_or_else(|| ObjectError::Damaged("the key".into()))?;
        self.engine.write(&key(&self.name, name), blob).await?;
        self.commit_with(&mut store, |head| head.snapshots.push((name.to_owned(), generation))).await
    }

    async fn drop_snapshot(&self, name: &str) -> Result<(), ObjectError> {
        let mut store = self.store.lock().await;
        self.commit_with(&mut store, |_| {}).await?;
        let unknown = || ObjectError::Unknown(format!("{}/{name}", self.name));
        if !store.head.snapshots.iter().any(|(n, _)| n == name) {
            return Err(unknown());
        }
        let gone = load(&self.engine, &self.options, &key(&self.name, name)).await?.ok_or_else(unknown)?;
        let mut needed = self.names(&store.head).await?;
        for (other, _) in store.head.snapshots.iter().filter(|(n, _)| n != name) {
            if let Some(head) = load(&self.engine, &self.options, &key(&self.name, other)).await? {
                needed.extend(self.names(&head).await?);
            }
        }
        let free: Vec<Name> = self.names(&gone).await?.into_iter().filter(|n| !needed.contains(n)).collect();
        self.commit_with(&mut store, |head| {
            head.snapshots.retain(|(n, _)| n != name);
            head.dead.extend(free);
        })
        .await?;
        Ok(self.engine.delete(&[key(&self.name, name)]).await?)
    }

    /// Everything that a head names.
    pub(super) async fn names(&self, head: &Head) -> Result<HashSet<Name>, ObjectError> {
        let leaves: BTreeSet<(u32, u64)> =
            head.leaves.iter().filter(|l| !l.name.is_none()).map(|l| (l.name.epoch, l.name.number)).collect();
        let mut all = HashSet::with_capacity(leaves.len() * (LEAF + 1));
        for (epoch, number) in leaves {
            let name = Name { epoch, number };
            all.insert(name);
            let entries = self.read_leaf(name).await?;
            all.extend(entries.iter().map(|e| e.name).filter(|n| !n.is_none()));
        }
        Ok(all)
    }

    /// The heads of all snapshots.
    pub(super) async fn snapshot_heads(
        &self,
        head: &Head,
    ) -> Result<Vec<(String, Option<Head>)>, ObjectError> {
        let mut all = Vec::new();
        for (name, _) in &head.snapshots {
            let key = key(&self.name, name);
            all.push((key.clone(), load(&self.engine, &self.options, &key).await?));
        }
        Ok(all)
    }
}

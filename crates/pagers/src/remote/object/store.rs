//! Clusters and leaves of an object that is open.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::super::cas::Tagged;
use super::super::cluster::{pack, unpack};
use super::super::engine::EngineError;
use super::super::seal;
use super::head::{Entry, Head, LEAF, Name, emit_leaf, parse_leaf};
use super::{ObjectError, Shared};
use crate::tier::PAGE;

/// Clusters that are written at a time.
const WRITES: usize = 8;
/// How often something is looked up that was replaced while it was read, and how often what
/// does not open is read again: it may have been damaged on its way.
const ATTEMPTS: u32 = 4;

/// What is known of the object.
pub(super) struct Store {
    /// As it was committed.
    pub(super) head: Head,
    /// The same, for the next compare and swap.
    tagged: Option<Tagged>,
    /// Heads of which it is not known whether they replaced that one.
    unsure: Vec<Vec<u8>>,
    /// As they will be committed; `None`: as the head says, and not read yet.
    leaves: Vec<Option<Box<[Entry; LEAF]>>>,
    changed: BTreeSet<usize>,
    /// Clusters that are not on the server, whole.
    dirty: BTreeMap<u64, Vec<u8>>,
    /// The next number of this epoch.
    next: u64,
    /// What was committed and will not be any more.
    superseded: Vec<Entry>,
    /// What was written and never committed.
    garbage: Vec<Name>,
    /// `head.dead` and `head.orphans` are gone, though the head on the server names them.
    tidied: bool,
    /// Opened clusters, still compressed.
    cache: HashMap<Name, Arc<Vec<u8>>>,
    cached: VecDeque<Name>,
    cache_bytes: usize,
}

impl Store {
    pub(super) fn new(head: Head, tagged: Option<Tagged>) -> Store {
        Store {
            leaves: (0..head.leaves.len()).map(|_| None).collect(),
            next: head.name.number + 1,
            head,
            tagged,
            unsure: Vec::new(),
            changed: BTreeSet::new(),
            dirty: BTreeMap::new(),
            superseded: Vec::new(),
            garbage: Vec::new(),
            tidied: false,
            cache: HashMap::new(),
            cached: VecDeque::new(),
            cache_bytes: 0,
        }
    }
    fn keep(&mut self, name: Name, body: Arc<Vec<u8>>, most: usize) {
        self.cache_bytes += body.len();
        if self.cache.insert(name, body).is_none() {
            self.cached.push_back(name);
        }
        while self.cache_bytes > most
            && let Some(old) = self.cached.pop_front()
        {
            self.cache_bytes -= self.cache.remove(&old).map_or(0, |b| b.len());
        }
    }
}

fn damaged(what: &str, at: u64) -> ObjectError {
    ObjectError::Damaged(format!("{what} {at}"))
}

impl Shared {
    fn cluster_bytes(&self, store: &Store) -> u64 {
        u64::from(store.head.cluster) * PAGE as u64
    }

    /// The next number, noted.
    async fn number(&self, store: &mut Store) -> Result<Name, ObjectError> {
        let Some(lease) = &self.lease else { return Err(ObjectError::ReadOnly) };
        let mut lease = lease.lock().await;
        if store.next >= lease.terms.numbers {
            let renewed = lease.renew(&self.engine, store.next + 1).await;
            renewed.inspect_err(|e| self.note(e))?;
        }
        let name = Name { epoch: lease.terms.epoch, number: store.next };
        store.next += 1;
        Ok(name)
    }
    fn note(&self, e: &ObjectError) {
        if matches!(e, ObjectError::LeaseLost { .. }) {
            self.lose(e.clone());
        }
    }

    /// Reads what is under a name until it opens.
    async fn fetch<T>(
        &self,
        name: Name,
        open: impl Fn(&mut Vec<u8>) -> Option<T>,
    ) -> Result<Option<T>, EngineError> {
        for _ in 0..ATTEMPTS {
            self.counts.reads.fetch_add(1, Relaxed);
            let mut blob = self.engine.read(&self.key_of(name)).await?;
            if let Some(opened) = open(&mut blob) {
                return Ok(Some(opened));
            }
        }
        Ok(None)
    }

    /// The entries of a leaf.
    pub(super) async fn leaf<'a>(
        &self,
        store: &'a mut Store,
        i: usize,
    ) -> Result<&'a mut Box<[Entry; LEAF]>, ObjectError> {
        if store.leaves[i].is_none() {
            let leaf = self.read_leaf(store.head.leaves[i].name).await?;
            store.leaves[i] = Some(leaf);
        }
        store.leaves[i].as_mut().ok_or_else(|| damaged("leaf", i as u64))
    }
    pub(super) async fn read_leaf(&self, name: Name) -> Result<Box<[Entry; LEAF]>, ObjectError> {
        if name.is_none() {
            return Ok(Box::new([Entry::default(); LEAF]));
        }
        let key = self.key.as_ref();
        let got = self.fetch(name, |blob| parse_leaf(key, name, blob)).await;
        match got {
            Ok(Some(leaf)) => Ok(leaf),
            Ok(None) | Err(EngineError::Missing) => Err(damaged("leaf", name.number)),
            Err(e) => Err(e.into()),
        }
    }

    /// Copies a cluster to `to`, which is as large.
    async fn cluster(&self, index: u64, to: &mut [u8]) -> Result<(), ObjectError> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let (name, body) = {
                let mut store = self.store.lock().await;
                if let Some(data) = store.dirty.get(&index) {
                    to.copy_from_slice(data);
                    return Ok(());
                }
                let name = self.leaf(&mut store, index as usize / LEAF).await?[index as usize % LEAF].name;
                (name, store.cache.get(&name).cloned())
            };
            to.fill(0);
            if name.is_none() {
                return Ok(());
            }
            if last == Some(name) {
                break;
            }
            let body = match body {
                Some(body) => body,
                None => {
                    let key = self.key.as_ref();
                    let open = |blob: &mut Vec<u8>| {
                        seal::open(key, name.nonce(), &index.to_le_bytes(), blob).map(<[u8]>::to_vec)
                    };
                    match self.fetch(name, open).await {
                        Ok(Some(body)) => Arc::new(body),
                        // Perhaps it was replaced just now.
                        Err(EngineError::Missing) => {
                            last = Some(name);
                            continue;
                        }
                        Ok(None) => break,
                        Err(e) => return Err(e.into()),
                    }
                }
            };
            let whole = unpack(&body, to.len() / PAGE, |k, page| {
                to[k * PAGE..(k + 1) * PAGE].copy_from_slice(page);
            });
            if !whole {
                break;
            }
            self.store.lock().await.keep(name, body, self.options.cache);
            return Ok(());
        }
        Err(damaged("cluster", index))
    }

    fn check(&self, at: u64, len: usize) -> Result<(), ObjectError> {
        self.alive()?;
        let end = at.checked_add(len as u64).filter(|end| *end <= self.size);
        end.map(|_| ()).ok_or(ObjectError::Beyond(at))
    }

    pub(super) async fn read(&self, at: u64, to: &mut [u8]) -> Result<(), ObjectError> {
        self.check(at, to.len())?;
        let bytes = self.cluster_bytes(&*self.store.lock().await);
        let (mut at, mut to) = (at, to);
        let mut cluster = vec![0; bytes as usize];
        while !to.is_empty() {
            let (index, from) = (at / bytes, (at % bytes) as usize);
            let n = (cluster.len() - from).min(to.len());
            self.cluster(index, &mut cluster).await?;
            let (now, rest) = to.split_at_mut(n);
            now.copy_from_slice(&cluster[from..from + n]);
            (at, to) = (at + n as u64, rest);
        }
        Ok(())
    }

    pub(super) async fn write(&self, at: u64, from: &[u8]) -> Result<(), ObjectError> {
        self.check(at, from.len())?;
        if self.lease.is_none() {
            return Err(ObjectError::ReadOnly);
        }
        let bytes = self.cluster_bytes(&*self.store.lock().await);
        let (mut at, mut from) = (at, from);
        while !from.is_empty() {
            let (index, to) = (at / bytes, (at % bytes) as usize);
            let n = (bytes as usize - to).min(from.len());
            let mut fresh = vec![0; bytes as usize];
            let known = self.store.lock().await.dirty.contains_key(&index);
            if !known && n != fresh.len() {
                self.cluster(index, &mut fresh).await?;
            }
            let mut store = self.store.lock().await;
            let full = store.dirty.len() as u64 * bytes >= self.options.dirty as u64;
            if full && !store.dirty.contains_key(&index) {
                self.flush(&mut store).await?;
            }
            if known && !store.dirty.contains_key(&index) {
                continue; // it went with the others meanwhile, and must be read again
            }
            // What is there now: it may have been written since it was read above.
            store.dirty.entry(index).or_insert(fresh)[to..to + n].copy_from_slice(&from[..n]);
            self.counts.dirty.store(store.dirty.len() * bytes as usize, Relaxed);
            (at, from) = (at + n as u64, &from[n..]);
        }
        Ok(())
    }

    /// Writes what is dirty to the server; it is not committed.
    async fn flush(&self, store: &mut Store) -> Result<(), ObjectError> {
        let n = store.head.cluster as usize;
        while !store.dirty.is_empty() {
            self.alive()?;
            let some: Vec<u64> = store.dirty.keys().copied().take(WRITES).collect();
            let mut writes = tokio::task::JoinSet::new();
            for index in some {
                let data = &store.dirty[&index];
                if data.iter().all(|b| *b == 0) {
                    self.put(store, index, Name::default()).await?;
                    continue;
                }
                let mut blob = pack(n, |k, page| {
                    page.copy_from_slice(&data[k * PAGE..(k + 1) * PAGE]);
                    page.iter().any(|b| *b != 0)
                });
                let name = self.number(store).await?;
                if !seal::seal(self.key.as_ref(), name.nonce(), &index.to_le_bytes(), &mut blob) {
                    return Err(damaged("the key of cluster", index));
                }
                let (engine, key) = (Arc::clone(&self.engine), self.key_of(name));
                // It counts as garbage until it is known to be in its place.
                store.garbage.push(name);
                writes.spawn(async move { (index, name, engine.write(&key, blob).await) });
            }
            let mut failed = None;
            while let Some(done) = writes.join_next().await {
                match done {
                    Ok((index, name, Ok(()))) => {
                        self.counts.writes.fetch_add(1, Relaxed);
                        self.put(store, index, name).await?;
                    }
                    Ok((_, _, Err(e))) => failed = Some(e),
                    Err(e) => failed = Some(EngineError::Away(e.to_string())),
                }
            }
            if let Some(e) = failed {
                return Err(e.into());
            }
        }
        Ok(())
    }

    /// The cluster is under this name from now on.
    async fn put(&self, store: &mut Store, index: u64, name: Name) -> Result<(), ObjectError> {
        let born = store.head.generation + 1;
        let leaf = self.leaf(store, index as usize / LEAF).await?;
        let old = std::mem::replace(&mut leaf[index as usize % LEAF], Entry { name, born });
        store.dirty.remove(&index);
        store.garbage.retain(|g| *g != name);
        store.changed.insert(index as usize / LEAF);
        if old.born == born && !old.name.is_none() {
            store.garbage.push(old.name);
        } else if !old.name.is_none() {
            store.superseded.push(old);
        }
        Ok(())
    }

    pub(super) async fn commit(&self) -> Result<(), ObjectError> {
        let mut store = self.store.lock().await;
        self.commit_with(&mut store, |_| {}).await
    }

    /// Commits, with a change of the head; without any change nothing is done.
    pub(super) async fn commit_with(
        &self,
        store: &mut Store,
        change: impl FnOnce(&mut Head),
    ) -> Result<(), ObjectError> {
        self.alive()?;
        if self.lease.is_none() {
            return Err(ObjectError::ReadOnly);
        }
        self.flush(store).await?;
        self.counts.dirty.store(0, Relaxed);
        let mut next = store.head.clone();
        next.generation += 1;
        let (born, mut old_leaves) = (next.generation, Vec::new());
        for i in store.changed.clone() {
            let name = self.number(store).await?;
            // Garbage unless the head comes to name it.
            store.garbage.push(name);
            let Some(entries) = &store.leaves[i] else { continue };
            let blob = emit_leaf(self.key.as_ref(), name, entries);
            let blob = blob.ok_or_else(|| damaged("the key of leaf", i as u64))?;
            self.engine.write(&self.key_of(name), blob).await?;
            self.counts.writes.fetch_add(1, Relaxed);
            old_leaves.push(std::mem::replace(&mut next.leaves[i], Entry { name, born }));
        }
        change(&mut next);
        let same = Head { generation: store.head.generation, ..next.clone() } == store.head;
        if same && store.garbage.is_empty() {
            return Ok(());
        }
        next.name = self.number(store).await?;
        if store.tidied {
            next.dead.clear();
            next.orphans.clear();
        }
        let pinned = |e: &Entry| next.snapshots.iter().any(|(_, s)| (e.born..born).contains(s));
        let gone = store.superseded.iter().chain(&old_leaves);
        let gone: Vec<Name> = gone.filter(|e| !e.name.is_none() && !pinned(e)).map(|e| e.name).collect();
        let named: BTreeSet<usize> = store.changed.clone();
        let leaves: Vec<Name> = named.iter().map(|i| next.leaves[*i].name).collect();
        next.dead.extend(gone);
        next.dead.extend(store.garbage.iter().filter(|g| !leaves.contains(g)));
        self.replace_head(store, next).await?;
        (store.changed, store.superseded, store.garbage, store.tidied) = Default::default();
        self.counts.commits.fetch_add(1, Relaxed);
        self.tidy_up(store).await;
        Ok(())
    }

    async fn replace_head(&self, store: &mut Store, next: Head) -> Result<(), ObjectError> {
        let blob = next.emit(self.key.as_ref()).ok_or_else(|| ObjectError::Damaged("the key".into()))?;
        let key = format!("{}/head", super::base(&self.name));
        let mut done = self.engine.replace(&key, store.tagged.as_ref(), blob.clone()).await;
        if done == Err(EngineError::Changed) && !store.unsure.is_empty() {
            // By an attempt of ours that came late: the whole of it is in this one too.
            let now = self.engine.load(&key).await?;
            if let Some(now) = now.filter(|now| store.unsure.contains(&now.bytes)) {
                done = self.engine.replace(&key, Some(&now), blob.clone()).await;
                store.tagged = Some(now);
            }
        }
        match done {
            Ok(tagged) => {
                (store.head, store.tagged) = (next, Some(tagged));
                store.unsure.clear();
                Ok(())
            }
            Err(EngineError::Changed) => {
                let lost = ObjectError::LeaseLost { epoch: next.name.epoch, now: self.epoch_now().await };
                self.lose(lost.clone());
                Err(lost)
            }
            Err(e) => {
                // It may have been replaced, or may be yet.
                store.unsure.push(blob);
                Err(e.into())
            }
        }
    }

    async fn epoch_now(&self) -> u32 {
        let head = self.engine.load(&format!("{}/head", super::base(&self.name))).await;
        let head = head.ok().flatten().and_then(|t| Head::parse(self.key.as_ref(), &t.bytes));
        head.map_or(0, |h| h.name.epoch)
    }

    /// Deletes what nobody needs, if the server answers.
    pub(super) async fn tidy(&self) {
        if self.lease.is_some() && self.lost().is_none() {
            self.tidy_up(&mut *self.store.lock().await).await;
        }
    }
    async fn tidy_up(&self, store: &mut Store) {
        if store.tidied || store.head.dead.is_empty() && store.head.orphans.is_empty() {
            return;
        }
        let mut names = store.head.dead.clone();
        for o in &store.head.orphans {
            names.extend((o.from..o.to).map(|number| Name { epoch: o.epoch, number }));
        }
        let keys: Vec<_> = names.iter().map(|n| self.key_of(*n)).collect();
        store.tidied = self.engine.delete(&keys).await.is_ok();
    }
}

//! What an object's values on the server look like.
//!
//! | key, below `objects/NAME/` | |
//! |---|---|
//! | `head` | the object as it is now; replaced by compare and swap |
//! | `lease` | who may write; the same |
//! | `d/EPOCH-NUMBER` | a cluster or a leaf; written once |
//! | `s/SNAPSHOT` | a head as it was |
//!
//! A *leaf* says for 256 clusters under which key each is. A head names the leaves. Numbers
//! are little-endian, and everything but the beginning of a head is sealed under
//! `EPOCH-NUMBER`, of which there is never a second one.

use super::super::seal::{Key, OVERHEAD, open, seal};
use super::ObjectError;

/// Clusters of a leaf.
pub(super) const LEAF: usize = 256;
const MAGIC: [u8; 8] = *b"MVMOBJ\x01\0";
/// Magic, salt, epoch, number.
const PLAIN: usize = 8 + 12 + 4 + 8;

/// Under which key something is. Number 0: nothing is there, its bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Name {
    pub(super) epoch: u32,
    pub(super) number: u64,
}

impl Name {
    pub(super) fn is_none(self) -> bool {
        self.number == 0
    }
    /// Below 2^96, and never the same twice.
    pub(super) fn nonce(self) -> u128 {
        u128::from(self.epoch) << 64 | u128::from(self.number)
    }
}

/// A key, and the generation of the head that was the first to have it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) born: u64,
}

/// Numbers of an epoch that may be on the server, from..to, and nobody needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Orphans {
    pub(super) epoch: u32,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// See the module text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) salt: [u8; 12],
    /// Who wrote it, and the number that it was written under: all below are accounted for.
    pub(super) name: Name,
    pub(super) generation: u64,
    pub(super) size: u64,
    /// Pages of a cluster.
    pub(super) cluster: u32,
    /// It is being deleted.
    pub(super) deleted: bool,
    pub(super) leaves: Vec<Entry>,
    /// What the last commits replaced and may still be there.
    pub(super) dead: Vec<Name>,
    pub(super) orphans: Vec<Orphans>,
    pub(super) snapshots: Vec<(String, u64)>,
}

/// Writes and reads numbers.
struct Writer(Vec<u8>);
impl Writer {
    fn u32(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }
    fn u64(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }
    fn name(&mut self, n: Name) {
        self.u32(n.epoch);
        self.u64(n.number);
    }
    fn entry(&mut self, e: &Entry) {
        self.name(e.name);
        self.u64(e.born);
    }
    fn list<T>(&mut self, all: &[T], mut one: impl FnMut(&mut Self, &T)) {
        self.u32(all.len() as u32);
        all.iter().for_each(|t| one(self, t));
    }
}

struct Reader<'a>(&'a [u8]);
impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }
    fn name(&mut self) -> Option<Name> {
        Some(Name { epoch: self.u32()?, number: self.u64()? })
    }
    fn entry(&mut self) -> Option<Entry> {
        Some(Entry { name: self.name()?, born: self.u64()? })
    }
    fn list<T>(&mut self, one: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let n = self.u32()?;
        // No more than there can be, whatever it says.
        let mut all = Vec::with_capacity((n as usize).min(self.0.len()));
        for _ in 0..n {
            all.push(one(self)?);
        }
        Some(all)
    }
}

fn salt_of(blob: &[u8]) -> Option<([u8; 12], Name)> {
    let mut r = Reader(blob);
    if r.bytes::<8>()? != MAGIC {
        return None;
    }
    Some((r.bytes()?, r.name()?))
}

impl Head {
    /// As it is on the server. `None`: it could not be sealed.
    pub(super) fn emit(&self, key: Option<&Key>) -> Option<Vec<u8>> {
        let mut w = Writer(MAGIC.to_vec());
        w.0.extend_from_slice(&self.salt);
        w.name(self.name);
        w.0.resize(PLAIN + OVERHEAD, 0);
        w.u64(self.generation);
        w.u64(self.size);
        w.u32(self.cluster);
        w.u32(self.deleted.into());
        w.list(&self.leaves, Writer::entry);
        w.list(&self.dead, |w, n| w.name(*n));
        w.list(&self.orphans, |w, o| {
            w.u32(o.epoch);
            w.u64(o.from);
            w.u64(o.to);
        });
        w.list(&self.snapshots, |w, (name, generation)| {
            w.list(name.as_bytes(), |w, b| w.0.push(*b));
            w.u64(*generation);
        });
        seal(key, self.name.nonce(), b"head", &mut w.0[PLAIN..]).then_some(w.0)
    }

    /// The salt of a head, with which its keys are derived.
    pub(super) fn salt(blob: &[u8]) -> Option<[u8; 12]> {
        salt_of(blob).map(|(salt, _)| salt)
    }

    /// Reads one. `None`: that is none, or was sealed with another key.
    pub(super) fn parse(key: Option<&Key>, blob: &[u8]) -> Option<Head> {
        let (salt, name) = salt_of(blob)?;
        let mut sealed = blob.get(PLAIN..)?.to_vec();
        let mut r = Reader(open(key, name.nonce(), b"head", &mut sealed)?);
        let head = Head {
            salt,
            name,
            generation: r.u64()?,
            size: r.u64()?,
            cluster: r.u32()?,
            deleted: r.u32()? != 0,
            leaves: r.list(Reader::entry)?,
            dead: r.list(Reader::name)?,
            orphans: r.list(|r| Some(Orphans { epoch: r.u32()?, from: r.u64()?, to: r.u64()? }))?,
            snapshots: r.list(|r| {
                let name = r.list(|r| r.bytes::<1>().map(|b| b[0]))?;
                Some((String::from_utf8(name).ok()?, r.u64()?))
            })?,
        };
        let leaves = head.clusters().div_ceil(LEAF as u64);
        (r.0.is_empty() && (1..=64).contains(&head.cluster) && leaves == head.leaves.len() as u64)
            .then_some(head)
    }

    /// Clusters of the object.
    pub(super) fn clusters(&self) -> u64 {
        self.size.div_ceil(u64::from(self.cluster.max(1)) * crate::tier::PAGE as u64)
    }
}

/// A leaf, sealed. `None`: it could not be.
pub(super) fn emit_leaf(key: Option<&Key>, name: Name, entries: &[Entry; LEAF]) -> Option<Vec<u8>> {
    let mut w = Writer(vec![0; OVERHEAD]);
    entries.iter().for_each(|e| w.entry(e));
    seal(key, name.nonce(), b"leaf", &mut w.0).then_some(w.0)
}

/// Reads a leaf.
pub(super) fn parse_leaf(key: Option<&Key>, name: Name, blob: &mut [u8]) -> Option<Box<[Entry; LEAF]>> {
    let mut r = Reader(open(key, name.nonce(), b"leaf", blob)?);
    let mut entries = Box::new([Entry::default(); LEAF]);
    for e in entries.iter_mut() {
        *e = r.entry()?;
    }
    r.0.is_empty().then_some(entries)
}

/// Names of objects and snapshots are parts of keys.
pub(super) fn check_name(name: &str) -> Result<(), ObjectError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let right = (1..=100).contains(&name.len()) && name.chars().all(good) && !name.starts_with('.');
    if right { Ok(()) } else { Err(ObjectError::BadName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let name = |number| Name { epoch: 3, number };
        Head {
            salt: [7; 12],
            name: name(9),
            generation: 5,
            size: 300 * 16 * 4096 - 1,
            cluster: 16,
            deleted: false,
            leaves: vec![Entry { name: name(1), born: 2 }, Entry::default()],
            dead: vec![name(4)],
            orphans: vec![Orphans { epoch: 2, from: 1, to: 1000 }],
            snapshots: vec![("monday".into(), 4)],
        }
    }

    #[test]
    fn heads_and_leaves_come_back_and_nothing_else_passes() {
        let key = Key::random();
        for key in [None, key.as_ref()] {
            let blob = head().emit(key).expect("sealed");
            assert_eq!(Head::parse(key, &blob), Some(head()));
            for i in 0..blob.len() {
                let mut bad = blob.clone();
                bad[i] ^= 1;
                // The salt is not sealed: with another one there is another key.
                let salt = (8..20).contains(&i);
                assert!(Head::parse(key, &bad).is_none() || salt, "byte {i}");
                assert_eq!(Head::parse(key, &blob[..i]), None, "{i} bytes");
            }
            let mut entries = [Entry::default(); LEAF];
            entries[77] = head().leaves[0];
            let mut leaf = emit_leaf(key, head().name, &entries).expect("sealed");
            let mut other = leaf.clone();
            assert!(parse_leaf(key, Name { epoch: 3, number: 8 }, &mut other).is_none());
            assert_eq!(parse_leaf(key, head().name, &mut leaf).as_deref(), Some(&entries));
        }
    }

    #[test]
    fn names_are_parts_of_keys() {
        assert!(["a", "A-b_c.9"].iter().all(|n| check_name(n).is_ok()));
        let long = "x".repeat(101);
        assert!(["", "a/b", "..", ".a", "a b", "ä", &long].iter().all(|n| check_name(n).is_err()));
    }
}

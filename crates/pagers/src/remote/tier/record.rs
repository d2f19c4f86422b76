//! What a run leaves if it is killed, so that the next one can clean up.
//!
//! A *record* on the server says under which name a run stores its clusters, and which
//! numbers they may have. Records are by machine; who has one holds a socket of that name,
//! which Linux closes when he dies in whatever way. So a record whose socket is free is of
//! a dead run, for sure.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;

use super::super::engine::{Engine, EngineError};
use crate::sum::checksum;

/// Records of a machine: runs at a time.
const MOST: usize = 64;
/// Numbers that are noted together, before they are used.
const AHEAD: u64 = 256;
/// Clusters that are deleted together without a list of them.
const BATCH: u64 = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Noted {
    run: u64,
    /// Clusters have numbers from here on...
    low: u64,
    /// ... below here.
    high: u64,
}

impl Noted {
    fn text(self) -> String {
        let Noted { run, low, high } = self;
        format!("machvm swap 1\nrun {run:016x}\nfrom {low}\nbelow {high}\n")
    }
    fn parse(bytes: &[u8]) -> Option<Noted> {
        let mut lines = std::str::from_utf8(bytes).ok()?.strip_prefix("machvm swap 1\n")?.lines();
        let mut word = |name: &str| lines.next()?.strip_prefix(name).map(str::to_owned);
        let run = u64::from_str_radix(&word("run ")?, 16).ok()?;
        Some(Noted { run, low: word("from ")?.parse().ok()?, high: word("below ")?.parse().ok()? })
    }
}

/// The record of this run.
pub(super) struct Record {
    key: String,
    noted: tokio::sync::Mutex<Noted>,
    pub(super) run: u64,
    _held: UnixDatagram,
}

/// A dead run's record; held while it is cleaned up.
pub(super) struct Dead {
    key: String,
    noted: Noted,
    _held: UnixDatagram,
}

/// The name of a cluster on the server.
pub(super) fn key(run: u64, number: u64) -> String {
    format!("runs/{run:016x}/{number:x}")
}

/// What tells this machine from others, and those who see the same sockets from those who do
/// not.
fn machine() -> u64 {
    let first = |path: &str| std::fs::read(path).ok().filter(|id| id.len() > 8);
    let id = first("/etc/machine-id").or_else(|| first("/proc/sys/kernel/hostname"));
    let net = std::fs::metadata("/proc/self/ns/net").map_or(0, |m| m.ino());
    checksum(&id.unwrap_or_default(), net)
}

fn hold(place: u64, machine: u64, k: usize) -> Option<UnixDatagram> {
    let name = format!("machvm-remote-{place:016x}-{machine:016x}-{k}");
    let address = SocketAddr::from_abstract_name(name).ok()?;
    UnixDatagram::bind_addr(&address).ok()
}

impl Record {
    /// A record for this run, and those of dead ones. `place` stands for the server.
    ///
    /// # Errors
    /// The server's; or there are too many runs.
    pub(super) async fn open(engine: &Engine, place: &str) -> Result<(Record, Vec<Dead>), EngineError> {
        let (machine, place) = (machine(), checksum(place.as_bytes(), 0));
        let mut dead = Vec::new();
        for k in 0..MOST {
            let Some(held) = hold(place, machine, k) else { continue };
            let key = format!("machines/{machine:016x}/{k}");
            match engine.read(&key).await {
                Ok(bytes) => match Noted::parse(&bytes) {
                    Some(noted) => dead.push(Dead { key, noted, _held: held }),
                    // Nothing of ours: left alone.
                    None => continue,
                },
                Err(EngineError::Missing) => {
                    let mut run = [0; 8];
                    getrandom::fill(&mut run).map_err(|e| EngineError::Refused(e.to_string()))?;
                    let run = u64::from_le_bytes(run);
                    let noted = Noted { run, low: 0, high: AHEAD };
                    engine.write(&key, noted.text().into_bytes()).await?;
                    let noted = tokio::sync::Mutex::new(noted);
                    return Ok((Record { key, noted, run, _held: held }, dead));
                }
                Err(e) => return Err(e),
            }
        }
        Err(EngineError::Refused(format!("{MOST} runs of this machine have their swap there already")))
    }

    /// Notes that a cluster of this number will be written; those below `low` are gone.
    pub(super) async fn will_write(&self, engine: &Engine, number: u64, low: u64) -> Result<(), EngineError> {
        let mut noted = self.noted.lock().await;
        if number >= noted.high {
            let more = Noted { run: self.run, low, high: number + AHEAD };
            engine.write(&self.key, more.text().into_bytes()).await?;
            *noted = more;
        }
        Ok(())
    }

    /// Nothing is left.
    pub(super) async fn remove(&self, engine: &Engine) -> Result<(), EngineError> {
        engine.delete(std::slice::from_ref(&self.key)).await
    }
}

impl Dead {
    /// Deletes what the run left.
    pub(super) async fn clean_up(self, engine: Arc<Engine>) -> Result<(), EngineError> {
        let Noted { run, low, high } = self.noted;
        match engine.list(&format!("runs/{run:016x}/")).await? {
            Some(keys) => engine.delete(&keys).await?,
            None => {
                let mut from = low;
                while from < high {
                    let to = high.min(from + BATCH);
                    let keys: Vec<_> = (from..to).map(|number| key(run, number)).collect();
                    engine.delete(&keys).await?;
                    from = to;
                }
            }
        }
        engine.delete(&[self.key]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_other_things_are_none() {
        let noted = Noted { run: 0x1234, low: 7, high: 4103 };
        assert_eq!(Noted::parse(noted.text().as_bytes()), Some(noted));
        for text in
            ["", "machvm swap 2\n", "machvm swap 1\nrun x\nfrom 1\nbelow 2\n", "machvm swap 1\nrun 1\n"]
        {
            assert_eq!(Noted::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}

//! What goes on in the background: clusters are written, and deleted.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::super::cluster::pack;
use super::super::engine::EngineError;
use super::super::seal;
use super::{Shared, count, record};

/// Between attempts when the server has been away.
const PAUSE: Duration = Duration::from_millis(500);
/// Clusters that die within this time are deleted together.
const GATHER: Duration = Duration::from_millis(20);

/// Starts the writers and the one that deletes.
pub(super) fn start(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let handle = shared.engine.handle();
    let mut tasks: Vec<_> =
        (0..shared.options.writers).map(|_| handle.spawn(write(Arc::clone(shared)))).collect();
    tasks.push(handle.spawn(delete(Arc::clone(shared))));
    tasks
}

/// Writes what is queued.
async fn write(shared: Arc<Shared>) {
    // Until the end, when the semaphore is closed.
    while let Ok(permit) = shared.queued.acquire().await {
        permit.forget();
        let Some((c, number, blob)) = shared.next_write() else { continue };
        let key = record::key(shared.record.run, number);
        while let Err(e) = shared.try_write(&key, number, blob.clone()).await {
            count(&shared.counts.write_errors);
            shared.state().refused = matches!(e, EngineError::Refused(_));
            shared.changed.notify_all();
            tokio::time::sleep(PAUSE).await;
            if shared.state().closed {
                return;
            }
        }
        let died = {
            let mut state = shared.state();
            state.refused = false;
            state.end_write(c)
        };
        shared.changed.notify_all();
        if died {
            shared.died.notify_one();
        }
    }
}

impl Shared {
    /// The next cluster to write, sealed.
    fn next_write(&self) -> Option<(u32, u64, Vec<u8>)> {
        let (c, number, key) = {
            let mut state = self.state();
            let c = state.begin_write()?;
            let cluster = &state.clusters[c as usize];
            (c, cluster.number, cluster.key.clone())
        };
        // Pages come and go meanwhile.
        let mut blob = pack(self.options.cluster, |k, page| self.state().dirty_page(c, k, &self.pool, page));
        let sealed = seal::seal(key.as_ref(), number.into(), &self.record.run.to_le_bytes(), &mut blob);
        assert!(sealed, "a cluster is shorter than what AES-GCM takes");
        Some((c, number, blob))
    }

    async fn try_write(&self, key: &str, number: u64, blob: Vec<u8>) -> Result<(), EngineError> {
        let low = self.state().lowest();
        self.record.will_write(&self.engine, number, low).await?;
        count(&self.counts.writes);
        self.engine.write(key, blob).await
    }

    /// See [`super::RemoteTier::end`].
    pub(super) fn end(&self, tasks: Vec<JoinHandle<()>>, patience: Duration) {
        let until = Instant::now() + patience;
        self.state().closed = true;
        self.queued.close();
        self.died.notify_one();
        self.changed.notify_all();
        self.engine.wait(async {
            for mut task in tasks {
                let left = until.saturating_duration_since(Instant::now());
                if tokio::time::timeout(left, &mut task).await.is_err() {
                    task.abort();
                }
            }
            let run = self.record.run;
            let keys: Vec<_> = self.state().on_server().iter().map(|n| record::key(run, *n)).collect();
            let all = async {
                self.engine.delete(&keys).await?;
                self.record.remove(&self.engine).await
            };
            // What is left then is cleaned up by a later run.
            let left = until.saturating_duration_since(Instant::now());
            let _ = tokio::time::timeout(left, all).await;
        });
    }
}

/// Deletes what nobody wants any more.
async fn delete(shared: Arc<Shared>) {
    let mut failed = false;
    loop {
        if !failed {
            shared.died.notified().await;
        }
        tokio::time::sleep(if failed { PAUSE } else { GATHER }).await;
        let dead = {
            let mut state = shared.state();
            if state.closed {
                return;
            }
            std::mem::take(&mut state.dead)
        };
        let keys: Vec<_> = dead.iter().map(|(_, number)| record::key(shared.record.run, *number)).collect();
        failed = shared.engine.delete(&keys).await.is_err();
        let mut state = shared.state();
        if failed {
            state.dead.extend(dead);
            shared.counts.write_errors.fetch_add(1, Relaxed);
        } else {
            dead.iter().for_each(|(c, _)| state.release(*c));
            drop(state);
            shared.changed.notify_all();
        }
    }
}

//! Keys and values on an engine, with patience.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opendal::{ErrorKind, HttpTransporter, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::cas::{Cas, Tagged};
use super::place::{Kind, RemotePlace};
use super::runtime::{Hooks, Threads};

/// How long the server is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For one answer.
    pub attempt: Duration,
    /// For a request, over all attempts. When nothing has succeeded for so long the server
    /// is *away*, and until it is back a request is tried once.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { attempt: Duration::from_secs(5), whole: Duration::from_secs(30) }
    }
}

/// Waits between attempts, at first and at most; each is a random part of it, so that many
/// who wait do not all come back at once.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];
/// For an answer of a server that is away.
const AWAY_ATTEMPT: Duration = Duration::from_secs(1);
/// Keys that are deleted together.
const DELETE_BATCH: usize = 256;

/// Why a request was not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineError {
    /// There is nothing under that key.
    Missing,
    /// What is there is not what was expected.
    Changed,
    /// The server will not, however often it is asked.
    Refused(String),
    /// No answer, or errors only, for as long as was waited.
    Away(String),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::Missing => f.write_str("there is nothing under that key"),
            EngineError::Changed => f.write_str("somebody else changed it"),
            EngineError::Refused(why) => write!(f, "refused: {why}"),
            EngineError::Away(why) => write!(f, "no answer in time: {why}"),
        }
    }
}
impl std::error::Error for EngineError {}

/// What an attempt came to.
pub(super) enum Attempt {
    /// Again would be the same.
    Over(EngineError),
    Again(String),
}

impl From<opendal::Error> for Attempt {
    fn from(e: opendal::Error) -> Attempt {
        match e.kind() {
            ErrorKind::NotFound => Attempt::Over(EngineError::Missing),
            ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists => Attempt::Over(EngineError::Changed),
            ErrorKind::PermissionDenied
            | ErrorKind::ConfigInvalid
            | ErrorKind::Unsupported
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory => Attempt::Over(EngineError::Refused(short(&e))),
            _ => Attempt::Again(short(&e)),
        }
    }
}

/// The first line, without what only OpenDAL's authors want to know.
fn short(e: &opendal::Error) -> String {
    let text = std::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string);
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// Figures of an engine.
#[derive(Default)]
pub(super) struct Counts {
    /// Attempts that failed and were made again.
    pub(super) retries: AtomicU64,
}

/// An engine, opened. Keys are below the place's prefix.
pub struct Engine {
    pub(super) op: Operator,
    cas: Cas,
    threads: Threads,
    patience: Patience,
    /// Since when nothing has succeeded.
    failing: Mutex<Option<Instant>>,
    pub(super) counts: Counts,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({:?})", self.op.info())
    }
}

fn secret(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

fn operator(place: &RemotePlace) -> opendal::Result<Operator> {
    let root = format!("/{}", place.prefix);
    match &place.kind {
        Kind::Redis { endpoint, user, db } => {
            let mut b = services::Redis::default().endpoint(endpoint).root(&root).db(i64::from(*db));
            b = b.username(user.as_deref().unwrap_or_default());
            Operator::new(b.password(&secret("MACHVM_REDIS_PASSWORD").unwrap_or_default()))
        }
        Kind::RedisCluster { endpoints, user } => {
            let mut b = services::Redis::default().cluster_endpoints(endpoints).root(&root);
            b = b.username(user.as_deref().unwrap_or_default());
            Operator::new(b.password(&secret("MACHVM_REDIS_PASSWORD").unwrap_or_default()))
        }
        Kind::S3 { bucket, endpoint, region } => {
            let mut b = services::S3::default().bucket(bucket).root(&root);
            if let Some(endpoint) = endpoint {
                b = b.endpoint(endpoint);
            }
            // Else from the environment, or the files of the AWS tools.
            let region =
                region.clone().or_else(|| secret("AWS_REGION")).or_else(|| secret("AWS_DEFAULT_REGION"));
            b = b.region(region.as_deref().unwrap_or("us-east-1"));
            // A machine of another cloud would wait for Amazon's.
            Operator::new(if endpoint.is_some() { b.disable_ec2_metadata() } else { b })
        }
        Kind::Fs(dir) => Operator::new(services::Fs::default().root(&dir.to_string_lossy())),
    }
}

impl Engine {
    /// Opens it, and asks the server something, so that a wrong address or password is told
    /// now.
    ///
    /// Passwords come from the environment: `MACHVM_REDIS_PASSWORD`; `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY` and what else the AWS tools know.
    ///
    /// # Errors
    /// Why it cannot be used, in a sentence.
    pub fn open(place: &RemotePlace, patience: Patience, hooks: Hooks) -> Result<Arc<Engine>, String> {
        // Another part of the program may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let cannot = |e: &dyn fmt::Display| format!("cannot use {}: {e}", place.name());
        let threads = Threads::start(hooks).map_err(|e| cannot(&e))?;
        let _inside = threads.handle().enter();
        let mut op = operator(place).map_err(|e| cannot(&short(&e)))?;
        if matches!(place.kind, Kind::S3 { .. }) {
            // Connections belong to the threads of one engine.
            let client = reqwest::Client::builder().build().map_err(|e| cannot(&e))?;
            let transport = HttpTransporter::new(ReqwestTransport::new(client));
            let context = op.base_context().with_http_transport(transport);
            op = op.with_context(context);
        }
        let cas = Cas::new(place).map_err(|e| cannot(&e))?;
        drop(_inside);
        let failing = Mutex::default();
        let engine = Engine { op, cas, threads, patience, failing, counts: Counts::default() };
        let first = Duration::from_secs(10).min(patience.whole);
        match engine.threads.wait(engine.try_for(first, || async { Ok(engine.op.stat("machvm").await?) })) {
            Ok(_) | Err(EngineError::Missing) => Ok(Arc::new(engine)),
            Err(e) => Err(cannot(&e)),
        }
    }

    /// Nothing has succeeded for longer than [`Patience::whole`].
    pub fn is_away(&self) -> bool {
        let failing = *self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.is_some_and(|since| since.elapsed() >= self.patience.whole)
    }
    fn note(&self, failed: bool) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failed {
            failing.get_or_insert_with(Instant::now);
        } else {
            *failing = None;
        }
    }
    pub(super) fn patience(&self) -> Patience {
        self.patience
    }
    pub(super) fn handle(&self) -> &tokio::runtime::Handle {
        self.threads.handle()
    }
    /// Waits for `future` on the calling thread, which must be none of the engine's.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.threads.wait(future)
    }

    /// Makes attempts until one succeeds, one shows that all would fail, or time is up.
    pub(super) async fn try_again<T, F>(&self, op: impl Fn() -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Attempt>>,
    {
        self.try_for(self.patience.whole, op).await
    }

    async fn try_for<T, F>(&self, whole: Duration, op: impl Fn() -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Attempt>>,
    {
        let begun = Instant::now();
        let mut pause = BACK_OFF[0];
        loop {
            let away = self.is_away();
            let left = whole.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
            let one = self.patience.attempt.min(left);
            let one = if away { one.min(AWAY_ATTEMPT) } else { one };
            let why = match tokio::time::timeout(one, op()).await {
                Ok(Ok(got)) => {
                    self.note(false);
                    return Ok(got);
                }
                Ok(Err(Attempt::Over(e))) => {
                    self.note(false);
                    return Err(e);
                }
                Ok(Err(Attempt::Again(why))) => why,
                Err(_) => format!("nothing heard for {one:?}"),
            };
            self.note(true);
            if away || begun.elapsed() + pause >= whole {
                return Err(EngineError::Away(why));
            }
            self.counts.retries.fetch_add(1, Relaxed);
            tokio::time::sleep(pause.mul_f64(0.5 + random() / 2.0)).await;
            pause = (pause * 2).min(BACK_OFF[1]);
        }
    }

    /// The value of a key.
    pub(super) async fn read(&self, key: &str) -> Result<Vec<u8>, EngineError> {
        self.try_again(|| async { Ok(self.op.read(key).await?.to_vec()) }).await
    }
    /// Gives a key a value. It may have it although this fails, and may get it later.
    pub(super) async fn write(&self, key: &str, value: Vec<u8>) -> Result<(), EngineError> {
        let value = opendal::Buffer::from(value);
        self.try_again(|| async {
            self.op.write(key, value.clone()).await?;
            Ok(())
        })
        .await
    }
    /// Makes that there is nothing under these keys.
    pub(super) async fn delete(&self, keys: &[String]) -> Result<(), EngineError> {
        for batch in keys.chunks(DELETE_BATCH) {
            let done =
                self.try_again(|| async { Ok(self.op.delete_iter(batch.iter().cloned()).await?) }).await;
            match done {
                Ok(()) | Err(EngineError::Missing) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
    /// The keys that begin with `dir`, which ends in a slash. `None`: the engine cannot list.
    pub(super) async fn list(&self, dir: &str) -> Result<Option<Vec<String>>, EngineError> {
        let list = || async { Ok(self.op.list_with(dir).recursive(true).await?) };
        match self.try_again(list).await {
            Ok(all) => {
                let files = all.iter().filter(|e| !e.metadata().is_dir());
                Ok(Some(files.map(|e| e.path().to_owned()).collect()))
            }
            Err(EngineError::Missing) => Ok(Some(Vec::new())),
            Err(EngineError::Refused(_)) if !self.op.info().capability().list => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A value, to be replaced by [`Engine::replace`].
    pub(super) async fn load(&self, key: &str) -> Result<Option<Tagged>, EngineError> {
        match self.try_again(|| self.cas.load(&self.op, key)).await {
            Ok(found) => Ok(Some(found)),
            Err(EngineError::Missing) => Ok(None),
            Err(e) => Err(e),
        }
    }
    /// Gives `key` the value `new`, which nobody else writes, if it still has the value `old`
    /// (`None`: none).
    ///
    /// # Errors
    /// [`EngineError::Changed`]: it has another one. [`EngineError::Away`]: it may have
    /// either.
    pub(super) async fn replace(
        &self,
        key: &str,
        old: Option<&Tagged>,
        new: Vec<u8>,
    ) -> Result<Tagged, EngineError> {
        let done = self.try_again(|| self.cas.store(&self.op, key, old, &new)).await;
        if done != Err(EngineError::Changed) {
            return done;
        }
        // An attempt whose answer was lost may have been ours.
        match self.load(key).await? {
            Some(now) if now.bytes == new => Ok(now),
            _ => Err(EngineError::Changed),
        }
    }
}

/// A number from 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

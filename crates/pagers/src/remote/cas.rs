//! Compare and swap of one value: what makes that two hosts never both write.
//!
//! | engine | how |
//! |---|---|
//! | S3 | conditional writes: `If-Match` with the entity tag, `If-None-Match: *` |
//! | Redis | a script, which the server runs as one command; OpenDAL has no conditional write for it, so this goes by a connection of its own |
//! | a directory | a lock on a file beside it (`flock`), then a file renamed over the old one; on a shared file system this needs its locks to work between hosts |

use std::io::Write;
use std::path::PathBuf;

use opendal::Operator;
use tokio::sync::Mutex;

use super::engine::{Attempt, EngineError};
use super::place::{Kind, RemotePlace};

/// A value, and what stands for it in a comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tagged {
    pub(super) bytes: Vec<u8>,
    tag: String,
}

/// Two arguments: what is expected (nothing: an empty string), and what is to be.
const SCRIPT: &str = "local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1";

/// See the module text.
#[expect(clippy::large_enum_variant, reason = "there is one for an engine")]
pub(super) enum Cas {
    Tags,
    Redis { prefix: String, client: Client, connection: Mutex<Option<Connection>> },
    Lock(PathBuf),
}

#[expect(clippy::large_enum_variant, reason = "there is one for an engine")]
pub(super) enum Client {
    One(redis::Client),
    Cluster(redis::cluster::ClusterClient),
}

/// A connection is dropped when anything goes wrong: what it says next may belong to a
/// question that nobody waits for any more.
pub(super) enum Connection {
    One(redis::aio::MultiplexedConnection),
    Cluster(redis::cluster_async::ClusterConnection),
}

fn again(e: impl std::fmt::Display) -> Attempt {
    Attempt::Again(e.to_string())
}

fn client(place: &RemotePlace) -> redis::RedisResult<Option<Client>> {
    use redis::IntoConnectionInfo;
    let password = std::env::var("MACHVM_REDIS_PASSWORD").ok().filter(|p| !p.is_empty());
    match &place.kind {
        Kind::Redis { endpoint, user, db } => {
            let mut settings = redis::RedisConnectionInfo::default().set_db(i64::from(*db));
            if let Some(user) = user {
                settings = settings.set_username(user);
            }
            if let Some(password) = password {
                settings = settings.set_password(password);
            }
            let info = endpoint.as_str().into_connection_info()?.set_redis_settings(settings);
            Ok(Some(Client::One(redis::Client::open(info)?)))
        }
        Kind::RedisCluster { endpoints, user } => {
            let mut builder = redis::cluster::ClusterClientBuilder::new(endpoints.split(','));
            if let Some(user) = user {
                builder = builder.username(user.clone());
            }
            if let Some(password) = password {
                builder = builder.password(password);
            }
            Ok(Some(Client::Cluster(builder.build()?)))
        }
        Kind::S3 { .. } | Kind::Fs(_) => Ok(None),
    }
}

impl Cas {
    /// # Errors
    /// What is wrong with the address.
    pub(super) fn new(place: &RemotePlace) -> Result<Cas, String> {
        if let Kind::Fs(dir) = &place.kind {
            return Ok(Cas::Lock(dir.clone()));
        }
        // As OpenDAL makes keys.
        let prefix = if place.prefix.is_empty() { String::new() } else { format!("{}/", place.prefix) };
        Ok(match client(place).map_err(|e| e.to_string())? {
            Some(client) => Cas::Redis { prefix, client, connection: Mutex::new(None) },
            None => Cas::Tags,
        })
    }

    /// The value now.
    pub(super) async fn load(&self, op: &Operator, key: &str) -> Result<Tagged, Attempt> {
        if !matches!(self, Cas::Tags) {
            let bytes = op.read(key).await?.to_vec();
            return Ok(Tagged { bytes, tag: String::new() });
        }
        let stat = op.stat(key).await?;
        let none = || Attempt::Over(EngineError::Refused("the server gives no entity tags".into()));
        let tag = stat.etag().ok_or_else(none)?.to_owned();
        match op.read_with(key).if_match(&tag).await {
            Ok(data) => Ok(Tagged { bytes: data.to_vec(), tag }),
            Err(e) if e.kind() == opendal::ErrorKind::ConditionNotMatch => Err(again("it is being changed")),
            Err(e) => Err(e.into()),
        }
    }

    /// Replaces it if it is `old` still.
    pub(super) async fn store(
        &self,
        op: &Operator,
        key: &str,
        old: Option<&Tagged>,
        new: &[u8],
    ) -> Result<Tagged, Attempt> {
        let stored = |tag: &str| Tagged { bytes: new.to_vec(), tag: tag.to_owned() };
        match self {
            Cas::Tags => {
                let write = op.write_with(key, new.to_vec());
                let done = match old {
                    Some(old) => write.if_match(&old.tag).await,
                    None => write.if_not_exists(true).await,
                };
                match done {
                    Ok(meta) if meta.etag().is_some() => Ok(stored(meta.etag().unwrap_or_default())),
                    // The answer does not say; whoever wrote since is seen then.
                    Ok(_) => match self.load(op, key).await? {
                        now if now.bytes == new => Ok(now),
                        _ => Err(Attempt::Over(EngineError::Changed)),
                    },
                    Err(e) if e.kind() == opendal::ErrorKind::NotFound => {
                        Err(Attempt::Over(EngineError::Changed))
                    }
                    Err(e) => Err(e.into()),
                }
            }
            Cas::Redis { prefix, client, connection } => {
                let mut kept = connection.lock().await;
                // Not there any more if this ends in the middle.
                let mut c = match kept.take() {
                    Some(c) => c,
                    None => client.connect().await.map_err(again)?,
                };
                let mut script = redis::cmd("EVAL");
                script.arg(SCRIPT).arg(1).arg(format!("{prefix}{key}"));
                script.arg(old.map_or(&[][..], |o| &o.bytes)).arg(new);
                let done: redis::RedisResult<i64> = match &mut c {
                    Connection::One(c) => script.query_async(c).await,
                    Connection::Cluster(c) => script.query_async(c).await,
                };
                match done.map_err(again)? {
                    1 => {
                        *kept = Some(c);
                        Ok(stored(""))
                    }
                    0 => {
                        *kept = Some(c);
                        Err(Attempt::Over(EngineError::Changed))
                    }
                    _ => Err(again("the server answered another question")),
                }
            }
            Cas::Lock(dir) => {
                let (path, old, new) = (dir.join(key), old.map(|o| o.bytes.clone()), new.to_vec());
                let done = tokio::task::spawn_blocking(move || replace_file(path, old.as_deref(), &new));
                match done.await.map_err(again)? {
                    Ok(true) => Ok(stored("")),
                    Ok(false) => Err(Attempt::Over(EngineError::Changed)),
                    Err(e) => Err(again(e)),
                }
            }
        }
    }
}

impl Client {
    async fn connect(&self) -> redis::RedisResult<Connection> {
        match self {
            Client::One(c) => c.get_multiplexed_async_connection().await.map(Connection::One),
            Client::Cluster(c) => c.get_async_connection().await.map(Connection::Cluster),
        }
    }
}

/// Replaces a file if it has these contents; who else does so waits.
fn replace_file(path: PathBuf, old: Option<&[u8]>, new: &[u8]) -> std::io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(beside(".lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let now = match std::fs::read(&path) {
        Ok(now) => Some(now),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    if now.as_deref() != old {
        return Ok(false);
    }
    let mut file = std::fs::File::create(beside(".new"))?;
    file.write_all(new)?;
    file.sync_all()?;
    std::fs::rename(beside(".new"), &path)?;
    Ok(true)
}

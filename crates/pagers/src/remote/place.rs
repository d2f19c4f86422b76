//! Where remote memory is: a URL.

use std::path::PathBuf;

/// An engine, and the part of it that is ours.
///
/// | URL | |
/// |---|---|
/// | `redis://[USER@]HOST[:PORT][/DB][/PREFIX]` | a Redis server |
/// | `rediss://...` | the same, by TLS |
/// | `redis+cluster://HOST:PORT[+HOST:PORT...][/PREFIX]` | a Redis cluster, some of its nodes |
/// | `redis+unix:///SOCKET[?prefix=PREFIX]` | a Redis server at a Unix socket |
/// | `s3://BUCKET[/PREFIX][?endpoint=URL][&region=REGION]` | S3, or what speaks it |
/// | `opendal+fs:///DIRECTORY` | a directory, on a shared file system mostly |
///
/// Passwords and keys do not belong there: they come from the environment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemotePlace {
    /// As the user wrote it.
    pub url: String,
    pub(super) kind: Kind,
    /// Before every key, without slashes at its ends; may be empty.
    pub(super) prefix: String,
}

/// The engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Redis {
        /// With scheme, host and port.
        endpoint: String,
        user: Option<String>,
        db: u32,
    },
    RedisCluster {
        /// Separated by commas.
        endpoints: String,
        user: Option<String>,
    },
    S3 {
        bucket: String,
        endpoint: Option<String>,
        region: Option<String>,
    },
    Fs(PathBuf),
}

const SCHEMES: [&str; 6] = ["redis", "rediss", "redis+cluster", "redis+unix", "s3", "opendal+fs"];

impl RemotePlace {
    /// Whether `text` begins as such a URL does.
    pub fn looks_like(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme))
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// One sentence that names the part and says what to write.
    pub fn parse(url: &str) -> Result<RemotePlace, String> {
        let Some((scheme, rest)) = url.split_once("://").filter(|(s, _)| SCHEMES.contains(s)) else {
            return Err(format!("{url:?} is no URL of an engine: use one of {}", SCHEMES.join("://, ")));
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut prefix = path.trim_matches('/').to_owned();
        let mut query = Query::parse(url, query)?;
        let (user, host) = user(url, host)?;
        let kind = match scheme {
            "redis" | "rediss" if host.is_empty() => return Err(no(url, "names no host")),
            "redis" | "rediss" => {
                let (first, others) = prefix.split_once('/').unwrap_or((&prefix, ""));
                let db = first.parse().ok();
                if db.is_some() {
                    prefix = others.trim_matches('/').to_owned();
                }
                Kind::Redis { endpoint: format!("{scheme}://{host}"), user, db: db.unwrap_or(0) }
            }
            "redis+cluster" => {
                let nodes: Vec<_> = host.split('+').map(|h| format!("redis://{h}")).collect();
                if host.split('+').any(str::is_empty) {
                    return Err(no(url, "names no host"));
                }
                Kind::RedisCluster { endpoints: nodes.join(","), user }
            }
            "redis+unix" if host.is_empty() && !path.is_empty() => {
                prefix = query.take("prefix").unwrap_or_default().trim_matches('/').to_owned();
                Kind::Redis { endpoint: format!("redis+unix:///{path}"), user, db: 0 }
            }
            "redis+unix" => return Err(no(url, "names no socket by an absolute path")),
            "s3" if host.is_empty() => return Err(no(url, "names no bucket")),
            "s3" => Kind::S3 {
                bucket: host.to_owned(),
                endpoint: query.take("endpoint"),
                region: query.take("region"),
            },
            _ if host.is_empty() && !path.is_empty() => {
                prefix = String::new();
                Kind::Fs(PathBuf::from(format!("/{path}")))
            }
            _ => return Err(no(url, "names no absolute directory: write opendal+fs:///DIRECTORY")),
        };
        query.nothing_left(url)?;
        if prefix.split('/').any(|part| part == "." || part == "..") {
            return Err(no(url, "has . or .. in its prefix"));
        }
        Ok(RemotePlace { url: url.to_owned(), kind, prefix })
    }

    /// What it is, such as `redis`.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Redis { .. } | Kind::RedisCluster { .. } => "redis",
            Kind::S3 { .. } => "s3",
            Kind::Fs(_) => "fs",
        }
    }
    /// The URL without its query.
    pub fn name(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }
}

fn no(url: &str, why: &str) -> String {
    format!("{url:?} {why}")
}

/// `USER@HOST` in two.
fn user<'a>(url: &str, host: &'a str) -> Result<(Option<String>, &'a str), String> {
    match host.rsplit_once('@') {
        None => Ok((None, host)),
        Some((user, _)) if user.contains(':') => {
            let shown = url.replace(user, "USER");
            Err(format!("{shown:?} had a password, which others can see: put it into MACHVM_REDIS_PASSWORD"))
        }
        Some((user, host)) => Ok((Some(user.to_owned()), host)),
    }
}

struct Query(Vec<(String, String)>);

impl Query {
    fn parse(url: &str, text: &str) -> Result<Query, String> {
        let part = |p: &str| {
            let (name, value) = p.split_once('=').filter(|(_, v)| !v.is_empty())?;
            Some((name.to_owned(), value.to_owned()))
        };
        let parts: Option<Vec<_>> = text.split('&').filter(|p| !p.is_empty()).map(part).collect();
        parts.map(Query).ok_or_else(|| no(url, "has a part without a value behind its ?"))
    }
    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }
    fn nothing_left(&self, url: &str) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!(
                "{name:?} means nothing there (in {:?}): s3 has endpoint and region, redis+unix has prefix",
                url.split('?').next().unwrap_or_default()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (Kind, String) {
        let place = RemotePlace::parse(url).expect(url);
        (place.kind, place.prefix)
    }

    #[test]
    fn engines_and_prefixes() {
        let redis = |endpoint: &str, user: Option<&str>, db| Kind::Redis {
            endpoint: endpoint.into(),
            user: user.map(Into::into),
            db,
        };
        assert_eq!(parsed("redis://h"), (redis("redis://h", None, 0), "".into()));
        assert_eq!(parsed("redis://h:7/3/a/b/"), (redis("redis://h:7", None, 3), "a/b".into()));
        assert_eq!(parsed("rediss://me@h/a"), (redis("rediss://h", Some("me"), 0), "a".into()));
        assert_eq!(
            parsed("redis+unix:///run/r.sock?prefix=x"),
            (redis("redis+unix:///run/r.sock", None, 0), "x".into())
        );
        let endpoints = "redis://a:1,redis://b:2".into();
        assert_eq!(
            parsed("redis+cluster://a:1+b:2/p"),
            (Kind::RedisCluster { endpoints, user: None }, "p".into())
        );
        let s3 = Kind::S3 {
            bucket: "b".into(),
            endpoint: Some("http://127.0.0.1:9000".into()),
            region: Some("eu".into()),
        };
        assert_eq!(parsed("s3://b/p/q?endpoint=http://127.0.0.1:9000&region=eu"), (s3, "p/q".into()));
        assert_eq!(parsed("opendal+fs:///var/x"), (Kind::Fs("/var/x".into()), "".into()));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_is_repeated() {
        for (url, says) in [
            ("http://h", "is no URL of an engine"),
            ("redis://", "names no host"),
            ("redis+cluster://a:1+", "names no host"),
            ("redis+unix://h/x", "no socket"),
            ("s3:///p", "names no bucket"),
            ("s3://b?color=red", "\"color\" means nothing"),
            ("s3://b?endpoint", "without a value"),
            ("opendal+fs://dir", "no absolute directory"),
            ("redis://h/a/../b", "in its prefix"),
            ("redis://me:secret@h/", "MACHVM_REDIS_PASSWORD"),
        ] {
            let error = RemotePlace::parse(url).expect_err(url);
            assert!(error.contains(says) && !error.contains("secret"), "{url}: {error}");
        }
        assert!(RemotePlace::looks_like("s3://b") && !RemotePlace::looks_like("file:/a:1G"));
    }
}

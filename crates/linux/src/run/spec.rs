//! What `--swap` means.

use std::path::PathBuf;

use super::options::{SwapPlace, SwapTier};
use super::size::parse_size;

/// One `--swap`: a list of places.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SwapPlaces(pub Vec<SwapTier>);

#[cfg(feature = "remote")]
use super::spec_remote as remote;

const PLACES: &str = "lz4, lz4:MAX, zstd, zstd:MAX (pools in memory), file:PATH:SIZE, file:DIRECTORY:SIZE, dev:DEVICE, pager:SOCKET, pager:SOCKET:MAX, redis://HOST/PREFIX, s3://BUCKET/PREFIX, opendal+fs:///DIRECTORY, or none";
const LEVEL: i32 = 3;

/// Reads a comma-separated list of places, each followed by its settings:
/// `lz4:64M,file:/var/tmp:1G,prio=5,dev:/dev/loop0`.
///
/// # Errors
/// One sentence that names the part and says what to write.
pub fn parse_swap(text: &str) -> Result<SwapPlaces, String> {
    if text == "none" {
        return Ok(SwapPlaces(Vec::new()));
    }
    let mut all: Vec<SwapTier> = Vec::new();
    for part in text.split(',') {
        match (place(part)?, all.last_mut()) {
            (Some(place), _) => all.push(SwapTier::new(place)),
            (None, Some(tier)) => set(tier, part)?,
            (None, None) => return Err(unknown(part)),
        }
    }
    Ok(SwapPlaces(all))
}

fn unknown(part: &str) -> String {
    format!("{part:?} is no place for pages: use {PLACES}")
}

/// `None`: it is a setting.
fn place(part: &str) -> Result<Option<SwapPlace>, String> {
    if part.contains("://") {
        #[cfg(feature = "remote")]
        return remote::place(part).map(Some);
        #[cfg(not(feature = "remote"))]
        return Err(format!(
            "{part:?}: this machvm was built without remote memory (cargo feature \"remote\")"
        ));
    }
    let (kind, rest) = match part.split_once(':') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (part, None),
    };
    let max = rest.map(parse_size);
    Ok(Some(match (kind, rest) {
        ("lz4", _) => SwapPlace::Lz4 { max: max.transpose()? },
        ("zstd", _) => SwapPlace::Zstd { max: max.transpose()?, level: LEVEL },
        ("file", rest) => {
            let Some((path, size)) =
                rest.and_then(|r| r.rsplit_once(':')).filter(|(path, _)| !path.is_empty())
            else {
                return Err(format!(
                    "{part:?} lacks a path or a size: write file:PATH:SIZE, such as file:/var/tmp:1G"
                ));
            };
            SwapPlace::File { path: PathBuf::from(path), bytes: parse_size(size)? }
        }
        ("dev", Some(path)) if !path.is_empty() => {
            SwapPlace::Device { path: PathBuf::from(path), force: false }
        }
        ("dev", _) => return Err(format!("{part:?} lacks a path: write dev:DEVICE, such as dev:/dev/loop0")),
        ("pager", Some(rest)) if !rest.is_empty() => pager(rest)?,
        ("pager", _) => {
            return Err(format!(
                "{part:?} names no socket: write pager:SOCKET, such as pager:/run/pager.sock"
            ));
        }
        ("none", None) => return Err("none is no place for pages beside others".into()),
        _ if rest.is_none() && is_setting(part) => return Ok(None),
        _ => return Err(unknown(part)),
    }))
}

/// `SOCKET` or `SOCKET:MAX`. What follows the last colon and begins with a digit is a size; a
/// path that ends so needs one.
fn pager(text: &str) -> Result<SwapPlace, String> {
    match text.rsplit_once(':').filter(|(_, max)| max.starts_with(|c: char| c.is_ascii_digit())) {
        Some((path, max)) if !path.is_empty() => {
            Ok(SwapPlace::Pager { path: PathBuf::from(path), max: Some(parse_size(max)?) })
        }
        _ => Ok(SwapPlace::Pager { path: PathBuf::from(text), max: None }),
    }
}

fn is_setting(part: &str) -> bool {
    matches!(part, "plain" | "force") || part.contains('=')
}

fn set(tier: &mut SwapTier, part: &str) -> Result<(), String> {
    match (part.split_once('='), part, &mut tier.place) {
        (Some(("prio", n)), ..) => {
            let prio = n.parse().ok().filter(|n| *n <= 32767);
            tier.prio =
                Some(prio.ok_or_else(|| format!("{part:?}: a priority is a number from 0 to 32767"))?);
        }
        (Some(("level", n)), _, SwapPlace::Zstd { level, .. }) => {
            let number = n.parse().ok().filter(|n| (1..=19).contains(n));
            *level = number.ok_or_else(|| format!("{part:?}: a level of zstd is a number from 1 to 19"))?;
        }
        (None, "plain", SwapPlace::File { .. } | SwapPlace::Device { .. }) => tier.encrypt = false,
        (None, "force", SwapPlace::Device { force, .. }) => *force = true,
        #[cfg(feature = "remote")]
        (None, "plain", SwapPlace::Remote { .. }) => tier.encrypt = false,
        #[cfg(feature = "remote")]
        (Some((name, value)), _, SwapPlace::Remote { options, patience, .. }) => {
            remote::set(options, patience, name, value)?;
        }
        _ => {
            return Err(format!(
                "{part:?} is no setting of that place: all have prio=N, zstd has level=N, files and devices have \
                 plain (no encryption), devices have force, servers have plain, max=SIZE, cluster=PAGES, \
                 cache=SIZE, wait=SECONDS"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<SwapTier> {
        parse_swap(text).expect(text).0
    }

    #[test]
    fn lists_and_settings() {
        assert_eq!(places("none"), []);
        assert_eq!(places("lz4"), [SwapTier::new(SwapPlace::Lz4 { max: None })]);
        let all = places("lz4:64M,zstd:1G,level=9,file:/a:b/c:2G,prio=5,plain,dev:/dev/loop0,force");
        assert_eq!(all.len(), 4);
        assert_eq!(all[0].place, SwapPlace::Lz4 { max: Some(64 << 20) });
        assert_eq!(all[1].place, SwapPlace::Zstd { max: Some(1 << 30), level: 9 });
        assert_eq!(all[2].place, SwapPlace::File { path: "/a:b/c".into(), bytes: 2 << 30 });
        assert_eq!((all[2].prio, all[2].encrypt, all[3].encrypt), (Some(5), false, true));
        assert_eq!(all[3].place, SwapPlace::Device { path: "/dev/loop0".into(), force: true });
    }

    #[test]
    fn pagers_and_how_much_they_get() {
        for (text, path, max) in [
            ("pager:/run/p", "/run/p", None),
            ("pager:/run/p:64M", "/run/p", Some(64 << 20)),
            ("pager:a:b", "a:b", None),
            ("pager:a:b:4K", "a:b", Some(4096)),
        ] {
            assert_eq!(places(text), [SwapTier::new(SwapPlace::Pager { path: path.into(), max })], "{text}");
        }
        let both = places("lz4:1M,pager:/p,prio=7");
        assert_eq!((both.len(), both[1].prio), (2, Some(7)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("zram", "\"zram\" is no place"),
            ("", "\"\" is no place"),
            ("lz4:x", "\"x\" is not a size"),
            ("lz4,", "\"\" is no place"),
            ("file:/tmp", "lacks a path or a size"),
            ("file::1G", "lacks a path or a size"),
            ("file", "lacks a path or a size"),
            ("file:/tmp:big", "\"big\" is not a size"),
            ("dev", "lacks a path"),
            ("dev:", "lacks a path"),
            ("pager", "names no socket"),
            ("pager:", "names no socket"),
            ("pager:/p:4Q", "\"4Q\" is not a size"),
            ("pager:/p,plain", "no setting of that place"),
            ("prio=5", "is no place"),
            ("lz4,prio=-1", "0 to 32767"),
            ("lz4,prio=40000", "0 to 32767"),
            ("lz4,level=3", "no setting of that place"),
            ("zstd,level=20", "1 to 19"),
            ("zstd,plain", "no setting of that place"),
            ("file:/tmp:1G,force", "no setting of that place"),
            ("lz4,none", "beside others"),
        ] {
            let error = parse_swap(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}

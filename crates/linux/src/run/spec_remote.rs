//! What `--swap` means where it names a server.

use std::time::Duration;

use machvm_pagers::remote::{Patience, RemotePlace, TierOptions};

use super::options::SwapPlace;
use super::size::parse_size;

/// Longest time that a server is waited for, in seconds.
const LONGEST: u64 = 24 * 3600;

/// A URL.
///
/// # Errors
/// One sentence.
pub(super) fn place(url: &str) -> Result<SwapPlace, String> {
    let place = RemotePlace::parse(url)?;
    Ok(SwapPlace::Remote { place, options: TierOptions::default(), patience: Patience::default() })
}

/// A setting of such a place.
///
/// # Errors
/// One sentence.
pub(super) fn set(
    options: &mut TierOptions,
    patience: &mut Patience,
    name: &str,
    value: &str,
) -> Result<(), String> {
    let between = |least: u64, most: u64, what: &str| {
        let number = if what.is_empty() { parse_size(value).ok() } else { value.parse().ok() };
        let number = number.filter(|n| (least..=most).contains(n));
        number.ok_or_else(|| match what {
            "" => format!("{name}={value}: a size from {} to {} MiB", least >> 20, most >> 20),
            _ => format!("{name}={value}: a number of {what} from {least} to {most}"),
        })
    };
    match name {
        "max" => options.max = between(1 << 20, TierOptions::LARGEST, "")?,
        "cluster" => options.cluster = between(1, 64, "pages")? as usize,
        "cache" => options.cache = between(TierOptions::LEAST_CACHE, 64 << 30, "")?,
        "wait" => {
            patience.whole = Duration::from_secs(between(1, LONGEST, "seconds")?);
            patience.attempt = patience.attempt.min(patience.whole);
        }
        _ => {
            return Err(format!(
                "{name:?} is no setting of a server: there are prio, plain, max, cluster, cache and wait"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::spec::parse_swap;
    use super::*;

    #[test]
    fn servers_and_their_settings() {
        let text =
            "lz4:8M,redis://h:1/p,prio=3,max=1G,cluster=32,cache=8M,wait=2,plain,s3://b?endpoint=http://h:9";
        let all = parse_swap(text).expect(text).0;
        assert_eq!((all.len(), all[1].prio, all[1].encrypt, all[2].encrypt), (3, Some(3), false, true));
        let SwapPlace::Remote { place, options, patience } = &all[1].place else { panic!("{all:?}") };
        assert_eq!((place.name(), place.kind()), ("redis://h:1/p", "redis"));
        assert_eq!((options.max, options.cluster, options.cache), (1 << 30, 32, 8 << 20));
        assert_eq!((patience.whole, patience.attempt), (Duration::from_secs(2), Duration::from_secs(2)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("ftp://h", "is no URL of an engine"),
            ("redis://", "names no host"),
            ("redis://a:b@h", "MACHVM_REDIS_PASSWORD"),
            ("redis://h,cluster=65", "from 1 to 64"),
            ("redis://h,cache=4K", "from 1 to"),
            ("redis://h,wait=0", "from 1 to 86400"),
            ("redis://h,max=x", "a size from"),
            ("redis://h,level=3", "no setting of a server"),
            ("redis://h,force", "no setting of that place"),
            ("lz4,max=1M", "no setting of that place"),
        ] {
            let error = parse_swap(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}

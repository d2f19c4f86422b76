//! How the pool makes pages smaller.

#[cfg(feature = "std")]
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use lz4_flex::block::{compress_into, decompress_into};
use machvm_hal::PAGE_SIZE;
#[cfg(feature = "std")]
use zstd::bulk::{Compressor, Decompressor};

use crate::chain::Kind;

/// A way of compressing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// LZ4: a page in 1 or 2 microseconds, back in less than one.
    Lz4,
    /// zstd at this level (1 to 19; 3 is a good one): about a third smaller, and about five
    /// times slower.
    #[cfg(feature = "std")]
    Zstd(i32),
}

/// What a codec needs while it works.
pub(crate) enum Packer {
    Lz4,
    #[cfg(feature = "std")]
    Zstd(i32, Box<[Mutex<Contexts>]>),
}

/// zstd's working memory; whoever packs or unpacks has one for itself.
#[cfg(feature = "std")]
pub(crate) struct Contexts {
    pack: Compressor<'static>,
    unpack: Decompressor<'static>,
}

#[cfg(feature = "std")]
impl Contexts {
    /// `None`: no memory. They have worked once, so that they need no more of it later.
    fn new(level: i32) -> Option<Self> {
        let mut c = Contexts { pack: Compressor::new(level).ok()?, unpack: Decompressor::new().ok()? };
        let page: Vec<u8> = (0..PAGE_SIZE as usize).map(|i| (i * i % 251) as u8).collect();
        let mut packed = vec![0; zstd::zstd_safe::compress_bound(page.len())];
        let len = c.pack.compress_to_buffer(&page, &mut packed[..]).ok()?;
        let mut back = vec![0; page.len()];
        c.unpack.decompress_to_buffer(&packed[..len], &mut back[..]).ok()?;
        Some(c)
    }
}

impl Packer {
    #[cfg_attr(not(feature = "std"), expect(unused_variables, reason = "LZ4 needs no contexts"))]
    pub(crate) fn new(codec: Codec, threads: usize) -> Self {
        match codec {
            Codec::Lz4 => Packer::Lz4,
            #[cfg(feature = "std")]
            Codec::Zstd(level) => {
                let level = level.clamp(1, 19);
                let all: Box<[_]> =
                    (0..threads.max(1)).filter_map(|_| Contexts::new(level)).map(Mutex::new).collect();
                Packer::Zstd(level, all)
            }
        }
    }
    pub(crate) fn codec(&self) -> Codec {
        match self {
            Packer::Lz4 => Codec::Lz4,
            #[cfg(feature = "std")]
            Packer::Zstd(level, _) => Codec::Zstd(*level),
        }
    }
    /// Compresses a page; `None`: it does not become smaller than `to`.
    pub(crate) fn pack(&self, page: &[u8; PAGE_SIZE as usize], to: &mut [u8]) -> Option<(Kind, usize)> {
        match self {
            Packer::Lz4 => compress_into(page, to).ok().map(|len| (Kind::Lz4, len)),
            #[cfg(feature = "std")]
            Packer::Zstd(_, all) => {
                let len = idle(all)?.pack.compress_to_buffer(page, to).ok()?;
                Some((Kind::Zstd, len))
            }
        }
    }
    /// `false`: it does not make a page.
    pub(crate) fn unpack(&self, kind: Kind, packed: &[u8], page: &mut [u8; PAGE_SIZE as usize]) -> bool {
        let whole = |n: usize| n == page_size();
        match (kind, self) {
            (Kind::Lz4, _) => decompress_into(packed, page).is_ok_and(whole),
            #[cfg(feature = "std")]
            (Kind::Zstd, Packer::Zstd(_, all)) => idle(all)
                .is_some_and(|mut c| c.unpack.decompress_to_buffer(packed, &mut page[..]).is_ok_and(whole)),
            _ => false,
        }
    }
}

const fn page_size() -> usize {
    PAGE_SIZE as usize
}

#[cfg(feature = "std")]
/// The first contexts that nobody uses; if all are in use, the first.
fn idle(all: &[Mutex<Contexts>]) -> Option<MutexGuard<'_, Contexts>> {
    for one in all {
        match one.try_lock() {
            Ok(c) => return Some(c),
            Err(TryLockError::Poisoned(c)) => return Some(c.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }
    all.first().map(|c| c.lock().unwrap_or_else(PoisonError::into_inner))
}

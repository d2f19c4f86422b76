//! A disk whose device misbehaves.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::*;

/// What a device does wrong: one request in so many; 0: never.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) write_error: AtomicU32,
    pub(crate) short_write: AtomicU32,
    pub(crate) read_error: AtomicU32,
    /// A write that says it is whole and is not.
    pub(crate) torn: AtomicU32,
    /// A read with one bit wrong.
    pub(crate) flip: AtomicU32,
    /// Writes end only when they are waited for, the last one first.
    pub(crate) late: AtomicBool,
}

struct Inner {
    data: Vec<u8>,
    random: u64,
    done: Vec<Done>,
    begun: Vec<(usize, Arc<Buffer>, Range<usize>, u64)>,
}

/// A device in memory.
#[derive(Clone)]
pub(crate) struct BadBlock {
    inner: Arc<Mutex<Inner>>,
    pub(crate) faults: Arc<Faults>,
}

impl BadBlock {
    pub(crate) fn new(pages: u64, seed: u64) -> Self {
        let data = vec![0x5a; (pages as usize + 1) * PAGE];
        let inner = Inner { data, random: seed | 1, done: Vec::new(), begun: Vec::new() };
        BadBlock { inner: Arc::new(Mutex::new(inner)), faults: Arc::default() }
    }
    pub(crate) fn disk(&self, name: &str, pages: u64, encrypt: bool) -> Disk {
        let file = Arc::new(std::fs::File::open("/dev/null").expect("/dev/null"));
        let opened = Opened::for_tests(name, file, pages);
        Disk::new(opened, Box::new(self.clone()), encrypt)
    }
    fn bytes(&self) -> Vec<u8> {
        self.inner.lock().unwrap().data.clone()
    }
}

impl Inner {
    fn one_in(&mut self, n: &AtomicU32) -> bool {
        let n = n.load(Relaxed);
        n != 0 && self.next().is_multiple_of(u64::from(n))
    }
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }
    fn write(&mut self, f: &Faults, (token, from, part, at): (usize, Arc<Buffer>, Range<usize>, u64)) {
        let mut n = part.len();
        let result = if self.one_in(&f.write_error) {
            n = 0;
            Err(io::Error::from_raw_os_error(5))
        } else if self.one_in(&f.short_write) {
            n = self.next() as usize % n;
            Ok(n)
        } else if self.one_in(&f.torn) {
            n /= 2;
            Ok(part.len())
        } else {
            Ok(n)
        };
        let at = at as usize;
        self.data[at..at + n].copy_from_slice(&from.bytes()[part.start..part.start + n]);
        drop(from);
        self.done.push(Done { token, result });
    }
}

impl Block for BadBlock {
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        let mut i = self.inner.lock().unwrap();
        if i.one_in(&self.faults.read_error) {
            return Err(io::Error::from_raw_os_error(5));
        }
        to.copy_from_slice(&i.data[at as usize..at as usize + to.len()]);
        if i.one_in(&self.faults.flip) {
            let bit = i.next() as usize % (to.len() * 8);
            to[bit / 8] ^= 1 << (bit % 8);
        }
        Ok(to.len())
    }
    fn begin_write(&self, token: usize, from: &Arc<Buffer>, part: Range<usize>, at: u64) -> io::Result<()> {
        let mut i = self.inner.lock().unwrap();
        i.begun.push((token, Arc::clone(from), part, at));
        if !self.faults.late.load(Relaxed) {
            while let Some(write) = i.begun.pop() {
                i.write(&self.faults, write);
            }
        }
        Ok(())
    }
    fn finished(&self, wait: bool) -> Option<Done> {
        let mut i = self.inner.lock().unwrap();
        if wait
            && i.done.is_empty()
            && let Some(write) = i.begun.pop()
        {
            i.write(&self.faults, write);
        }
        i.done.pop()
    }
    fn method(&self) -> &'static str {
        "memory"
    }
}

struct Pages<'a>(&'a [PageBytes]);
impl PageRun for Pages<'_> {
    fn pages(&self) -> usize {
        self.0.len()
    }
    fn read(&self, i: usize, to: &mut PageBytes) {
        *to = self.0[i];
    }
}

fn pages(n: usize, seed: u8) -> Vec<PageBytes> {
    (0..n).map(|k| core::array::from_fn(|i| (i as u8).wrapping_mul(seed).wrapping_add(k as u8))).collect()
}
fn ids(n: usize, from: u64) -> Vec<PageId> {
    (0..n as u64).map(|i| PageId(from + i)).collect()
}
fn put(d: &Disk, pages: &[PageBytes], ids: &[PageId]) -> (Vec<Option<Place>>, Result<(), TierError>) {
    let mut places = vec![None; pages.len()];
    let done = d.put_run(&Pages(pages), ids, &mut places);
    (places, done)
}

#[test]
fn s07_a_run_is_contiguous_and_read_with_one_request() {
    let block = BadBlock::new(200, 1);
    let d = block.disk("d", 200, true);
    let (pages, ids) = (pages(32, 3), ids(32, 100));
    let (places, done) = put(&d, &pages, &ids);
    assert_eq!(done, Ok(()));
    let first = places[0].expect("kept").0;
    assert!(places.iter().enumerate().all(|(i, p)| *p == Some(Place(first + i as u64))));
    d.drain().expect("written");
    assert_eq!(d.stats().writes, 1);
    let wanted: Vec<_> = (0..16).rev().map(|i| (ids[i], places[i].unwrap())).collect();
    let mut seen = 0;
    d.get_run(&wanted, &mut |k, read| {
        assert!(read.expect("read") == &pages[15 - k]);
        seen += 1;
    });
    assert_eq!((seen, d.stats().reads), (16, 1));
    for (id, place) in ids.iter().zip(&places) {
        d.free(*id, place.unwrap());
    }
    let s = d.stats();
    assert_eq!((s.pages, s.puts, s.frees, s.gets), (0, 32, 32, 16));
    assert_eq!(d.get(ids[0], places[0].unwrap(), &mut [0; PAGE]), Err(TierError::Lost));
}

#[test]
fn s07_scattered_blocks_take_smaller_runs() {
    let d = BadBlock::new(64, 1).disk("d", 64, false);
    let all: Vec<_> = ids(64, 1);
    let (mut places, _) = put(&d, &pages(32, 1), &all[..32]);
    places.extend(put(&d, &pages(32, 2), &all[32..]).0);
    for i in (0..64).filter(|i| i % 4 != 0) {
        d.free(all[i], places[i].unwrap());
    }
    d.drain().expect("written");
    let (again, done) = put(&d, &pages(32, 9), &ids(32, 1000));
    assert_eq!(done, Ok(()), "runs of three blocks");
    assert!(again.iter().all(Option::is_some));
    let (last, done) = put(&d, &pages(32, 9), &ids(32, 2000));
    assert_eq!((last.iter().flatten().count(), done), (16, Err(TierError::Full)));
}

#[test]
fn nothing_readable_reaches_the_device() {
    for encrypt in [true, false] {
        let block = BadBlock::new(64, 1);
        let d = block.disk("d", 64, encrypt);
        let secret = *b"the key of the house is under the mat";
        let mut page = [0; PAGE];
        page[1000..1000 + secret.len()].copy_from_slice(&secret);
        let (places, _) = put(&d, &[page], &[PageId(1)]);
        d.drain().expect("written");
        let readable = block.bytes().windows(secret.len()).any(|w| w == secret);
        assert_eq!(readable, !encrypt);
        let mut back = [0; PAGE];
        assert_eq!(d.get(PageId(1), places[0].unwrap(), &mut back), Ok(()));
        assert!(back == page);
    }
}

/// z80: the page is there as long as memory lasts.
#[test]
fn z80_what_cannot_be_written_is_kept_and_stranded() {
    let block = BadBlock::new(2000, 1);
    let d = block.disk("d", 2000, true);
    block.faults.write_error.store(1, Relaxed);
    let (pages, mut kept) = (pages(32, 5), Vec::new());
    for n in 0..FLIGHTS as u64 {
        let ids = ids(32, 1 + n * 32);
        let (places, done) = put(&d, &pages, &ids);
        assert_eq!(done, Ok(()));
        kept.push((ids, places));
    }
    assert_eq!(put(&d, &pages, &ids(32, 9000)).1, Err(TierError::Full), "no buffer is left");
    assert_eq!(d.drain(), Err(TierError::Io(5)));
    let mut stranded = [PageId(0); 32];
    assert_eq!(d.stranded(&mut stranded), 32);
    let mut page = [0; PAGE];
    for (ids, places) in &kept {
        for i in 0..32 {
            assert_eq!(d.get(ids[i], places[i].unwrap(), &mut page), Ok(()));
            assert!(page == pages[i]);
        }
    }
    block.faults.write_error.store(0, Relaxed);
    // It works again: found out with a page that is there.
    d.try_again();
    for (id, place) in kept[3].0.iter().zip(&kept[3].1) {
        d.free(*id, place.unwrap());
    }
    let (places, done) = put(&d, &pages, &ids(32, 9000));
    assert_eq!((places.iter().flatten().count(), done), (32, Ok(())));
    let s = d.stats();
    assert_eq!((s.retired, s.pages), ((FLIGHTS as u64 - 1) * 32, FLIGHTS as u64 * 32));
    assert!(s.errors[0] >= FLIGHTS as u64);
}

#[test]
fn s08_pages_are_read_and_freed_while_their_write_is_under_way() {
    let block = BadBlock::new(64, 1);
    block.faults.late.store(true, Relaxed);
    let d = block.disk("d", 64, true);
    let (pages, names) = (pages(32, 5), ids(32, 1));
    let (places, _) = put(&d, &pages, &names);
    let mut page = [0; PAGE];
    assert_eq!((d.stats().in_flight, d.get(names[7], places[7].unwrap(), &mut page)), (32, Ok(())));
    assert!(page == pages[7] && d.stats().reads == 0);
    // Their blocks come free only when the write is over: a later one must not be overtaken.
    names.iter().zip(&places).for_each(|(id, p)| d.free(*id, p.unwrap()));
    assert_eq!(d.stats().pages, 0);
    let more: Vec<_> = put(&d, &pages, &ids(32, 100)).0;
    assert!(more.iter().flatten().all(|p| !places.contains(&Some(*p))));
    d.drain().expect("written");
    assert!(put(&d, &pages, &ids(32, 200)).0.iter().all(Option::is_some));
}

#[test]
fn damage_is_found_wherever_it_is() {
    for encrypt in [true, false] {
        let block = BadBlock::new(64, 9);
        let d = block.disk("d", 64, encrypt);
        let (pages, names) = (pages(2, 5), ids(2, 1));
        let (places, _) = put(&d, &pages, &names);
        d.drain().expect("written");
        let good = block.bytes();
        let (a, b) = (places[0].unwrap(), places[1].unwrap());
        let mut page = [0; PAGE];
        let at = |p: Place| offset(p.0) as usize;
        let mut check = |what: &str, damage: &dyn Fn(&mut Vec<u8>)| {
            damage(&mut block.inner.lock().unwrap().data);
            assert_eq!(d.get(names[0], a, &mut page), Err(TierError::Lost), "{what}");
            block.inner.lock().unwrap().data.clone_from(&good);
            assert_eq!(d.get(names[0], a, &mut page), Ok(()), "{what} is mended");
        };
        check("a bit", &|data| data[at(a) + 77] ^= 4);
        check("half of it", &|data| data[at(a) + 2048..at(a) + 4096].fill(0));
        check("another page", &|data| data.copy_within(at(b)..at(b) + PAGE, at(a)));
        assert_eq!(d.get(PageId(77), a, &mut page), Err(TierError::Lost), "somebody else's");
    }
}

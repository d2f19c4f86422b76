//! Address-space numbers, with generations.
//!
//! A pmap's *context* is (generation << 16 | number); it is good while its generation
//! is the present one. Numbers are handed out ascending, once a generation. When they
//! run out the generation rolls over: what each CPU has loaded at that moment is *kept*
//! (its pmap gets the same number again, nobody else does), and every CPU flushes all it
//! has before it uses a number of the new generation.
//!
//! Invariant: **while a CPU's hardware holds a number, the number is one pmap's, and is
//! that pmap's context's.** So who flushes a pmap by the number in its context reaches
//! every CPU that has it loaded; and a CPU that uses a number for the first time in a
//! generation has nothing under it from an earlier owner.
//!
//! Each CPU has a word, its *claim*: the context it has loaded, marked BUSY from before
//! the hardware is switched until after. A roll-over replaces each claim by ROLLED, in one
//! step, waiting while it is BUSY; so the claim it finds is what the hardware holds. A
//! CPU that switches within the generation replaces its claim by a compare-exchange from
//! what it knows, and takes no lock: claim and roll-over meet in the order of that one
//! word. Who finds ROLLED there, or has a context of an old generation, goes through the
//! lock.
//!
//! Number 0 is the kernel's. A machine with one number, or with all numbers in use by
//! other CPUs, loads a user pmap under 0 too (*unnumbered*): it is flushed at every load
//! and, when the CPU leaves for another number, after it. A pmap stays unnumbered while
//! any CPU may have it loaded so.

use machvm_hal::CpuId;
use machvm_sync::atomic::{AtomicU64, Ordering};
use machvm_sync::{Rank, Spin};

const NUMBER_BITS: u32 = 16;
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;
/// In a claim: the hardware is being switched.
const BUSY: u64 = 1 << 63;
/// The generation rolled over, and the CPU has not been here since: it must flush.
const ROLLED: u64 = BUSY - 1;
/// Nothing of a user's is loaded.
const IDLE: u64 = 0;

/// The number in a context.
#[inline]
pub(crate) const fn number(context: u64) -> u16 {
    (context & NUMBER) as u16
}

/// What the pool asks of the one who claims.
pub(crate) trait Claimer {
    /// Flush everything: this CPU's, or with broadcast all CPUs'.
    fn flush_all(&self);
    /// One turn of a loop that waits for another CPU. Serves who waits for this one.
    fn wait(&self);
    /// The pmap's number changes next.
    ///
    /// => no CPU has it loaded.
    fn forget(&self);
}

/// Under the lock.
#[derive(Debug)]
struct Numbers<const CPUS: usize> {
    /// The next to be handed out.
    next: u32,
    /// Contexts that CPUs had at the last roll-over that found them with one.
    kept: [u64; CPUS],
}

impl<const CPUS: usize> Numbers<CPUS> {
    fn next_free(&mut self, limit: u32) -> Option<u64> {
        while self.next < limit {
            let n = u64::from(self.next);
            self.next += 1;
            if !self.kept.iter().any(|k| k & NUMBER == n) {
                return Some(n);
            }
        }
        None
    }

    /// The number that a pmap of the old context keeps. `generation`: the present one.
    fn keep(&mut self, old: u64, generation: u64) -> Option<u64> {
        let n = old & NUMBER;
        if n == 0 {
            // Unnumbered ones look alike: all stay so as long as one may be loaded.
            return (old != 0 && self.kept.iter().any(|k| *k != IDLE && k & NUMBER == 0)).then_some(0);
        }
        let mut found = false;
        for k in self.kept.iter_mut().filter(|k| **k == old) {
            // The next roll-over compares with the context that the pmap has by then.
            *k = generation << NUMBER_BITS | n;
            found = true;
        }
        found.then_some(n)
    }
}

/// One CPU's, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Claim(AtomicU64);

/// See the module text.
#[derive(Debug)]
pub(crate) struct AsidPool<const CPUS: usize> {
    /// Counts from 1. Written under `numbers`.
    generation: AtomicU64,
    /// Numbers are below this; 1: there are none.
    limit: u32,
    /// One CPU's flush reaches all.
    broadcast: bool,
    claims: [Claim; CPUS],
    numbers: Spin<Numbers<CPUS>>,
}

impl<const CPUS: usize> AsidPool<CPUS> {
    /// `limit`: numbers there are, 0 included.
    pub(crate) fn new(limit: u32, broadcast: bool) -> Self {
        AsidPool {
            generation: AtomicU64::new(1),
            limit: limit.clamp(1, 1 << NUMBER_BITS),
            broadcast,
            claims: core::array::from_fn(|_| Claim(AtomicU64::new(IDLE))),
            numbers: Spin::new(Rank::Shootdown, Numbers { next: 1, kept: [IDLE; CPUS] }),
        }
    }

    fn claim_of(&self, cpu: CpuId) -> &AtomicU64 {
        &self.claims[cpu.0 as usize % CPUS].0
    }
    fn is_current(&self, context: u64) -> bool {
        context >> NUMBER_BITS == self.generation.load(Ordering::Relaxed)
    }

    /// A number under which `cpu` may load the pmap of this context, now and until it
    /// claims another or is idle. 0: unnumbered. [`AsidPool::settle`] follows when the
    /// hardware is switched.
    ///
    /// => on `cpu`, which does not leave this thread until it has settled; no claim of it
    ///    is unsettled.
    pub(crate) fn claim(&self, cpu: CpuId, context: &AtomicU64, how: &impl Claimer) -> u16 {
        let mine = self.claim_of(cpu);
        let had = mine.load(Ordering::Relaxed);
        // Acquire pairs with the Release in slowly(): what was forgotten stays so.
        let want = context.load(Ordering::Acquire);
        if had != ROLLED
            && self.is_current(want)
            // Fails when the generation rolled over after these looks. Acquire: the switch
            // comes after.
            && mine.compare_exchange(had, want | BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            return number(want);
        }
        self.slowly(mine, context, how)
    }

    #[cold]
    #[inline(never)]
    fn slowly(&self, mine: &AtomicU64, context: &AtomicU64, how: &impl Claimer) -> u16 {
        // By try: its holder may have been interrupted by one who waits for this CPU.
        let mut numbers = loop {
            if let Some(guard) = self.numbers.try_lock() {
                break guard;
            }
            how.wait();
        };
        let mut want = context.load(Ordering::Relaxed);
        if !self.is_current(want) {
            want = self.renumber(want, &mut numbers, how);
            context.store(want, Ordering::Release);
        }
        if mine.load(Ordering::Relaxed) == ROLLED && !self.broadcast {
            // What the hardware still holds is kept, so nothing foreign comes back after.
            how.flush_all();
        }
        mine.store(want | BUSY, Ordering::Relaxed);
        number(want)
    }

    /// A context of the present generation, which may be a new one.
    fn renumber(&self, old: u64, numbers: &mut Numbers<CPUS>, how: &impl Claimer) -> u64 {
        let present = || self.generation.load(Ordering::Relaxed);
        if let Some(n) = numbers.keep(old, present()) {
            return present() << NUMBER_BITS | n;
        }
        how.forget();
        let n = match numbers.next_free(self.limit) {
            Some(n) => n,
            None if self.limit == 1 => 0,
            None => {
                self.roll_over(numbers, how);
                numbers.next_free(self.limit).unwrap_or(0)
            }
        };
        present() << NUMBER_BITS | n
    }

    fn roll_over(&self, numbers: &mut Numbers<CPUS>, how: &impl Claimer) {
        let next = self.generation.load(Ordering::Relaxed) + 1;
        self.generation.store(next, Ordering::Relaxed);
        for (claim, kept) in self.claims.iter().zip(&mut numbers.kept) {
            loop {
                let had = claim.0.load(Ordering::Relaxed);
                if had == ROLLED {
                    // Not here since the last time: what it had then.
                    break;
                }
                // Acquire pairs with the Release of settle(): the hardware holds what is
                // found here.
                if had & BUSY == 0
                    && claim.0.compare_exchange(had, ROLLED, Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    *kept = had;
                    break;
                }
                how.wait();
            }
        }
        if self.broadcast {
            // No CPU holds a number that is not kept, so none comes back after.
            how.flush_all();
        }
        numbers.next = 1;
    }

    /// The hardware holds what `cpu` claimed.
    pub(crate) fn settle(&self, cpu: CpuId) {
        let mine = self.claim_of(cpu);
        // Nobody else writes a claim that is busy.
        mine.store(mine.load(Ordering::Relaxed) & !BUSY, Ordering::Release);
    }

    /// The hardware of `cpu` holds no number of a user's any more.
    pub(crate) fn idle(&self, cpu: CpuId) {
        let mine = self.claim_of(cpu);
        let had = mine.load(Ordering::Relaxed);
        if had != ROLLED {
            // Fails when the generation rolled over: then it stays to be flushed, and what
            // it had stays kept until it claims again.
            let _ = mine.compare_exchange(had, IDLE, Ordering::Release, Ordering::Relaxed);
        }
    }
}

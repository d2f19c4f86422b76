//! Taking what was gathered out of every TLB.
//!
//! Invariant: **when [`System::shoot`] has returned, no CPU can use a translation, or a
//! table on the way to one, that the tables did not hold any more when it was called.**
//! A CPU can use what it has under the number that it walks, and what is global. Each CPU
//! is one of these:
//!
//! 1. *It has the pmap loaded, or left it a moment ago, or the pmap is the kernel's*: it
//!    is sent a request and has acknowledged it. The tables were written before the
//!    request was put, the flush came before the acknowledgement (`mailbox`).
//! 2. *It has translations under the pmap's number and does not have it loaded*: it is
//!    marked stale, and flushes before it loads the pmap again (`active`, which also says
//!    why no CPU gets in between). The number is nobody else's meanwhile; before it is, the
//!    CPU flushes everything (`asid`).
//! 3. *It has nothing*: whatever it walks later, it finds the new tables.
//!
//! | order | by |
//! |---|---|
//! | table writes, then who is concerned | `fence(SeqCst)` in [`ActiveSet::reach`], against the one of who activates |
//! | table writes, then a CPU's flush | Release of [`Mailbox::ring`], Acquire of who serves; [`Tlb::before`] for its walker |
//! | a CPU's flush, then what the caller frees | [`Tlb::after`], Release of `done`, Acquire of who waits |
//!
//! Where invalidation is broadcast, all of 1 and 2 is one CPU's sequence, and only the
//! first row remains.
//!
//! Two CPUs that shoot at each other with interrupts off: each serves its own mailbox
//! while it waits. Nothing is locked here.
//!
//! A request for a pmap that this CPU does not have loaded (it left it while the request
//! was on its way) is carried out by number (`current: false`), not by marking the CPU
//! stale: that is exact for [`System::flush_everywhere`] too, needs no thought about
//! whether this is inside a switch, and is rare. Where an instruction cannot name another
//! number, the flush sequence takes everything (x86-64 without INVPCID) or nothing is
//! there (no numbers: it was flushed on leaving).
//!
//! [`ActiveSet::reach`]: crate::active::ActiveSet::reach
//! [`Mailbox::ring`]: crate::mailbox::Mailbox::ring

use core::sync::atomic::{Ordering, fence};

use machvm_arch::{Asid, Space, Tlb};
use machvm_hal::{CpuId, CpuSet, Invalidations, VaRange};

use crate::cpu::Loaded;
use crate::mailbox::{Mail, Request};
use crate::port::{Cpus, Port};
use crate::seed::Bug;
use crate::system::{PmapData, PmapId, System};

/// Ranges of one pmap that are sent one by one; more are the whole space.
const MANY: usize = 4;

fn cpus(mut set: CpuSet) -> impl Iterator<Item = CpuId> {
    core::iter::from_fn(move || {
        let next = set.0.trailing_zeros();
        set.0 &= set.0.wrapping_sub(1);
        (next < 64).then_some(CpuId(next as u16))
    })
}

fn without(set: CpuSet, cpu: CpuId) -> CpuSet {
    CpuSet(set.0 & !(1 << (cpu.0 % 64)))
}

/// What is asked for: per pmap its ranges, or the whole space when they are many.
/// Requests of one pmap follow each other.
fn each_request<T: Tlb>(what: &Invalidations<'_>, mut f: impl FnMut(Request)) {
    let ranges = what.ranges;
    for (i, (tag, _)) in ranges.iter().enumerate() {
        if ranges[..i].iter().any(|(t, _)| t == tag) {
            continue; // asked for with the first
        }
        let own = || ranges[i..].iter().filter(|(t, _)| t == tag).map(|(_, r)| *r);
        let pages = own().map(VaRange::pages).fold(0, u64::saturating_add);
        if own().count() > MANY || pages > T::MAX_PAGES {
            f(Request { tag: *tag, range: None, walks: true });
        } else {
            own().for_each(|r| f(Request { tag: *tag, range: Some(r), walks: what.walks }));
        }
    }
}

impl<P: Port> System<P> {
    /// See the module text.
    ///
    /// => the tables are written. No spin lock is held: other CPUs are waited for, and
    ///    theirs are answered meanwhile.
    pub(crate) fn shoot(&self, what: &Invalidations<'_>) {
        let _pin = self.port.cpus().pin();
        let me = self.port.cpus().current();
        if self.port.seeded(Bug::LocalFlushOnly) {
            return self.only_here(what);
        }
        if P::Tlb::BROADCAST {
            return self.broadcast(what, me);
        }
        if what.all {
            return self.everything(me);
        }
        let mut asked = 0;
        let (mut last, mut reach) = (0, CpuSet(0));
        each_request::<P::Tlb>(what, |r| {
            if r.tag != last {
                (last, reach) = (r.tag, self.reach(r.tag, me));
            }
            for cpu in cpus(without(reach, me)) {
                self.per_cpu(cpu).mail.put(r);
            }
            asked |= reach.0;
        });
        let asked = without(CpuSet(asked), me);
        self.interrupt(asked);
        let tlb = self.port.tlb();
        tlb.before();
        each_request::<P::Tlb>(what, |r| {
            if self.concerns(r.tag, me) {
                self.carry_out(Mail::One(r), me);
            }
        });
        tlb.after();
        self.wait_for(asked, me);
    }

    /// No CPU has anything of the pmap, loaded or not, and none remembers its tables.
    ///
    /// => as [`System::shoot`]; nobody activates it meanwhile.
    pub(crate) fn flush_everywhere(&self, id: PmapId) {
        let _pin = self.port.cpus().pin();
        let me = self.port.cpus().current();
        let everyone = self.pmap(id).cpus.everyone();
        let request = Request { tag: id.raw(), range: None, walks: true };
        let others = if P::Tlb::BROADCAST || self.port.seeded(Bug::LocalFlushOnly) {
            CpuSet(0)
        } else {
            CpuSet(without(everyone, me).0 & self.port.cpus().online().0)
        };
        for cpu in cpus(others) {
            self.per_cpu(cpu).mail.put(request);
        }
        self.interrupt(others);
        if everyone.0 != 0 && (P::Tlb::BROADCAST || without(everyone, me) != everyone) {
            let tlb = self.port.tlb();
            tlb.before();
            self.carry_out(Mail::One(request), me);
            tlb.after();
        }
        self.wait_for(others, me);
    }

    /// What the handler of [`Cpus::send_ipi`]'s interrupt calls: carries out what other
    /// CPUs ask of this one.
    ///
    /// A CPU that goes offline calls it once more after it has left [`Cpus::online`], and
    /// one that comes online flushes everything after it is there.
    ///
    /// => preemption off; interrupts as you like. Takes no lock and waits for nothing.
    pub fn shootdown_interrupt(&self) {
        self.serve(self.port.cpus().current());
    }

    /// => on `me`, pinned.
    pub(crate) fn serve(&self, me: CpuId) {
        let tlb = self.port.tlb();
        self.per_cpu(me).mail.serve(|round| {
            tlb.before();
            round.each(|mail| self.carry_out(mail, me));
            tlb.after();
        });
    }

    /// Who must be asked to flush of this pmap now; the others are marked.
    fn reach(&self, tag: u32, me: CpuId) -> CpuSet {
        let online = self.port.cpus().online();
        let Some((id, pm)) = self.tagged(tag) else { return CpuSet(0) };
        if id == self.kernel_id() {
            fence(Ordering::SeqCst); // the tables, then who is there
            return self.port.cpus().online();
        }
        let now = pm.cpus.reach(online);
        if !self.port.seeded(Bug::CpusReadEarly) {
            return now;
        }
        // What was true at the last flush from here, before the tables were written.
        let [of, set] = &self.per_cpu(me).early;
        let early = CpuSet(set.swap(now.0, Ordering::Relaxed));
        if of.swap(u64::from(tag), Ordering::Relaxed) == u64::from(tag) { early } else { now }
    }

    fn tagged(&self, tag: u32) -> Option<(PmapId, &PmapData)> {
        Some((PmapId::from_raw(tag)?, self.pmaps.lookup(tag)?))
    }

    /// Does this CPU flush for it too? Else it has nothing, or was marked.
    fn concerns(&self, tag: u32, me: CpuId) -> bool {
        self.tagged(tag).is_some_and(|(id, pm)| id == self.kernel_id() || pm.cpus.is_active(me))
    }

    /// The instructions, on this CPU.
    ///
    /// => between [`Tlb::before`] and [`Tlb::after`].
    fn carry_out(&self, mail: Mail, me: CpuId) {
        let tlb = self.port.tlb();
        let Mail::One(r) = mail else { return tlb.flush_all() };
        let Some((id, pm)) = self.tagged(r.tag) else { return };
        let space = if id == self.kernel_id() {
            Space::Kernel
        } else {
            match self.per_cpu(me).loaded() {
                Loaded::Unknown => return tlb.flush_all(),
                Loaded::User(here, asid) if here == id => Space::User { asid: Asid(asid), current: true },
                _ => Space::User { asid: pm.asid(), current: false },
            }
        };
        match r.range {
            Some(range) => tlb.flush_range(space, range, r.walks),
            None => tlb.flush_space(space),
        }
    }

    fn broadcast(&self, what: &Invalidations<'_>, me: CpuId) {
        let tlb = self.port.tlb();
        tlb.before();
        if what.all {
            tlb.flush_all();
        } else {
            each_request::<P::Tlb>(what, |r| {
                // Fences: the number in the context is read after the tables were written.
                let used = |(id, pm): (_, &PmapData)| id == self.kernel_id() || pm.cpus.everyone().0 != 0;
                if self.tagged(r.tag).is_some_and(used) {
                    self.carry_out(Mail::One(r), me);
                }
            });
        }
        tlb.after();
    }

    fn everything(&self, me: CpuId) {
        fence(Ordering::SeqCst); // the tables, then who is there
        let others = without(self.port.cpus().online(), me);
        for cpu in cpus(others) {
            self.per_cpu(cpu).mail.put_everything();
        }
        self.interrupt(others);
        let tlb = self.port.tlb();
        tlb.before();
        tlb.flush_all();
        tlb.after();
        self.wait_for(others, me);
    }

    fn interrupt(&self, others: CpuSet) {
        for cpu in cpus(others) {
            self.per_cpu(cpu).mail.ring();
        }
        if others.0 != 0 {
            // Weakly ordered machines send the interrupt by a store: the requests first.
            fence(Ordering::SeqCst);
            self.port.cpus().send_ipi(others);
        }
    }

    fn wait_for(&self, others: CpuSet, me: CpuId) {
        for cpu in cpus(others) {
            let mail = &self.per_cpu(cpu).mail;
            let ring = mail.rung();
            while !mail.is_done(ring) {
                self.serve(me);
                self.port.cpus().relax();
            }
        }
    }

    /// [`Bug::LocalFlushOnly`].
    fn only_here(&self, what: &Invalidations<'_>) {
        let (tlb, me) = (self.port.tlb(), self.port.cpus().current());
        if !P::Tlb::BROADCAST {
            tlb.before();
            match what.all {
                true => tlb.flush_all(),
                false => each_request::<P::Tlb>(what, |r| self.carry_out(Mail::One(r), me)),
            }
            return tlb.after();
        }
        // The only sequence there that stays on its CPU.
        for (tag, range) in what.ranges {
            let Some((id, pm)) = self.tagged(*tag) else { continue };
            let space = if id == self.kernel_id() { Space::Kernel } else { pm.space_here() };
            range.iter().take(P::Tlb::MAX_PAGES as usize).for_each(|va| tlb.spurious(space, va));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

//! One virtual memory system. No statics: a test may make a hundred of these.

use machvm_arena::{NoMemory, Slab};
use machvm_hal::{Gather, MaySleep, PageArray, PhysMem, Placement};
use machvm_sync::{Rank, Spin};

use crate::map::{Body, Entry, Later};
use crate::object::{Anon, Nodes, Object, Volatile};
use crate::page::{self, Frames, FreeBatch, PageTable, QueueId, Queues};
use crate::pageout::Control;
use crate::platform::Platform;
use crate::stats::{Counters, Stats};

/// Most objects of one kind in one `Vm`: what 31-bit handles name.
const SLAB_LIMIT: u32 = (1 << 31) - 1;

/// The system: pages, anons, objects and map entries of one platform.
pub struct Vm<P: Platform> {
    pub(crate) plat: P,
    pub(crate) pages: PageTable<P>,
    pub(crate) anons: Slab<Anon, P::Chunks>,
    pub(crate) nodes: Nodes<P>,
    pub(crate) objects: Slab<Object, P::Chunks>,
    pub(crate) entries: Slab<Entry, P::Chunks>,
    pub(crate) bodies: Slab<Body, P::Chunks>,
    pub(crate) frames: Frames<P::Chunks>,
    pub(crate) queues: Queues,
    /// What pagers know of objects.
    pub(crate) controls: Slab<crate::pager::Control, P::Chunks>,
    /// Those in use.
    pub(crate) memory_objects: Spin<crate::pager::Table>,
    /// Some pager is to be told of a copy.
    pub(crate) copies_untold: machvm_sync::Field32,
    /// Next unused stray frame number; 0: none reserved yet.
    pub(crate) strays: Spin<u64>,
    /// Objects whose contents may be thrown away.
    pub(crate) volatile: Volatile,
    /// Contents that were replaced and are freed later.
    pub(crate) later: Later,
    /// What page-out remembers.
    pub(crate) control: Control,
    /// What was promised.
    pub(crate) commit: crate::commit::Commit,
    pub(crate) stats: Counters,
}

impl<P: Platform> Vm<P> {
    /// A system over `plat`.
    ///
    /// # Errors
    /// [`NoMemory`]: the platform has no chunk for the page structures (dense
    /// placement makes them all now).
    pub fn new(plat: P) -> Result<Self, NoMemory> {
        let c = plat.chunks();
        let first = match plat.mem().placement() {
            Placement::Dense { first, .. } => Some(first),
            Placement::Sparse { .. } => None,
        };
        let pages = PageTable { slab: Slab::new(c, SLAB_LIMIT), first };
        let frames = Frames::new(&plat, &pages)?;
        Ok(Vm {
            pages,
            frames,
            anons: Slab::new(c, SLAB_LIMIT),
            nodes: Nodes { leaves: Slab::new(c, SLAB_LIMIT), inners: Slab::new(c, SLAB_LIMIT) },
            objects: Slab::new(c, SLAB_LIMIT),
            entries: Slab::new(c, SLAB_LIMIT),
            bodies: Slab::new(c, SLAB_LIMIT),
            queues: Queues::new(),
            controls: Slab::new(c, SLAB_LIMIT),
            memory_objects: crate::pager::Table::new(),
            copies_untold: machvm_sync::Field32::new(0),
            strays: Spin::new(Rank::PagerTable, 0),
            volatile: Volatile::default(),
            later: Later::default(),
            control: Control::new(plat.policy()),
            commit: crate::commit::Commit::default(),
            stats: Counters::default(),
            plat,
        })
    }

    /// The embedder's side.
    pub fn platform(&self) -> &P {
        &self.plat
    }
    /// Waiting and time.
    pub fn host(&self) -> &P::Host {
        self.plat.host()
    }
    /// Frames.
    pub fn mem(&self) -> &P::Mem {
        self.plat.mem()
    }
    /// What pmaps are given to find pages.
    pub fn page_array(&self) -> &(impl PageArray + use<P>) {
        &self.pages
    }

    /// Finishes the invalidations of a gather and frees the pages that rode in it.
    pub(crate) fn finish(&self, g: Gather, may: &mut MaySleep) {
        let flushed = g.finish(self.plat.flush(), may);
        let mut next = flushed.dead.map(page::handle);
        let mut batch = FreeBatch::new(self);
        while let Some(h) = next {
            next = self.pages.get(h).q_next.get();
            batch.push(h);
        }
    }

    /// The most frames that may be in use ([`Stats::frame_limit`]), without what a reading of everything costs.
    pub fn frame_limit(&self) -> u64 {
        self.frames.limit()
    }

    /// A reading of the counters.
    pub fn statistics(&self) -> Stats {
        let own = self.pages.slab.touched_bytes()
            + self.anons.touched_bytes()
            + self.nodes.leaves.touched_bytes()
            + self.nodes.inners.touched_bytes()
            + self.objects.touched_bytes()
            + self.controls.touched_bytes()
            + self.entries.touched_bytes()
            + self.bodies.touched_bytes()
            + self.frames.touched_bytes();
        self.queues.settle(&self.pages);
        let reservations = self.frames.reserv_stats();
        Stats {
            reservations: reservations.active,
            reservations_made: reservations.made,
            reservations_broken: reservations.broken,
            frames_taken: self.frames_taken(),
            frame_limit: self.frames.limit(),
            frames_resident: self.frames.charged(),
            frames_peak: self.frames.peak(),
            frame_target: self.frames.target(),
            frame_low: self.frames.low(),
            frame_min: self.frames.low() / 4,
            frame_reserve: self.frames.reserve(),
            active: self.queues.len(QueueId::Active) + self.queues.len(QueueId::Fresh),
            fresh: self.queues.len(QueueId::Fresh),
            inactive: self.queues.len(QueueId::Inactive),
            laundry: self.queues.len(QueueId::Laundry),
            unswappable: self.queues.len(QueueId::Unswappable),
            map_entries: u64::from(self.entries.live()),
            own_bytes: own as u64,
            ..self.stats.read()
        }
    }

    /// Structures in use, for leak checks: pages charged (without the embedder's
    /// frames), anons, leaves, inner
    /// nodes, objects, entries.
    pub fn live(&self) -> [u64; 6] {
        [
            self.frames.charged().saturating_sub(self.frames_taken()),
            u64::from(self.anons.live()),
            u64::from(self.nodes.leaves.live()),
            u64::from(self.nodes.inners.live()),
            u64::from(self.objects.live()),
            u64::from(self.entries.live()),
        ]
    }
}

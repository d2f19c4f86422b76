//! Copying objects: one more tree over the same anons (decision 2).

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;
use machvm_arena::{Handle, NoMemory};
use machvm_hal::{Gather, MaySleep, PAGE_SHIFT, PmapPage};

use super::held::Short;
use super::{Object, ObjectFlags, Source, Tree};
use crate::page::{self, FreeBatch};
use crate::platform::Platform;
use crate::vm::Vm;

/// A copy of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    /// It has one reference.
    pub(crate) object: Handle<Object>,
    /// It has all contents, not only those that were asked for.
    pub(crate) whole: bool,
}

/// How much of an object a copy is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Much {
    /// All, for more than one user: it costs nothing.
    All,
    /// What is kept. Nobody would look at the rest, which had to be kept for nobody when the
    /// original changes.
    Kept,
}

/// Rounds of making room for one copy with held pages: each finds less to page out.
const COPY_TRIES: u32 = 50;

impl<P: Platform> Vm<P> {
    /// A copy-on-write snapshot with the same indices, of which the caller uses `keep`;
    /// held pages are copied at once, and then there is nothing outside `keep`, nor if no
    /// more is wanted. The caller
    /// then takes write access from every mapping of the source that it knows, but from
    /// those of pages that are not shared afterwards; mappings through other entries are
    /// handled here.
    ///
    /// => a map may be write locked: waits for memory at most. What `g` has gathered is
    ///    finished before other mappings are taken away here.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing changed.
    pub(crate) fn object_copy(
        &self,
        h: Handle<Object>,
        (much, keep): (Much, Range<u64>),
        g: &mut Gather,
        may: &mut MaySleep,
    ) -> Result<Copied, NoMemory> {
        let object = self.objects.get(h);
        if let Some(copy) = self.object_copy_of_bytes(h, may) {
            return copy.map(|object| Copied { object, whole: true });
        }
        if much == Much::All && self.object_has_replaced(h) {
            // Else the copy would keep what nobody can see.
            self.finish(core::mem::take(g), may);
            self.free_replaced_of(h, may);
        }
        let copy = self.object_make(object.capacity.get())?;
        let to = self.objects.get(copy);
        let mut tries = 0;
        let (tree, source, whole) = loop {
            match self.share_tree(h, copy, (much, keep.clone()), may) {
                Ok(shared) => break shared,
                Err((Short::Frames, need)) if tries < COPY_TRIES => {
                    tries += 1;
                    self.finish(core::mem::take(g), may);
                    let more = need.saturating_sub(self.frames.free());
                    if (more == 0 || self.pageout(more, may) == 0) && !self.make_room(may) {
                        tries = COPY_TRIES;
                    }
                }
                Err(_) => {
                    self.object_deallocate(copy, may);
                    return Err(NoMemory);
                }
            }
        };
        {
            let mut dst = to.lock.write(self.plat.host(), may);
            dst.tree = tree;
            to.set_source(&mut dst, source);
            // Mapped where the original is.
            to.color.set(object.color.get());
            if let Some(s) = source {
                to.flags.atomic().fetch_or(ObjectFlags::PAGER.bits(), Relaxed);
                self.plat.pager_used(s.pager);
            }
        }
        if object.flags().contains(ObjectFlags::SHARED) && !self.object_is_private_sole(h) {
            self.finish(core::mem::take(g), may);
            self.write_protect_all(&tree, may);
        }
        self.stats.copies.atomic().fetch_add(1, Relaxed);
        Ok(Copied { object: copy, whole })
    }

    /// Another tree for the contents of `h`, with copies of what is held for `copy`: the
    /// tree, what absent contents come from, and whether all of it is there. On failure
    /// what was short, and how many frames are needed.
    fn share_tree(
        &self,
        h: Handle<Object>,
        copy: Handle<Object>,
        (much, keep): (Much, Range<u64>),
        may: &mut MaySleep,
    ) -> Result<(Tree, Option<Source>, bool), (Short, u64)> {
        let (object, to) = (self.objects.get(h), self.objects.get(copy));
        let inner = object.lock.write(self.plat.host(), may);
        let mut mine = inner.tree;
        let held = self.tree_settle_held(&inner.tree);
        let sliced = !held && much == Much::Kept && !self.tree_within(&mine, &keep);
        if sliced {
            mine = self.tree_slice(&mine, &keep).map_err(|NoMemory| (Short::Structures, 0))?;
        } else {
            self.tree_reference(&mine);
        }
        if held && let Err(short) = self.copy_held(&inner.tree, &mut mine, copy, keep.clone()) {
            self.tree_release(mine, &mut FreeBatch::new(self));
            return Err((short, self.tree_count_held(&inner.tree, keep)));
        }
        // Both sides may now have pages of the other's extent.
        for o in [object, to] {
            o.flags.atomic().fetch_or(ObjectFlags::COPIED.bits(), Relaxed);
        }
        if let Some(original) = self.original_of(h) {
            // Locked before the contents that are shared can change.
            if original == h {
                self.copy_link(h, copy);
                self.copy_note(h, keep.start << PAGE_SHIFT, (keep.end - keep.start) << PAGE_SHIFT);
            } else {
                let _below = self.objects.get(original).lock.write_second(self.host(), may);
                self.copy_link(original, copy);
            }
        }
        Ok((mine, inner.source, !held && !sliced))
    }

    /// Takes write access from every mapping of every resident page of the tree.
    ///
    /// It is a copy's, which nobody knows yet, and what it names is shared already, so
    /// whoever takes a page busy after this sees that.
    fn write_protect_all(&self, tree: &Tree, may: &mut MaySleep) {
        let mut next = 0;
        loop {
            let mut found = None;
            self.tree_for_each(tree, next, u64::MAX - next, &mut |i, a| {
                found = self.anons.get(a).page().map(|p| (i, a, p));
                found.is_none()
            });
            let Some((i, a, p)) = found else { return };
            match self.anon_busy_page(a, p) {
                Ok(()) => {
                    let mut g = Gather::new();
                    self.plat.pmap_page().page_write_protect(&self.pages, &[page::number(p)], &mut g);
                    self.finish(g, may);
                    self.page_unbusy(p);
                    next = i + 1;
                }
                // It has no contents yet: whoever fills it sees that it is shared.
                Err(Some(busy)) if self.page_is_pending(busy) => next = i + 1,
                Err(Some(busy)) => self.wait_page_settled(busy, may),
                Err(None) => {}
            }
        }
    }
}

//! The data of an object's pager became shorter or longer (G13 `vnode_pager_setsize`).

use machvm_arena::{Handle, NoMemory};
use machvm_hal::{MaySleep, PAGE_SHIFT, PAGE_SIZE, PagerError, PhysMem, Pindex};

use super::{Object, RemoveFlags, TO_THE_END};
use crate::page::{GrabError, GrabFlags, handle};
use crate::platform::Platform;
use crate::vm::Vm;

/// How often memory is made room for: there may be frames, and none for structures.
const TRIES: u32 = 100;

impl<P: Platform> Vm<P> {
    /// The object's data ends after `bytes` bytes from its first page on (G13
    /// `vnode_pager_setsize`). Pages behind the end are freed, modified or not, and no mapping
    /// has them any more: the next access asks the pager, who says that it is beyond. The rest of
    /// the last page becomes zero, which does not make the page a modified one. Of pages before the
    /// end nobody is told any more that they are behind it.
    ///
    /// Copies of the object keep the pages that they share. Pages that are wired or held for I/O
    /// stay where they are, and become zero: gives how many.
    ///
    /// => nothing is locked, and the caller has a reference to the object. Its pager knows the
    ///    new size already: a page that is on its way in is waited for, and a later one has none
    ///    of the old contents.
    ///
    /// # Errors
    /// [`NoMemory`]: nodes of the tree that copies share had to be copied, and nothing could be
    /// paged out for that; a part is done.
    pub fn vm_object_set_size(
        &self,
        object: Handle<Object>,
        bytes: u64,
        may: &mut MaySleep,
    ) -> Result<u64, NoMemory> {
        let first = Pindex(bytes.div_ceil(PAGE_SIZE));
        let mut tries = 0;
        let mut kept = loop {
            match self.vm_object_page_remove(object, first, TO_THE_END, RemoveFlags::empty(), may) {
                Ok(kept) => break kept,
                Err(NoMemory) => self.try_again(&mut tries, may)?,
            }
        };
        self.forget_ends(object, first, may);
        if kept != 0 {
            self.clear_kept(object, first, may);
        }
        if !bytes.is_multiple_of(PAGE_SIZE) {
            let (last, off) = (Pindex(bytes >> PAGE_SHIFT), (bytes % PAGE_SIZE) as usize);
            kept += u64::from(!self.clear_tail(object, last, off, may)?);
        }
        Ok(kept)
    }

    /// Nobody is told any more that a page before `end` is beyond the end: it was, when it was
    /// asked for ahead of time. Waits for those that are on their way in.
    fn forget_ends(&self, object: Handle<Object>, end: Pindex, may: &mut MaySleep) {
        let mut from = 0;
        loop {
            let mut busy = None;
            {
                let inner = self.objects.get(object).lock.read(self.host(), may);
                self.tree_for_each(&inner.tree, from, end.0.saturating_sub(from), &mut |i, a| {
                    let anon = self.anons.get(a);
                    anon.clear_error(PagerError::Beyond);
                    let page = anon.page().filter(|p| self.pages.get(*p).busy.is_busy());
                    busy = page.filter(|p| !self.page_is_pending(*p)).map(|p| (i, p));
                    busy.is_none()
                });
            }
            let Some((i, page)) = busy else { return };
            from = i;
            self.wait_page_settled(page, may);
        }
    }

    /// Zeroes what could not be freed; what copies share is theirs, too.
    fn clear_kept(&self, object: Handle<Object>, first: Pindex, may: &mut MaySleep) {
        let zero = [0; PAGE_SIZE as usize];
        let _ = self.each_page::<()>(object, first, TO_THE_END, may, &mut |x, may| {
            if !x.is_shared(may) {
                self.mem().write(x.pfn(), 0, &zero);
            }
            Ok(())
        });
    }

    /// Zeroes a page from byte `off` on, if it is in memory. `false`: copies share it and it is
    /// wired.
    fn clear_tail(
        &self,
        object: Handle<Object>,
        index: Pindex,
        off: usize,
        may: &mut MaySleep,
    ) -> Result<bool, NoMemory> {
        let mut tries = 0;
        loop {
            match self.vm_page_grab(object, index, GrabFlags::NOCREAT | GrabFlags::NOWAIT, may) {
                Ok(x) => {
                    let zero = [0; PAGE_SIZE as usize];
                    self.mem().write(x.pfn(), off, &zero[off..]);
                    return Ok(true);
                }
                Err(GrabError::Busy) => {
                    let there = self.vm_page_lookup(object, index, may);
                    // What waits for its pager gets an answer of the new size.
                    if there.is_some_and(|r| self.page_is_pending(handle(r.page))) {
                        return Ok(true);
                    }
                    self.vm_page_sleep_if_busy(object, index, may);
                }
                Err(GrabError::Wired) => return Ok(false),
                Err(GrabError::NoMemory) => self.try_again(&mut tries, may)?,
                Err(_) => return Ok(true), // nothing is there
            }
        }
    }

    fn try_again(&self, tries: &mut u32, may: &mut MaySleep) -> Result<(), NoMemory> {
        *tries += 1;
        if *tries <= TRIES && self.make_room(may) { Ok(()) } else { Err(NoMemory) }
    }
}

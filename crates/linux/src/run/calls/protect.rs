//! mprotect and pkey_mprotect.

use std::os::fd::OwnedFd;

use machvm::map::{Attributes, Backing, EntryFlags, Place, SetProt};
use machvm_hal::{PAGE_SIZE, Prot, VaRange};

use super::errno::{self, EACCES, EINVAL, ENOMEM};
use super::marks::Mark;
use super::{CONVERTIBLE, Calls, Part, args, linux};
use crate::run::files::{copy_in, copy_out};
use crate::run::space::Errno;

impl Calls<'_> {
    pub(super) fn sys_mprotect(
        &mut self,
        addr: u64,
        len: u64,
        prot: u64,
        key: Option<u64>,
    ) -> Result<(), Errno> {
        let Some(p) = args::Protect::check(addr, len, prot)? else { return Ok(()) };
        if let Some(key) = key {
            linux::key_exists(key)?;
        }
        let range = self.grow_range(&p)?;
        self.each_solid(range, |c, part| {
            c.protect_part(part, p.prot)?;
            match key {
                Some(key) => linux::pkey_protect(part.range, args::prot_bits(p.prot), key),
                None => Ok(()),
            }
        })
    }

    /// PROT_GROWSDOWN extends the range to the start of the stack it lies in.
    fn grow_range(&mut self, p: &args::Protect) -> Result<VaRange, Errno> {
        if !p.grows_down && !p.grows_up {
            return Ok(p.range);
        }
        let first = self.part(p.range).ok_or(ENOMEM)?;
        if p.grows_up || !first.info.flags.contains(EntryFlags::GROWS_DOWN) {
            return Err(EINVAL);
        }
        VaRange::between(first.info.range.start(), p.range.end()).ok_or(ENOMEM)
    }

    fn protect_part(&mut self, part: &Part, prot: Prot) -> Result<(), Errno> {
        let old = part.info.attributes;
        if !old.max.contains(prot) {
            return Err(EACCES);
        }
        if old.prot == prot {
            return Ok(());
        }
        if !part.is_foreign() {
            self.map().protect(part.range, &SetProt::prot(prot), &mut self.may).map_err(errno::protect)?;
        } else if prot.contains(Prot::W) && old.flags.contains(CONVERTIBLE) {
            self.convert(part, prot)?;
        } else {
            // First alone, for its error number.
            linux::protect(part.range, args::prot_bits(prot))?;
            self.map().protect(part.range, &SetProt::prot(prot), &mut self.may).map_err(errno::protect)?;
        }
        if part.mark.has(Mark::LOCKED) && prot.contains(Prot::W) {
            self.wire_marked(part.range);
        }
        Ok(())
    }

    /// A private file mapping that was Linux's because it could not be written becomes
    /// ours. The contents are the same; a thread that runs in the range at this moment
    /// would find a hole.
    fn convert(&mut self, part: &Part, prot: Prot) -> Result<(), Errno> {
        // Linux refuses what the mount or the security module forbids.
        linux::protect(part.range, args::prot_bits(part.info.attributes.prot))?;
        match linux::mapped_file(part.range.start().get()) {
            Some((file, offset)) => self.convert_over_file(part, prot, file, offset),
            None => self.convert_by_copy(part, prot),
        }
    }

    fn convert_over_file(
        &mut self,
        part: &Part,
        prot: Prot,
        file: OwnedFd,
        offset: u64,
    ) -> Result<(), Errno> {
        let range = part.range;
        self.with_file(file, range.pages(), offset, |c, backing, a| {
            c.give_way(range)?;
            let a = Attributes { prot, ..*a };
            let made = c.map().find(Place::At(range.start()), range.pages(), backing, &a, &mut c.may);
            made.map(|_| ()).map_err(errno::find)
        })
    }

    /// Without the right to open the file again.
    fn convert_by_copy(&mut self, part: &Part, prot: Prot) -> Result<(), Errno> {
        let range = part.range;
        let mut contents = vec![0; usize::try_from(range.bytes()).map_err(|_| ENOMEM)?];
        // Pages beyond the end of the file stay zero.
        for (i, page) in contents.chunks_mut(PAGE_SIZE as usize).enumerate() {
            copy_in(range.start().add(i as u64).get(), page);
        }
        self.give_way(range)?;
        let a = Attributes::new(Prot::RW);
        let place = Place::At(range.start());
        let made = self.map().find(place, range.pages(), Backing::Anonymous, &a, &mut self.may);
        made.map_err(errno::find)?;
        copy_out(range.start().get(), &contents)?;
        self.map().protect(range, &SetProt::prot(prot), &mut self.may).map_err(errno::protect)
    }
}

//! Finding a region: the window's come from the VM, the others from Linux, in one ascending
//! order. The window itself, where nothing is allocated in it, is not shown.
//!
//! As long as a walk stays in the window Linux is not asked anything.

use machvm::task::{ExtendedInfo, RegionError, ShareMode, ShortInfo, SubmapInfo, TopInfo};
use machvm_hal::{MaySleep, Prot, RawAddr, VaRange};
use machvm_linux::library::Hosted;

use crate::calls::with;
use crate::kr;
use crate::outside::maps::{Mapping, Maps};
use crate::outside::pages;
use crate::ports::TaskPort;
use crate::types::kern_return_t;
use crate::world::world;

/// A region: where, how long, and what was asked about it.
pub(crate) struct Region<T> {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) info: T,
}

impl<T> Region<T> {
    fn of_mapping(m: &Mapping, tell: impl FnOnce(&Mapping) -> T) -> Self {
        Region { start: m.start, size: m.bytes(), info: tell(m) }
    }
}

/// What Linux has at or above `addr`.
fn outside(addr: u64) -> Result<Option<Mapping>, kern_return_t> {
    Maps::open().and_then(|mut maps| maps.next(addr)).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)
}

/// The region that contains `addr`, or the next above: `inside` asks the VM, `tell`
/// describes a mapping of Linux's.
///
/// # Errors
/// There is none: the code that the personality has for it.
pub(crate) fn find<T>(
    port: &TaskPort,
    addr: u64,
    inside: impl FnOnce(
        &machvm::task::Task<'_, 'static, Hosted>,
        RawAddr,
        &mut MaySleep,
    ) -> Result<(VaRange, T), RegionError>,
    tell: impl FnOnce(&Mapping) -> T,
) -> Result<Region<T>, kern_return_t> {
    let (low, high) = world().window();
    if port.own
        && addr < low
        && let Some(m) = outside(addr)?.filter(|m| m.start < low)
    {
        return Ok(Region::of_mapping(&m, tell));
    }
    let found = with(port, |t, may| inside(t, RawAddr(addr), may));
    match found {
        Ok((range, info)) => Ok(Region { start: range.start().get(), size: range.bytes(), info }),
        Err(e) if !port.own => Err(e),
        Err(e) => match outside(addr.max(high))? {
            Some(m) => Ok(Region::of_mapping(&m, tell)),
            None => Err(e),
        },
    }
}

impl Mapping {
    /// Rights that it can be given: Linux says so only of private memory, which can have
    /// any.
    pub(crate) fn max(&self) -> Prot {
        if self.shared && self.inode != 0 { self.prot } else { Prot::ALL }
    }
    /// `VM_INHERIT_SHARE` or `VM_INHERIT_COPY`, as `fork` does by default.
    pub(crate) fn inheritance(&self) -> machvm::map::Inherit {
        if self.shared { machvm::map::Inherit::Share } else { machvm::map::Inherit::Copy }
    }
    /// The low bits of the file's number; 0: anonymous.
    pub(crate) fn object_id(&self) -> u32 {
        self.inode as u32
    }
    fn share_mode(&self, counted: Option<&pages::Counts>) -> ShareMode {
        match counted {
            _ if self.shared => ShareMode::Shared,
            Some(c) if c.resident + c.swapped == 0 && self.inode == 0 => ShareMode::Empty,
            _ if self.inode != 0 && self.prot.contains(Prot::W) => ShareMode::Cow,
            _ => ShareMode::Private,
        }
    }
    fn short_counted(&self, counted: Option<&pages::Counts>) -> ShortInfo {
        ShortInfo {
            protection: self.prot,
            max_protection: self.max(),
            inheritance: self.inheritance(),
            offset: self.offset,
            user_tag: 0,
            ref_count: 1,
            shadow_depth: u16::from(counted.is_some_and(|c| c.copied != 0)),
            external_pager: self.inode != 0,
            share_mode: self.share_mode(counted),
            is_submap: false,
            behavior: machvm::task::Behavior::Default,
            object_id: self.object_id(),
            user_wired_count: 0,
        }
    }
    fn extended_counted(&self, c: &pages::Counts) -> ExtendedInfo {
        ExtendedInfo {
            protection: self.prot,
            user_tag: 0,
            pages_resident: c.resident,
            pages_shared_now_private: c.copied,
            pages_swapped_out: c.swapped,
            pages_dirtied: c.dirty,
            ref_count: 1,
            shadow_depth: u16::from(c.copied != 0),
            external_pager: self.inode != 0,
            share_mode: self.share_mode(Some(c)),
            pages_reusable: 0,
        }
    }
    /// As `vm_region_recurse_short`.
    pub(crate) fn short(&self) -> ShortInfo {
        self.short_counted(None)
    }
    /// As `vm_region_extended`.
    pub(crate) fn extended(&self) -> ExtendedInfo {
        self.extended_counted(&pages::count(self))
    }
    /// As `vm_region_recurse`.
    pub(crate) fn submap(&self) -> SubmapInfo {
        let c = pages::count(self);
        SubmapInfo { short: self.short_counted(Some(&c)), pages: self.extended_counted(&c) }
    }
    /// As `vm_region_top`.
    pub(crate) fn top(&self) -> TopInfo {
        let c = pages::count(self);
        let theirs = if self.shared { c.resident } else { c.copied };
        TopInfo {
            obj_id: self.object_id(),
            ref_count: 1,
            private_pages_resident: c.resident - theirs,
            shared_pages_resident: theirs,
            share_mode: self.share_mode(Some(&c)),
        }
    }
}

//! Memory of tasks whose data another process has.
//!
//! ```text
//!   Vm::pager(path) -> ExternalPager -- open(name) --> MemoryObject -- Task::map_object --> address
//! ```
//! The pager is a process of any language that speaks the memory object protocol
//! (`docs/external-pagers.md`). A page that is touched is asked for, one that was modified is
//! returned when memory is short, by [`Task::sync`], and when the last mapping goes. A pager
//! that does not answer, or dies, costs an error (SIGBUS, or [`Error::Memory`]) for who touches
//! a page of its objects, after [`Options::timeout`] at most.
//!
//! What the pager itself calls (lock requests, data that nobody asked for, the end of an object)
//! is carried out by a thread of the connection.
//!
//! With [`Faults::Signal`](super::Faults::Signal) the thread that faulted waits for the pager in
//! the signal handler; a `fork(2)` of another thread waits with it. In a child the objects are
//! gone: what was not in memory cannot be read there.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use machvm::PagerId;
use machvm::map::{SyncError, SyncHow};
use machvm::task::{MapSource, MemoryEntry, Personality, PlaceError, RawFlags, RawInherit, RawProt};
use machvm::task::{VmFlags, VmMapError};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize, VaRange};
use machvm_pagers::external::{Client, Object, OpenError, Options};

use super::calls::Calls;
use super::error::Error;
use super::platform::Hosted;
use super::quiet::Quiet;
use super::task::{Task, check};
use super::{Shared, Vm};

/// `VM_INHERIT_COPY`.
const COPY: RawInherit = RawInherit(1);

/// A pager in another process. Clones are the same connection, which ends with the last of
/// them, of its objects and of their mappings.
#[derive(Clone)]
pub struct ExternalPager(Arc<Connection>);

impl core::fmt::Debug for ExternalPager {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ExternalPager({:?})", self.0.client)
    }
}

struct Connection {
    client: Client,
    /// What the pager calls; the client has no reference of its own.
    _calls: Arc<Calls>,
    /// Objects that were opened, so that all who map one map the same memory.
    known: Mutex<Vec<(Arc<Object>, PagerId)>>,
    shared: Arc<Shared>,
}

/// Memory whose data a pager has, or a part of it.
pub struct MemoryObject {
    entry: ManuallyDrop<MemoryEntry<'static, Hosted>>,
    object: Arc<Object>,
    offset: u64,
    size: u64,
    rights: Prot,
    /// After the entry, which is of its VM.
    pager: Arc<Connection>,
}

impl core::fmt::Debug for MemoryObject {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "MemoryObject({:?}, {:#x}+{:#x} {:?})", self.object, self.offset, self.size, self.rights)
    }
}

impl Vm {
    /// Connects to the pager that listens at `path`.
    ///
    /// # Errors
    /// [`Error::Io`]: there is none, it speaks something else, or it does not answer in time.
    pub fn pager(&self, path: &Path, options: Options) -> Result<ExternalPager, Error> {
        let calls = Arc::new(Calls::new(&self.0.vm));
        let kernel = Arc::downgrade(&calls);
        let client = {
            // Its threads get no signals from outside. Not inside: nobody is to wait for this.
            let old = super::quiet::block();
            let client = Client::connect(path, options);
            let client = client.and_then(|c| c.set_kernel(kernel).map(|()| c));
            super::quiet::restore(&old);
            client.map_err(Error::Io)?
        };
        let (known, shared) = (Mutex::default(), Arc::clone(&self.0));
        let connection = Connection { client, _calls: calls, known, shared };
        Ok(ExternalPager(Arc::new(connection)))
    }
}

impl ExternalPager {
    /// The connection: its counters, and its objects.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The object of that name (E01); waits until it is ready (E02).
    ///
    /// # Errors
    /// [`Error::Pager`]; [`Error::ResourceShortage`]; [`Error::InvalidArgument`]: it has no
    /// bytes.
    pub fn open(&self, name: &[u8]) -> Result<MemoryObject, Error> {
        let opened = self.0.client.open(name).map_err(Error::Pager)?;
        let whole = opened.object.size();
        if opened.size == 0 || whole == 0 {
            return Err(Error::InvalidArgument("an object of no bytes"));
        }
        let shared = &self.0.shared;
        let (_quiet, mut may) = (shared.enter()?, MaySleep::claim());
        // SAFETY: `MemoryObject` keeps the VM, which does not move, for longer than the entry.
        let vm: &'static machvm::Vm<Hosted> = unsafe { &*Arc::as_ptr(&shared.vm) };
        let id = self.0.known_as(&opened.object)?;
        // What the object's rights forbid, `map_object` refuses: copies may be written.
        let entry = MemoryEntry::of_pager(vm, id, whole, Prot::ALL, &mut may);
        Ok(MemoryObject {
            entry: ManuallyDrop::new(entry.map_err(|_| Error::ResourceShortage)?),
            object: opened.object,
            offset: opened.offset,
            size: opened.size,
            rights: opened.rights,
            pager: Arc::clone(&self.0),
        })
    }
}

impl Connection {
    /// The object's place in the VM's table of pagers.
    ///
    /// => inside the VM
    fn known_as(&self, object: &Arc<Object>) -> Result<PagerId, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, id)) = known.iter().find(|(o, _)| Arc::ptr_eq(o, object)) {
            return Ok(*id);
        }
        let id = self.shared.vm.platform().machine().add_pager(Arc::clone(object) as _)?;
        known.push((Arc::clone(object), id));
        Ok(id)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            return; // they are the parent's
        }
        let _quiet = Quiet::new();
        for (_, id) in self.known.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.shared.vm.platform().machine().pager_release(*id);
        }
    }
}

impl MemoryObject {
    /// Bytes that can be mapped.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
    /// What mappings may be allowed.
    #[must_use]
    pub fn rights(&self) -> Prot {
        self.rights
    }
    /// What the pager was asked and said.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }
}

impl Drop for MemoryObject {
    fn drop(&mut self) {
        if self.pager.shared.is_forked() {
            return;
        }
        let _quiet = Quiet::new();
        // SAFETY: dropped here only.
        unsafe { ManuallyDrop::drop(&mut self.entry) };
    }
}

impl Task {
    /// Maps `size` bytes of the object from byte `offset` on, wherever there is space (U05
    /// `vm_map`); gives the address. `copy`: stores stay in this mapping, and the object need
    /// only be readable. A child of [`Task::fork`] gets a copy, unless [`Task::inherit`] says
    /// otherwise.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: not in whole pages, not inside the object, rights that the
    /// pager does not give, or an object of another VM; [`Error::NoSpace`],
    /// [`Error::ResourceShortage`].
    pub fn map_object(
        &self,
        object: &MemoryObject,
        offset: u64,
        size: usize,
        prot: Prot,
        copy: bool,
    ) -> Result<usize, Error> {
        if !self.is_of(&object.pager.shared) {
            return Err(Error::InvalidArgument("an object of another VM"));
        }
        let end = offset.checked_add(size as u64);
        if end.is_none_or(|end| end > object.size.next_multiple_of(PAGE_SIZE)) {
            return Err(Error::InvalidArgument("not inside the object"));
        }
        let most = if copy { Prot::ALL } else { object.rights };
        if !most.contains(prot) || (copy && !object.rights.contains(Prot::R)) {
            return Err(Error::InvalidArgument("rights that the pager does not give"));
        }
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        // SAFETY: no memory entry is made of it.
        let mach = unsafe { self.mach(&Personality::XNU) };
        let raw = |p: Prot| RawProt(u32::from(p.bits()));
        let at = mach.vm_map(
            RawAddr(0),
            RawSize(size as u64),
            0,
            RawFlags(VmFlags::ANYWHERE.bits()),
            &MapSource::Entry(&object.entry, object.offset + offset),
            copy,
            (raw(prot.hardware()), raw(most.hardware()), COPY),
            &mut may,
        );
        at.map(|at| at as usize).map_err(map_error)
    }

    /// Returns modified pages of memory objects to their pagers (`msync`), and waits until they
    /// have them.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`]: something is not mapped; nothing was returned.
    /// [`Error::Memory`]: a pager did not take a page of the mapping at that address; it stays
    /// modified, and the others were returned.
    pub fn sync(&self, addr: usize, size: usize) -> Result<(), Error> {
        if size == 0 {
            return Ok(());
        }
        self.sync_as(check(addr, size)?, SyncHow::empty())
    }

    pub(super) fn sync_as(&self, range: VaRange, how: SyncHow) -> Result<(), Error> {
        let (_quiet, mut may) = (self.enter()?, MaySleep::claim());
        self.map().sync_as(range, how, &mut may).map_err(|e| match e {
            SyncError::Hole(va) => Error::InvalidAddress(va.get() as usize),
            SyncError::Wired(va) => Error::Protection(va.get() as usize),
            SyncError::Pager(va, _) => Error::Memory(va.get() as usize),
        })
    }
}

pub(super) fn map_error(e: VmMapError) -> Error {
    match e {
        VmMapError::Place(PlaceError::Outside(va)) => Error::InvalidAddress(va.get() as usize),
        VmMapError::Place(
            PlaceError::NoSpace | PlaceError::Occupied(_) | PlaceError::Limit(_) | PlaceError::BadMask(_),
        ) => Error::NoSpace,
        VmMapError::NoMemory | VmMapError::Place(PlaceError::NoMemory(_)) => Error::ResourceShortage,
        VmMapError::BadSize => Error::InvalidArgument("size zero"),
        VmMapError::BadProtection(_) | VmMapError::EntryRight | VmMapError::NotReadable => {
            Error::InvalidArgument("rights that the pager does not give")
        }
        _ => Error::InvalidArgument("not in whole pages of the object"),
    }
}

impl From<OpenError> for Error {
    fn from(e: OpenError) -> Self {
        Error::Pager(e)
    }
}

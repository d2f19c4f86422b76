//! Memory whose data are a file's (G13).
//!
//! A file has one object, whoever opened it and under whatever name: who maps it maps the same
//! pages. It lives as long as it is open or mapped here. Stores get into the file with page-out
//! and [`Task::sync_file`]; until then `read(2)` does not see them, and pages in memory do not
//! see what `write(2)` wrote: `INVALIDATE` makes the next access look.
//!
//! A child of `fork(2)` has what it inherits as its own copy, as of other objects with a pager.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use machvm::PagerId;
use machvm::map::SyncHow;
use machvm::task::{MapSource, MemoryEntry, Personality, RawFlags, RawInherit, RawProt, VmFlags};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize};
use machvm_pagers::{FilePager, FileTraffic, Seen, WriteError};

use super::error::Error;
use super::platform::Hosted;
use super::quiet::Quiet;
use super::task::{Task, check};
use super::{Shared, Vm};

/// Bytes that can be mapped of any file (64 GiB), as it may grow; of a larger one twice as many
/// as it has.
const ROOM: u64 = 1 << 36;

/// `VM_INHERIT_COPY`.
const COPY: RawInherit = RawInherit(1);

/// An open file that tasks can map. Each is told of write errors once, whenever they happened.
pub struct MappedFile {
    entry: ManuallyDrop<MemoryEntry<'static, Hosted>>,
    pager: Arc<FilePager>,
    id: PagerId,
    seen: Seen,
    rights: Prot,
    /// After the entry, which is of its VM.
    shared: Arc<Shared>,
}

impl core::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "MappedFile({:?}, {:?})", self.pager.file(), self.rights)
    }
}

/// The rights that a descriptor gives, as for mmap(2).
fn rights_of(file: &File) -> Result<Prot, Error> {
    // SAFETY: no memory is passed.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(Error::Io(std::io::Error::last_os_error()));
    }
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => Ok(Prot::R | Prot::X),
        libc::O_RDWR if flags & libc::O_APPEND == 0 => Ok(Prot::ALL),
        libc::O_RDWR => Err(Error::InvalidArgument("open for appending")),
        _ => Err(Error::InvalidArgument("not open for reading")),
    }
}

impl Vm {
    /// Makes a regular file one that tasks can map (G02 `vm_pager_allocate`): what was opened
    /// for reading can be mapped for reading, or privately.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: it is no regular file, not open for reading, or open for
    /// appending, too; [`Error::Io`]; [`Error::ResourceShortage`].
    pub fn file(&self, file: File) -> Result<MappedFile, Error> {
        let about = file.metadata().map_err(Error::Io)?;
        if !about.is_file() {
            return Err(Error::InvalidArgument("not a regular file"));
        }
        let rights = rights_of(&file)?;
        let shared = &self.0;
        let (_quiet, mut may) = (shared.enter()?, MaySleep::claim());
        // SAFETY: `MappedFile` keeps the VM, which does not move, for longer than the entry.
        let vm: &'static machvm::Vm<Hosted> = unsafe { &*Arc::as_ptr(&shared.vm) };
        let machine = vm.platform().machine();
        let (id, pager) = machine.shared_file_pager(file, rights.contains(Prot::W))?;
        let bytes = about.len().saturating_mul(2).max(ROOM);
        let entry = MemoryEntry::of_pager(vm, id, bytes, Prot::ALL, &mut may).map_err(|_| {
            machine.pager_release(id);
            Error::ResourceShortage
        })?;
        Ok(MappedFile {
            entry: ManuallyDrop::new(entry),
            seen: pager.opened(),
            pager,
            id,
            rights,
            shared: Arc::clone(shared),
        })
    }
}

impl MappedFile {
    /// What mappings that share the file may be allowed.
    #[must_use]
    pub fn rights(&self) -> Prot {
        self.rights
    }

    /// Bytes of the file now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn size(&self) -> Result<u64, Error> {
        self.pager.size().map_err(Error::Io)
    }

    /// What was read and written, by all who have the file open.
    #[must_use]
    pub fn traffic(&self) -> FileTraffic {
        self.pager.traffic()
    }

    /// Cuts the file, or makes it longer with zeros (`ftruncate(2)`; G13
    /// `vnode_pager_setsize`). Pages behind the end go from every mapping, which get SIGBUS
    /// there from now on, and the rest of the last page becomes zero. Locked pages behind the end
    /// stay, and become zero. Private mappings keep what they have of their own.
    ///
    /// Who cuts it in another way leaves what is in memory as it is, until it is written back.
    ///
    /// # Errors
    /// [`Error::Protection`]: it is not open for writing. [`Error::Io`]: nothing changed.
    /// [`Error::ResourceShortage`]: the file is cut, but not all that is in memory.
    pub fn set_size(&self, bytes: u64) -> Result<(), Error> {
        if !self.rights.contains(Prot::W) {
            return Err(Error::Protection(0));
        }
        let (_quiet, mut may) = (self.shared.enter()?, MaySleep::claim());
        self.pager.set_len(bytes).map_err(Error::Io)?;
        let vm = &self.shared.vm;
        let object = vm.memory_object(self.id, 0, &mut may).map_err(|_| Error::ResourceShortage)?;
        let done = vm.vm_object_set_size(object, bytes, &mut may);
        vm.object_deallocate(object, &mut may);
        done.map(drop).map_err(|_| Error::ResourceShortage)
    }

    /// The write error that happened since this was opened or last told, if one did. The page
    /// that was to be written is modified still, so nothing is lost that a later write can save;
    /// but of data that did not reach the device nobody knows.
    pub fn write_error(&self) -> Option<WriteError> {
        self.pager.new_error(&self.seen)
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            return; // it is the parent's
        }
        let _quiet = Quiet::new();
        // SAFETY: dropped here only.
        unsafe { ManuallyDrop::drop(&mut self.entry) };
        self.shared.vm.platform().machine().pager_release(self.id);
    }
}

impl Task {
    /// Maps `size` bytes of a file from byte `offset` on, wherever there is space (`mmap(2)`);
    /// gives the address. `copy`: stores stay in this mapping (`MAP_PRIVATE`). Pages behind the
    /// file's end can be mapped, and raise SIGBUS until it is as long. A child of
    /// [`Task::fork`] gets a copy, unless [`Task::inherit`] says otherwise.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: not in whole pages, too far behind the end, rights that the
    /// file was not opened for, or a file of another VM; [`Error::NoSpace`],
    /// [`Error::ResourceShortage`].
    pub fn map_file(
        &self,
        file: &MappedFile,
        offset: u64,
        size: usize,
        prot: Prot,
        copy: bool,
    ) -> Result<usize, Error> {
        if !self.is_of(&file.shared) {
            return Err(Error::InvalidArgument("a file of another VM"));
        }
        let end = offset.checked_add(size as u64).filter(|_| offset.is_multiple_of(PAGE_SIZE));
        if end.is_none_or(|end| end > file.entry.size()) {
            return Err(Error::InvalidArgument("not in whole pages, or too far behind the end"));
        }
        let most = if copy { Prot::ALL } else { file.rights };
        if !most.contains(prot) {
            return Err(Error::InvalidArgument("rights that the file was not opened for"));
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
            &MapSource::Entry(&file.entry, offset),
            copy,
            (raw(prot.hardware()), raw(most.hardware()), COPY),
            &mut may,
        );
        at.map(|at| at as usize).map_err(super::external::map_error)
    }

    /// Writes what is modified in a range back to its files and pagers (`msync(2)`), as
    /// [`Task::sync`] does: with [`SyncHow::START`] without waiting for the devices, with
    /// [`SyncHow::INVALIDATE`] so that the next access looks at the file again. Then says what
    /// write error of `file` there was since the last call with it, also of page-out.
    ///
    /// # Errors
    /// [`Error::Write`]; else as [`Task::sync`], and [`Error::Protection`]: locked memory is to
    /// be invalidated.
    pub fn sync_file(&self, file: &MappedFile, addr: usize, size: usize, how: SyncHow) -> Result<(), Error> {
        let done = if size == 0 { Ok(()) } else { self.sync_as(check(addr, size)?, how) };
        match file.write_error() {
            Some(e) => Err(Error::Write(e)),
            None => done,
        }
    }
}

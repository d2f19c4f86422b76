//! Memory objects as their pagers see them: the calls that a pager makes.
//!
//! The core calls a [`Pager`](crate::Pager); the pager calls back through [`ObjectControl`], at
//! any time and from any thread, about one memory object, which it knows by a [`ControlId`].
//! Such a name is a number: it can be sent elsewhere, and of an object that has ended it names
//! nothing. A later use of the same data has another one (Z115).
//!
//! Offsets and sizes are in bytes and whole pages. Accesses in a *lock* are those that are
//! not allowed, as in Mach: [`Prot::NONE`] allows everything.

use core::num::NonZeroU64;

use crate::host::MaySleep;
use crate::pager::{PagerError, Supply};
use crate::prot::Prot;

/// Names a memory object in use (the control port).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct ControlId(pub NonZeroU64);

/// How a copy of a memory object becomes one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CopyStrategy {
    /// The pager may change its data at any time: a copy gets what was not in memory when it was
    /// made as the pager has it by then (`MEMORY_OBJECT_COPY_NONE`).
    None,
    /// The pager is told ([`Pager::copied`](crate::Pager::copied), `MEMORY_OBJECT_COPY_CALL`).
    Call,
    /// The pager does not change the data: a page is kept for the copies when it is written
    /// first (`MEMORY_OBJECT_COPY_DELAY`).
    #[default]
    Delay,
    /// As `Delay`, and nothing needs to be written back when the object ends
    /// (`MEMORY_OBJECT_COPY_TEMPORARY`).
    Temporary,
    /// As `Temporary`, of an object that one user maps (`MEMORY_OBJECT_COPY_SYMMETRIC`).
    Symmetric,
}

/// What a pager says of a memory object (E02, E17).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// The core may keep it, with its pages, when nobody uses it.
    pub may_cache: bool,
    /// How it is copied.
    pub copy: CopyStrategy,
}

/// Which pages a lock request gives back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Return {
    /// None (`MEMORY_OBJECT_RETURN_NONE`).
    None,
    /// Modified ones, and precious ones if they are flushed (`MEMORY_OBJECT_RETURN_DIRTY`).
    Dirty,
    /// Modified and precious ones (`MEMORY_OBJECT_RETURN_ALL`).
    All,
}

/// See [`ObjectControl::lock_request`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    /// First byte.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
    /// What is given back.
    pub ret: Return,
    /// Pages are forgotten then, modified or not.
    pub flush: bool,
    /// Accesses not allowed from now on; `None`: as before (`VM_PROT_NO_CHANGE`).
    pub lock: Option<Prot>,
}

/// Why a control call did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlError {
    /// The object has ended: a late call, to be ignored.
    Dead,
    /// An offset or a size is not of whole pages, or wraps, or a lock has unknown bits.
    Argument,
    /// Pages could not be given back; they stay, modified (the first error).
    Pager(PagerError),
}

/// Why data was not taken, or not all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SupplyError {
    /// As [`ControlError::Dead`].
    Dead,
    /// As [`ControlError::Argument`].
    Argument,
    /// A page is there already (`KERN_MEMORY_PRESENT`): the pages before this byte were taken.
    Present(u64),
    /// Nobody waited for the page, and there is no memory to keep it: the pages before this
    /// byte were taken.
    NoMemory(u64),
}

/// The calls of pagers. A `Vm` has them.
///
/// => the caller holds no VM lock and no page busy; a pager may call while it is being called,
///    and does not hold a lock of its own that its [`Pager`](crate::Pager) methods take.
pub trait ObjectControl: Sync {
    /// Faults need not wait any more (E02 `memory_object_ready`; E19). Of an object that is
    /// ready it changes the attributes.
    ///
    /// # Errors
    /// [`ControlError::Dead`].
    fn ready(&self, object: ControlId, how: Attributes, may: &mut MaySleep) -> Result<(), ControlError>;

    /// Gives pages from byte `offset` on (E06 `memory_object_data_supply`; E08), asked for or
    /// not. The answer is E07: all was taken, or up to where.
    ///
    /// # Errors
    /// [`SupplyError`].
    fn data_supply(
        &self,
        object: ControlId,
        offset: u64,
        data: &[u8],
        lock: Prot,
        how: Supply,
        may: &mut MaySleep,
    ) -> Result<(), SupplyError>;

    /// There is no data: pages that are waited for become zero (E09
    /// `memory_object_data_unavailable`). Others are not touched.
    ///
    /// # Errors
    /// [`ControlError::Dead`], [`ControlError::Argument`].
    fn data_unavailable(
        &self,
        object: ControlId,
        offset: u64,
        bytes: u64,
        may: &mut MaySleep,
    ) -> Result<(), ControlError>;

    /// The data cannot be had: who waits gets an error, and who asks later asks again (E10
    /// `memory_object_data_error`, Z121). Pages that nobody waits for are not touched.
    ///
    /// # Errors
    /// [`ControlError::Dead`], [`ControlError::Argument`].
    fn data_error(
        &self,
        object: ControlId,
        offset: u64,
        bytes: u64,
        why: PagerError,
        may: &mut MaySleep,
    ) -> Result<(), ControlError>;

    /// Restricts, gives back or forgets the resident pages of a range, each in turn (E15
    /// `memory_object_lock_request`). Returning is the completion (E16).
    ///
    /// # Errors
    /// [`ControlError`].
    fn lock_request(
        &self,
        object: ControlId,
        request: &LockRequest,
        may: &mut MaySleep,
    ) -> Result<(), ControlError>;

    /// Changes the attributes (E17 `memory_object_change_attributes`; it also makes the object
    /// ready). An object that nobody uses and that may not be kept any more ends before this
    /// returns (E18, Z119).
    ///
    /// # Errors
    /// [`ControlError::Dead`].
    fn change_attributes(
        &self,
        object: ControlId,
        how: Attributes,
        may: &mut MaySleep,
    ) -> Result<(), ControlError>;

    /// Is it ready, and with what attributes (E20 `memory_object_get_attributes`)?
    ///
    /// # Errors
    /// [`ControlError::Dead`].
    fn get_attributes(&self, object: ControlId) -> Result<(bool, Attributes), ControlError>;

    /// Ends the object (E04 `memory_object_destroy`): its pages are freed, what was modified is
    /// lost, and every fault, waiting or later, reports a memory failure. Its pager is told
    /// that it is terminated.
    ///
    /// # Errors
    /// [`ControlError::Dead`].
    fn destroy(&self, object: ControlId, may: &mut MaySleep) -> Result<(), ControlError>;
}

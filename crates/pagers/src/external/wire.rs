//! The messages between a machvm process (the *kernel*) and a pager.
//!
//! Every message is 64 bytes, little-endian, one packet of a SOCK_SEQPACKET socket.
//! `docs/external-pagers.md` says what each kind means. What arrives is checked here for
//! its form: which fields a kind may use, that ranges are whole pages and do not wrap.
//! Whether a message makes sense at that moment is for who receives it.

use core::fmt;

use machvm_hal::{MAX_CLUSTER, PAGE_MASK, PAGE_SIZE};

/// Bytes of a message.
pub const MESSAGE: usize = 64;
/// The version of the protocol that this is.
pub const VERSION: u32 = 1;
/// What a first message holds in [`Message::object`]: "MVMPAGER".
pub const MAGIC: u64 = u64::from_le_bytes(*b"MVMPAGER");
/// Most bytes of data of one message, and the size of a slot of the shared memory.
pub const CLUSTER: u64 = MAX_CLUSTER as u64 * PAGE_SIZE;
/// Most bytes of an object's name.
pub const LONGEST_NAME: usize = 1024;

/// Which fields of a message a kind uses; the others are zero.
mod field {
    pub(super) const FLAGS: u16 = 1;
    pub(super) const STATUS: u16 = 2;
    pub(super) const ID: u16 = 4;
    pub(super) const OBJECT: u16 = 8;
    pub(super) const OFFSET: u16 = 16;
    pub(super) const SIZE: u16 = 32;
    pub(super) const PLACE: u16 = 64;
    pub(super) const ACCESS: u16 = 128;
    pub(super) const HOW: u16 = 256;
    pub(super) const EXTRA: u16 = 512;
    /// `offset` and `size` are a range of whole pages.
    pub(super) const PAGES: u16 = 1024 | OFFSET | SIZE;
    /// As `PAGES`, at most a cluster, with its data at `place`, whole pages too.
    pub(super) const DATA: u16 = 2048 | PAGES | PLACE;
}
use field::{ACCESS, DATA, EXTRA, FLAGS, HOW, ID, OBJECT, OFFSET, PAGES, PLACE, SIZE, STATUS};

/// Who sends a kind of message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The process whose memory it is.
    Kernel,
    /// The pager.
    Pager,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $number:literal, $from:ident, $fields:expr;)*) => {
        /// What a message says.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $kind = $number,)* }

        impl Kind {
            /// Every kind, ascending.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// The kind with this number.
            #[must_use]
            pub const fn from_number(n: u16) -> Option<Kind> {
                match n { $($number => Some(Kind::$kind),)* _ => None }
            }
            /// Who may send it.
            #[must_use]
            pub const fn from(self) -> From {
                match self { $(Kind::$kind => From::$from,)* }
            }
            const fn fields(self) -> u16 {
                match self { $(Kind::$kind => $fields,)* }
            }
        }
    };
}

kinds! {
    /// First, with the descriptor of the shared memory.
    Hello = 1, Kernel, OBJECT | OFFSET | SIZE | PLACE | HOW | EXTRA;
    /// The answer to it.
    Welcome = 2, Pager, OBJECT | STATUS | HOW | EXTRA;

    /// An object of that name is to be used (`memory_object_init`, E01).
    Init = 16, Kernel, ID | OBJECT | SIZE | PLACE;
    /// The kernel has finished with an object (`memory_object_terminate`, E03).
    Terminate = 17, Kernel, OBJECT;
    /// Pages are wanted (`memory_object_data_request`, E05).
    DataRequest = 18, Kernel, ID | OBJECT | DATA | ACCESS;
    /// Pages come back (`memory_object_data_return`, E11; E13 with [`INITIALIZE`]).
    DataReturn = 19, Kernel, FLAGS | ID | OBJECT | DATA;
    /// More access to a page in memory is wanted (`memory_object_data_unlock`, E14).
    DataUnlock = 20, Kernel, OBJECT | PAGES | ACCESS;
    /// `memory_object_lock_completed` (E16).
    LockCompleted = 21, Kernel, STATUS | ID | OBJECT | PAGES;
    /// `memory_object_supply_completed` (E07): `extra` is the offset of what was there.
    SupplyCompleted = 22, Kernel, STATUS | ID | OBJECT | PAGES | EXTRA;
    /// `memory_object_change_completed` (E18).
    ChangeCompleted = 23, Kernel, FLAGS | STATUS | ID | OBJECT | HOW;
    /// The answer to [`Kind::GetAttributes`] (E20).
    Attributes = 24, Kernel, FLAGS | STATUS | ID | OBJECT | HOW;
    /// `msync` (`memory_object_synchronize`, E23).
    Synchronize = 25, Kernel, FLAGS | ID | OBJECT | PAGES;
    /// A range of an object was copied (`memory_object_copy`, E21).
    Copy = 26, Kernel, OBJECT | PAGES;
    /// An object that the kernel made is to be kept (`memory_object_create`, E22).
    Create = 27, Kernel, OBJECT | SIZE;
    /// The first mapping (`memory_object_map`, E24).
    Map = 28, Kernel, OBJECT | ACCESS;
    /// No mapping is left (`memory_object_last_unmap`, E24).
    LastUnmap = 29, Kernel, OBJECT;

    /// The object can be used (`memory_object_ready`, E02).
    Ready = 48, Pager, FLAGS | ID | OBJECT | SIZE | ACCESS | HOW;
    /// There is no such object, or not for this kernel.
    Refused = 49, Pager, STATUS | ID | OBJECT;
    /// `memory_object_data_supply` (E06). `id` 0: nobody asked.
    DataSupply = 50, Pager, FLAGS | ID | OBJECT | DATA | ACCESS;
    /// `memory_object_data_unavailable` (E09): zeroes, or what lies below.
    DataUnavailable = 51, Pager, ID | OBJECT | PAGES;
    /// `memory_object_data_error` (E10).
    DataError = 52, Pager, STATUS | ID | OBJECT | PAGES;
    /// What [`Kind::DataReturn`] brought is kept, or not: its slot is free again.
    ReturnCompleted = 53, Pager, STATUS | ID | OBJECT;
    /// `memory_object_lock_request` (E15).
    LockRequest = 54, Pager, FLAGS | ID | OBJECT | PAGES | ACCESS | HOW;
    /// `memory_object_change_attributes` (E17).
    ChangeAttributes = 55, Pager, FLAGS | ID | OBJECT | HOW;
    /// `memory_object_get_attributes` (E20).
    GetAttributes = 56, Pager, ID | OBJECT;
    /// `memory_object_synchronize_completed` (E23).
    SynchronizeCompleted = 57, Pager, STATUS | ID | OBJECT;
    /// `memory_object_destroy` (E04).
    Destroy = 58, Pager, STATUS | OBJECT;
    /// Instead of [`Kind::Ready`]: the name stands for a range of the object with the number
    /// `extra`, with these rights at most (`memory_object_create_proxy`, E27).
    CreateProxy = 59, Pager, ID | OBJECT | PAGES | ACCESS | EXTRA;
}

/// Of [`Kind::DataReturn`]: the page was modified (else it is precious).
pub const DIRTY: u16 = 1;
/// Of [`Kind::DataReturn`]: the page stays in memory.
pub const KERNEL_COPY: u16 = 2;
/// Of [`Kind::DataReturn`]: the first page-out of memory that the kernel made (E13).
pub const INITIALIZE: u16 = 4;
/// Of [`Kind::DataSupply`]: to be returned even if never modified.
pub const PRECIOUS: u16 = 1;
/// Of [`Kind::LockRequest`]: the pages leave memory.
pub const FLUSH: u16 = 1;
/// Of [`Kind::LockRequest`]: `access` says nothing, locks stay.
pub const NO_CHANGE: u16 = 2;
/// Of [`Kind::Ready`], [`Kind::ChangeAttributes`] and their answers: the object may stay
/// after its last mapping.
pub const MAY_CACHE: u16 = 1;
/// Of [`Kind::Attributes`]: the object is ready.
pub const IS_READY: u16 = 2;
/// Of [`Kind::Synchronize`]: data in the kernel is not to be kept (`MS_INVALIDATE`).
pub const INVALIDATE: u16 = 1;

/// The flags of a kind.
const fn flags_of(kind: Kind) -> u16 {
    match kind {
        Kind::DataReturn => DIRTY | KERNEL_COPY | INITIALIZE,
        Kind::DataSupply => PRECIOUS,
        Kind::LockRequest => FLUSH | NO_CHANGE,
        Kind::Ready | Kind::ChangeAttributes | Kind::ChangeCompleted => MAY_CACHE,
        Kind::Attributes => MAY_CACHE | IS_READY,
        Kind::Synchronize => INVALIDATE,
        _ => 0,
    }
}

/// How something ended: the numbers on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Success = 0,
    /// Beyond the end of the data (SIGBUS).
    Beyond = 1,
    /// It is gone for ever (`KERN_MEMORY_FAILURE`).
    Gone = 2,
    /// Not this time (`KERN_MEMORY_ERROR`).
    Error = 3,
    /// The receiver does not do such things.
    Unsupported = 4,
    /// An argument is wrong.
    Invalid = 5,
    /// A page is there already (`KERN_MEMORY_PRESENT`).
    Present = 6,
    /// No room.
    Full = 7,
    /// Not allowed.
    Denied = 8,
    /// Too much is under way; try again.
    Busy = 9,
    /// Nothing has that name.
    Unknown = 10,
}

impl Status {
    /// Every status, ascending.
    pub const ALL: [Status; 11] = [
        Status::Success,
        Status::Beyond,
        Status::Gone,
        Status::Error,
        Status::Unsupported,
        Status::Invalid,
        Status::Present,
        Status::Full,
        Status::Denied,
        Status::Busy,
        Status::Unknown,
    ];
    /// The status with this number; later versions may have others, which are errors.
    #[must_use]
    pub fn from_number(n: u32) -> Status {
        Status::ALL.get(n as usize).copied().unwrap_or(Status::Error)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Success => "success",
            Status::Beyond => "beyond the end of the data",
            Status::Gone => "the data is gone",
            Status::Error => "the data could not be had",
            Status::Unsupported => "not supported",
            Status::Invalid => "invalid argument",
            Status::Present => "a page is there already",
            Status::Full => "no room",
            Status::Denied => "not allowed",
            Status::Busy => "too much is under way",
            Status::Unknown => "nothing has that name",
        })
    }
}

/// A message. What a field means depends on the kind; `docs/external-pagers.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// What it says.
    pub kind: Kind,
    /// Constants of this module.
    pub flags: u16,
    /// Number of a [`Status`].
    pub status: u32,
    /// Number of the request; an answer has the request's.
    pub id: u64,
    /// Number of the object.
    pub object: u64,
    /// Byte of the object.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Byte of the shared memory.
    pub place: u64,
    /// Rights, or rights taken away: 1 read, 2 write, 4 execute.
    pub access: u32,
    /// A choice: the version, a copy strategy, which pages to return.
    pub how: u32,
    /// See the kind.
    pub extra: u64,
}

/// Why bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// Not 64 bytes.
    Length(usize),
    /// No kind has this number.
    Kind(u16),
    /// A field that the kind does not use is not zero, or its value cannot be.
    Field(Kind, &'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Length(n) => write!(f, "a message of {n} bytes instead of {MESSAGE}"),
            WireError::Kind(n) => write!(f, "no kind of message has the number {n}"),
            WireError::Field(kind, field) => write!(f, "the field {field} of {kind:?} is wrong"),
        }
    }
}
impl std::error::Error for WireError {}

impl Message {
    /// A message with every other field zero.
    #[must_use]
    pub const fn new(kind: Kind) -> Message {
        Message {
            kind,
            flags: 0,
            status: 0,
            id: 0,
            object: 0,
            offset: 0,
            size: 0,
            place: 0,
            access: 0,
            how: 0,
            extra: 0,
        }
    }
    /// A message about an object.
    #[must_use]
    pub const fn about(kind: Kind, object: u64) -> Message {
        Message { object, ..Message::new(kind) }
    }
    /// An answer of `kind` to this message: same number, same object.
    #[must_use]
    pub const fn answer(&self, kind: Kind, status: Status) -> Message {
        Message { id: self.id, status: status as u32, ..Message::about(kind, self.object) }
    }
    /// What it reports.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_number(self.status)
    }
    /// Pages in its range.
    #[must_use]
    pub fn pages(&self) -> usize {
        (self.size / PAGE_SIZE) as usize
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; MESSAGE] {
        let mut b = [0; MESSAGE];
        b[0..2].copy_from_slice(&(self.kind as u16).to_le_bytes());
        b[2..4].copy_from_slice(&self.flags.to_le_bytes());
        b[4..8].copy_from_slice(&self.status.to_le_bytes());
        b[8..16].copy_from_slice(&self.id.to_le_bytes());
        b[16..24].copy_from_slice(&self.object.to_le_bytes());
        b[24..32].copy_from_slice(&self.offset.to_le_bytes());
        b[32..40].copy_from_slice(&self.size.to_le_bytes());
        b[40..48].copy_from_slice(&self.place.to_le_bytes());
        b[48..52].copy_from_slice(&self.access.to_le_bytes());
        b[52..56].copy_from_slice(&self.how.to_le_bytes());
        b[56..64].copy_from_slice(&self.extra.to_le_bytes());
        b
    }

    /// The message that the bytes are.
    ///
    /// # Errors
    /// [`WireError`]: who sent it does not speak the protocol.
    pub fn decode(bytes: &[u8]) -> Result<Message, WireError> {
        let b: &[u8; MESSAGE] = bytes.try_into().map_err(|_| WireError::Length(bytes.len()))?;
        let (w2, _) = b.as_chunks::<2>();
        let (w4, _) = b.as_chunks::<4>();
        let (w8, _) = b.as_chunks::<8>();
        let number = u16::from_le_bytes(w2[0]);
        let m = Message {
            kind: Kind::from_number(number).ok_or(WireError::Kind(number))?,
            flags: u16::from_le_bytes(w2[1]),
            status: u32::from_le_bytes(w4[1]),
            id: u64::from_le_bytes(w8[1]),
            object: u64::from_le_bytes(w8[2]),
            offset: u64::from_le_bytes(w8[3]),
            size: u64::from_le_bytes(w8[4]),
            place: u64::from_le_bytes(w8[5]),
            access: u32::from_le_bytes(w4[12]),
            how: u32::from_le_bytes(w4[13]),
            extra: u64::from_le_bytes(w8[7]),
        };
        m.check()?;
        Ok(m)
    }

    fn check(&self) -> Result<(), WireError> {
        let used = self.kind.fields();
        let wrong = |field| Err(WireError::Field(self.kind, field));
        let fields = [
            (FLAGS, "flags", u64::from(self.flags)),
            (STATUS, "status", u64::from(self.status)),
            (ID, "id", self.id),
            (OBJECT, "object", self.object),
            (OFFSET, "offset", self.offset),
            (SIZE, "size", self.size),
            (PLACE, "place", self.place),
            (ACCESS, "access", u64::from(self.access)),
            (HOW, "how", u64::from(self.how)),
            (EXTRA, "extra", self.extra),
        ];
        for (field, name, value) in fields {
            if used & field == 0 && value != 0 {
                return wrong(name);
            }
        }
        if self.flags & !flags_of(self.kind) != 0 {
            return wrong("flags");
        }
        if self.access & !7 != 0 {
            return wrong("access");
        }
        if used & PAGES == PAGES {
            if self.offset & PAGE_MASK != 0 {
                return wrong("offset");
            }
            if self.size == 0 || self.size & PAGE_MASK != 0 || self.offset.checked_add(self.size).is_none() {
                return wrong("size");
            }
        }
        if used & DATA == DATA {
            if self.size > CLUSTER {
                return wrong("size");
            }
            if self.place & PAGE_MASK != 0 || self.place.checked_add(self.size).is_none() {
                return wrong("place");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator (xorshift64*): the seed replays the run.
    struct Random(u64);
    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }
    }

    #[test]
    fn numbers_are_unique_and_lead_back() {
        for pair in Kind::ALL.windows(2) {
            assert!((pair[0] as u16) < pair[1] as u16);
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(*kind as u16), Some(*kind));
            assert_eq!(kind.from() == From::Pager, *kind as u16 >= 48 || *kind == Kind::Welcome);
        }
        for (i, status) in Status::ALL.iter().enumerate() {
            assert_eq!(*status as usize, i);
        }
        assert_eq!(Status::from_number(77), Status::Error);
    }

    #[test]
    fn random_bytes_are_refused_or_mean_what_they_say() {
        let seed = 0x5eed_0001;
        let mut r = Random(seed);
        let mut good = 0;
        for round in 0..200_000 {
            let mut bytes = [0; MESSAGE];
            // Bytes all over, or a plausible message with a few bytes changed.
            if round % 2 == 0 {
                bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|w| *w = r.next().to_le_bytes());
                bytes[1] = 0;
            } else {
                let kind = Kind::ALL[r.next() as usize % Kind::ALL.len()];
                let offset = (r.next() >> (r.next() % 64)) & !PAGE_MASK;
                bytes = Message { id: r.next(), offset, size: PAGE_SIZE, ..Message::about(kind, 3) }.encode();
                for _ in 0..r.next() % 3 {
                    bytes[r.next() as usize % MESSAGE] = r.next() as u8;
                }
            }
            if let Ok(m) = Message::decode(&bytes) {
                good += 1;
                assert_eq!(m.encode(), bytes, "seed {seed:#x} round {round}");
                assert!(m.kind.fields() & PAGES != PAGES || m.offset.checked_add(m.size).is_some());
                assert!(m.kind.fields() & DATA != DATA || m.size <= CLUSTER);
            }
            let short = r.next() as usize % MESSAGE;
            assert_eq!(Message::decode(&bytes[..short]), Err(WireError::Length(short)));
        }
        assert!(good > 1000, "{good} messages were good: the test tests nothing");
    }

    #[test]
    fn each_wrong_field_is_named() {
        let good = Message {
            id: 1,
            offset: PAGE_SIZE,
            size: CLUSTER,
            place: CLUSTER,
            access: 1,
            ..Message::about(Kind::DataRequest, 9)
        };
        assert_eq!(Message::decode(&good.encode()), Ok(good));
        let cases: [(Message, &str); 9] = [
            (Message { flags: 1, ..good }, "flags"),
            (Message { status: 1, ..good }, "status"),
            (Message { offset: 1, ..good }, "offset"),
            (Message { size: 0, ..good }, "size"),
            (Message { size: CLUSTER + PAGE_SIZE, ..good }, "size"),
            (Message { offset: !PAGE_MASK, size: 2 * PAGE_SIZE, ..good }, "size"),
            (Message { place: 5, ..good }, "place"),
            (Message { access: 8, ..good }, "access"),
            (Message { extra: 1, ..good }, "extra"),
        ];
        for (m, field) in cases {
            assert_eq!(Message::decode(&m.encode()), Err(WireError::Field(m.kind, field)), "{m:?}");
        }
    }
}

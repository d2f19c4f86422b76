//! The numbers: XNU's, and Mach 3's where they differ.

use crate::types::kern_return_t;

/// Done.
pub const KERN_SUCCESS: kern_return_t = 0;
/// Not mapped, or outside the map.
pub const KERN_INVALID_ADDRESS: kern_return_t = 1;
/// Mapped, but not for this.
pub const KERN_PROTECTION_FAILURE: kern_return_t = 2;
/// In use, or no gap is large enough.
pub const KERN_NO_SPACE: kern_return_t = 3;
/// A bad flag, size, alignment or port.
pub const KERN_INVALID_ARGUMENT: kern_return_t = 4;
/// Nothing better is known.
pub const KERN_FAILURE: kern_return_t = 5;
/// Out of memory or of structures.
pub const KERN_RESOURCE_SHORTAGE: kern_return_t = 6;
/// Without the receive right.
pub const KERN_NOT_RECEIVER: kern_return_t = 7;
/// Without the privilege.
pub const KERN_NO_ACCESS: kern_return_t = 8;
/// The memory object is gone.
pub const KERN_MEMORY_FAILURE: kern_return_t = 9;
/// The memory object could not give the data.
pub const KERN_MEMORY_ERROR: kern_return_t = 10;
/// In the port set already.
pub const KERN_ALREADY_IN_SET: kern_return_t = 11;
/// In no port set.
pub const KERN_NOT_IN_SET: kern_return_t = 12;
/// The name is taken.
pub const KERN_NAME_EXISTS: kern_return_t = 13;
/// Interrupted.
pub const KERN_ABORTED: kern_return_t = 14;
/// No such name.
pub const KERN_INVALID_NAME: kern_return_t = 15;
/// Not a task.
pub const KERN_INVALID_TASK: kern_return_t = 16;
/// A right that the port does not give.
pub const KERN_INVALID_RIGHT: kern_return_t = 17;
/// A number out of range.
pub const KERN_INVALID_VALUE: kern_return_t = 18;
/// More references than can be counted.
pub const KERN_UREFS_OVERFLOW: kern_return_t = 19;
/// Not a port that can be used.
pub const KERN_INVALID_CAPABILITY: kern_return_t = 20;
/// The right is held under another name.
pub const KERN_RIGHT_EXISTS: kern_return_t = 21;
/// Not a host port, or not the privileged one.
pub const KERN_INVALID_HOST: kern_return_t = 22;
/// The data is there already.
pub const KERN_MEMORY_PRESENT: kern_return_t = 23;
/// The page belongs to a copy now.
pub const KERN_MEMORY_DATA_MOVED: kern_return_t = 24;
/// The copy must begin again.
pub const KERN_MEMORY_RESTART_COPY: kern_return_t = 25;
/// Not a processor set.
pub const KERN_INVALID_PROCESSOR_SET: kern_return_t = 26;
/// Beyond what the policy allows.
pub const KERN_POLICY_LIMIT: kern_return_t = 27;
/// Not a policy.
pub const KERN_INVALID_POLICY: kern_return_t = 28;
/// Not a memory object.
pub const KERN_INVALID_OBJECT: kern_return_t = 29;
/// Somebody waits already.
pub const KERN_ALREADY_WAITING: kern_return_t = 30;
/// Not for the default set.
pub const KERN_DEFAULT_SET: kern_return_t = 31;
/// The exception port is protected.
pub const KERN_EXCEPTION_PROTECTED: kern_return_t = 32;
/// Not a ledger.
pub const KERN_INVALID_LEDGER: kern_return_t = 33;
/// Not a control port of a memory object.
pub const KERN_INVALID_MEMORY_CONTROL: kern_return_t = 34;
/// Not the security port.
pub const KERN_INVALID_SECURITY: kern_return_t = 35;
/// The thread is not depressed.
pub const KERN_NOT_DEPRESSED: kern_return_t = 36;
/// The object has ended.
pub const KERN_TERMINATED: kern_return_t = 37;
/// The lock set is gone.
pub const KERN_LOCK_SET_DESTROYED: kern_return_t = 38;
/// The lock's owner ended while it held it.
pub const KERN_LOCK_UNSTABLE: kern_return_t = 39;
/// Another owns the lock.
pub const KERN_LOCK_OWNED: kern_return_t = 40;
/// The caller owns the lock.
pub const KERN_LOCK_OWNED_SELF: kern_return_t = 41;
/// The semaphore is gone.
pub const KERN_SEMAPHORE_DESTROYED: kern_return_t = 42;
/// The server ended.
pub const KERN_RPC_SERVER_TERMINATED: kern_return_t = 43;
/// The orphan is to end.
pub const KERN_RPC_TERMINATE_ORPHAN: kern_return_t = 44;
/// The orphan is to go on.
pub const KERN_RPC_CONTINUE_ORPHAN: kern_return_t = 45;
/// Not here.
pub const KERN_NOT_SUPPORTED: kern_return_t = 46;
/// The other machine is down.
pub const KERN_NODE_DOWN: kern_return_t = 47;
/// The thread does not wait.
pub const KERN_NOT_WAITING: kern_return_t = 48;
/// Not done in time.
pub const KERN_OPERATION_TIMED_OUT: kern_return_t = 49;
/// A bad signature.
pub const KERN_CODESIGN_ERROR: kern_return_t = 50;
/// The policy cannot change.
pub const KERN_POLICY_STATIC: kern_return_t = 51;
/// The buffer is too small.
pub const KERN_INSUFFICIENT_BUFFER_SIZE: kern_return_t = 52;
/// Refused by a policy.
pub const KERN_DENIED: kern_return_t = 53;
/// A kernel collection is missing.
pub const KERN_MISSING_KC: kern_return_t = 54;
/// A kernel collection is bad.
pub const KERN_INVALID_KC: kern_return_t = 55;
/// Nothing was found.
pub const KERN_NOT_FOUND: kern_return_t = 56;
/// One past the codes of the kernel.
pub const KERN_RETURN_MAX: kern_return_t = 0x100;

/// Mach 3: a page that its manager has protected.
pub const MACH3_WRITE_PROTECTION_FAILURE: kern_return_t = 24;
/// Mach 3: as [`KERN_TERMINATED`].
pub const MACH3_TERMINATED: kern_return_t = 26;
/// Mach 3: as [`KERN_OPERATION_TIMED_OUT`].
pub const MACH3_TIMEDOUT: kern_return_t = 27;
/// Mach 3: as [`KERN_ABORTED`].
pub const MACH3_INTERRUPTED: kern_return_t = 28;

/// Being sent.
pub const MACH_SEND_IN_PROGRESS: kern_return_t = 0x1000_0001;
/// The message cannot be read.
pub const MACH_SEND_INVALID_DATA: kern_return_t = 0x1000_0002;
/// A message to a port that is not there.
pub const MACH_SEND_INVALID_DEST: kern_return_t = 0x1000_0003;
/// Not sent in time.
pub const MACH_SEND_TIMED_OUT: kern_return_t = 0x1000_0004;
/// Not a voucher.
pub const MACH_SEND_INVALID_VOUCHER: kern_return_t = 0x1000_0005;
/// Interrupted.
pub const MACH_SEND_INTERRUPTED: kern_return_t = 0x1000_0007;
/// Not a whole message.
pub const MACH_SEND_MSG_TOO_SMALL: kern_return_t = 0x1000_0008;
/// Not a reply port.
pub const MACH_SEND_INVALID_REPLY: kern_return_t = 0x1000_0009;
/// A message with a right that is none.
pub const MACH_SEND_INVALID_RIGHT: kern_return_t = 0x1000_000a;
/// Not a port for notifications.
pub const MACH_SEND_INVALID_NOTIFY: kern_return_t = 0x1000_000b;
/// A message whose memory cannot be read.
pub const MACH_SEND_INVALID_MEMORY: kern_return_t = 0x1000_000c;
/// No buffer for the message.
pub const MACH_SEND_NO_BUFFER: kern_return_t = 0x1000_000d;
/// Too large for the port.
pub const MACH_SEND_TOO_LARGE: kern_return_t = 0x1000_000e;
/// A descriptor of no kind.
pub const MACH_SEND_INVALID_TYPE: kern_return_t = 0x1000_000f;
/// A bad header.
pub const MACH_SEND_INVALID_HEADER: kern_return_t = 0x1000_0010;
/// A bad trailer.
pub const MACH_SEND_INVALID_TRAILER: kern_return_t = 0x1000_0011;
/// Not the context of the port.
pub const MACH_SEND_INVALID_CONTEXT: kern_return_t = 0x1000_0012;
/// Bad options.
pub const MACH_SEND_INVALID_OPTIONS: kern_return_t = 0x1000_0013;
/// Too much memory for a real-time message.
pub const MACH_SEND_INVALID_RT_OOL_SIZE: kern_return_t = 0x1000_0015;
/// The port takes no rights.
pub const MACH_SEND_NO_GRANT_DEST: kern_return_t = 0x1000_0016;
/// Refused by a filter.
pub const MACH_SEND_MSG_FILTERED: kern_return_t = 0x1000_0017;
/// Too little auxiliary data.
pub const MACH_SEND_AUX_TOO_SMALL: kern_return_t = 0x1000_0018;
/// Too much auxiliary data.
pub const MACH_SEND_AUX_TOO_LARGE: kern_return_t = 0x1000_0019;

/// Being received.
pub const MACH_RCV_IN_PROGRESS: kern_return_t = 0x1000_4001;
/// Not a right to receive.
pub const MACH_RCV_INVALID_NAME: kern_return_t = 0x1000_4002;
/// Nothing came in time.
pub const MACH_RCV_TIMED_OUT: kern_return_t = 0x1000_4003;
/// Larger than the buffer.
pub const MACH_RCV_TOO_LARGE: kern_return_t = 0x1000_4004;
/// Interrupted.
pub const MACH_RCV_INTERRUPTED: kern_return_t = 0x1000_4005;
/// The port moved into a set.
pub const MACH_RCV_PORT_CHANGED: kern_return_t = 0x1000_4006;
/// Not a port for notifications.
pub const MACH_RCV_INVALID_NOTIFY: kern_return_t = 0x1000_4007;
/// The buffer cannot be written.
pub const MACH_RCV_INVALID_DATA: kern_return_t = 0x1000_4008;
/// The port is gone.
pub const MACH_RCV_PORT_DIED: kern_return_t = 0x1000_4009;
/// The port is in a set.
pub const MACH_RCV_IN_SET: kern_return_t = 0x1000_400a;
/// The header could not be received.
pub const MACH_RCV_HEADER_ERROR: kern_return_t = 0x1000_400b;
/// The body could not be received.
pub const MACH_RCV_BODY_ERROR: kern_return_t = 0x1000_400c;
/// A descriptor of no kind.
pub const MACH_RCV_INVALID_TYPE: kern_return_t = 0x1000_400d;
/// The memory to receive into is too small.
pub const MACH_RCV_SCATTER_SMALL: kern_return_t = 0x1000_400e;
/// A trailer of no kind.
pub const MACH_RCV_INVALID_TRAILER: kern_return_t = 0x1000_400f;
/// Being received, for a time.
pub const MACH_RCV_IN_PROGRESS_TIMED: kern_return_t = 0x1000_4011;
/// Not the reply port of the message.
pub const MACH_RCV_INVALID_REPLY: kern_return_t = 0x1000_4012;
/// Bad arguments.
pub const MACH_RCV_INVALID_ARGUMENTS: kern_return_t = 0x1000_4013;

/// The caller's array is too small for the answer.
pub const MIG_ARRAY_TOO_LARGE: kern_return_t = -307;
/// There is no such message.
pub const MIG_BAD_ID: kern_return_t = -303;

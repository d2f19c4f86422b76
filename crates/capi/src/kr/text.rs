//! What codes are called: `mach_error_string`, `mach_error_type`.
//!
//! A code has 6 bits of system, 12 of subsystem and 14 of code. Programs print these texts
//! and look for them in logs, so they are those that people know.

use core::ffi::CStr;
use std::ffi::CString;
use std::sync::OnceLock;

use super::codes::{MACH3_INTERRUPTED, MACH3_TERMINATED, MACH3_TIMEDOUT, MACH3_WRITE_PROTECTION_FAILURE};
use crate::types::kern_return_t;

const UNKNOWN: &CStr = c"unknown error code";
const NO_SYSTEM: &CStr = c"(?/?) unknown error system";

/// System 0, subsystem 0.
const KERN: &[&CStr] = &[
    c"(os/kern) successful",
    c"(os/kern) invalid address",
    c"(os/kern) protection failure",
    c"(os/kern) no space available",
    c"(os/kern) invalid argument",
    c"(os/kern) failure",
    c"(os/kern) resource shortage",
    c"(os/kern) not receiver",
    c"(os/kern) no access",
    c"(os/kern) memory failure",
    c"(os/kern) memory error",
    c"(os/kern) already in set",
    c"(os/kern) not in set",
    c"(os/kern) name exists",
    c"(os/kern) aborted",
    c"(os/kern) invalid name",
    c"(os/kern) invalid task",
    c"(os/kern) invalid right",
    c"(os/kern) invalid value",
    c"(os/kern) urefs overflow",
    c"(os/kern) invalid capability",
    c"(os/kern) right exists",
    c"(os/kern) invalid host",
    c"(os/kern) memory present",
    c"(os/kern) memory data moved",
    c"(os/kern) memory restart copy",
    c"(os/kern) invalid processor set",
    c"(os/kern) policy limit",
    c"(os/kern) invalid policy",
    c"(os/kern) invalid object",
    c"(os/kern) already waiting",
    c"(os/kern) default set",
    c"(os/kern) exception protected",
    c"(os/kern) invalid ledger",
    c"(os/kern) invalid memory control",
    c"(os/kern) invalid security",
    c"(os/kern) not depressed",
    c"(os/kern) object terminated",
    c"(os/kern) lock set destroyed",
    c"(os/kern) lock unstable",
    c"(os/kern) lock owned by another",
    c"(os/kern) lock owned by self",
    c"(os/kern) semaphore destroyed",
    c"(os/kern) RPC terminated",
    c"(os/kern) terminate orphan",
    c"(os/kern) let orphan continue",
    c"(os/kern) service not supported",
    c"(os/kern) remote node down",
    c"(os/kern) thread not waiting",
    c"(os/kern) operation timed out",
    c"(os/kern) code signing error",
    c"(os/kern) policy is static",
    c"(os/kern) insufficient input buffer size",
    c"(os/kern) denied by security policy",
    c"(os/kern) missing kernel collection",
    c"(os/kern) invalid kernel collection",
    c"(os/kern) result not found",
];
/// System 4, subsystem 0: `MACH_SEND_*`.
const SEND: &[&CStr] = &[
    c"(ipc/send) no error",
    c"(ipc/send) send in progress",
    c"(ipc/send) invalid data",
    c"(ipc/send) invalid destination port",
    c"(ipc/send) timed out",
    c"(ipc/send) invalid voucher",
    c"(ipc/send) notify in progress",
    c"(ipc/send) interrupted",
    c"(ipc/send) msg too small",
    c"(ipc/send) invalid reply port",
    c"(ipc/send) invalid port right",
    c"(ipc/send) invalid notify port",
    c"(ipc/send) invalid memory",
    c"(ipc/send) no msg buffer",
    c"(ipc/send) msg too large",
    c"(ipc/send) invalid msg-type",
    c"(ipc/send) invalid msg-header",
    c"(ipc/send) invalid msg-trailer",
    c"(ipc/send) invalid context",
    c"(ipc/send) invalid options",
    UNKNOWN,
    c"(ipc/send) out-of-line buffer too large",
    c"(ipc/send) destination accepts no rights",
    c"(ipc/send) message filtered",
    c"(ipc/send) auxiliary data too small",
    c"(ipc/send) auxiliary data too large",
];
/// System 4, subsystem 1: `MACH_RCV_*`.
const RECEIVE: &[&CStr] = &[
    c"(ipc/rcv) no error",
    c"(ipc/rcv) receive in progress",
    c"(ipc/rcv) invalid name",
    c"(ipc/rcv) timed out",
    c"(ipc/rcv) msg too large",
    c"(ipc/rcv) interrupted",
    c"(ipc/rcv) port changed",
    c"(ipc/rcv) invalid notify port",
    c"(ipc/rcv) invalid data",
    c"(ipc/rcv) port died",
    c"(ipc/rcv) port in set",
    c"(ipc/rcv) header error",
    c"(ipc/rcv) body error",
    c"(ipc/rcv) invalid scatter list entry",
    c"(ipc/rcv) overwrite region too small",
    c"(ipc/rcv) invalid msg-trailer",
    UNKNOWN,
    c"(ipc/rcv) timed receive in progress",
    c"(ipc/rcv) invalid reply port",
    c"(ipc/rcv) invalid arguments",
];
/// System 4, subsystem 2: `MIG_*`, which are -300 and below.
const MIG: &[&CStr] = &[
    c"(ipc/mig) client type check failure",
    c"(ipc/mig) wrong reply message ID",
    c"(ipc/mig) server detected error",
    c"(ipc/mig) bad request message ID",
    c"(ipc/mig) server type check failure",
    c"(ipc/mig) no reply should be sent",
    c"(ipc/mig) server raised exception",
    c"(ipc/mig) array not large enough",
    c"(ipc/mig) server died",
    c"(ipc/mig) unknown trailer format",
];
/// Mach 3's own, where XNU gave the number to another.
const MACH3: &[(kern_return_t, &CStr)] = &[
    (MACH3_WRITE_PROTECTION_FAILURE, c"(os/kern) write protection failure"),
    (MACH3_TERMINATED, c"(os/kern) object terminated"),
    (MACH3_TIMEDOUT, c"(os/kern) operation timed out"),
    (MACH3_INTERRUPTED, c"(os/kern) interrupted"),
];

const KERNEL: i32 = 0;
const MACH_IPC: i32 = 4;
const UNIX: i32 = 3;
/// `MACH_MSG_MASK`: bits of a receive error that say what was short.
const SHORTAGE: i32 = 0x3e00;

/// System, subsystem and code.
fn parts(err: kern_return_t) -> (i32, i32, i32) {
    // The stubs of messages give small negative numbers.
    if (-399..=-300).contains(&err) {
        return (MACH_IPC, 2, -(err + 300));
    }
    ((err >> 26) & 0x3f, (err >> 14) & 0xfff, err & 0x3fff)
}

/// What `err` is called; never empty, and good for ever.
pub(crate) fn string(err: kern_return_t, mach3: bool) -> &'static CStr {
    if let Some((_, text)) = MACH3.iter().find(|(n, _)| mach3 && *n == err) {
        return text;
    }
    let (system, sub, code) = parts(err);
    let table = match (system, sub) {
        (KERNEL, 0) => KERN,
        (KERNEL, UNIX) => return unix(code),
        (MACH_IPC, 0) => SEND,
        (MACH_IPC, 1) => return of(RECEIVE, code & !SHORTAGE),
        (MACH_IPC, 2) => MIG,
        (KERNEL, 1 | 2) => return UNKNOWN,
        (KERNEL, _) => return c"(operating system/?) unknown subsystem error",
        (MACH_IPC, _) => return c"(ipc/?) unknown subsystem error",
        _ => return NO_SYSTEM,
    };
    of(table, code)
}

fn of(table: &'static [&'static CStr], code: i32) -> &'static CStr {
    usize::try_from(code).ok().and_then(|i| table.get(i)).copied().unwrap_or(UNKNOWN)
}

/// What part of the system `err` comes from.
pub(crate) fn kind(err: kern_return_t) -> &'static CStr {
    match parts(err) {
        (KERNEL, 0, _) => c"(os/kern)",
        (KERNEL, UNIX, _) => c"(os/unix)",
        (KERNEL, 1 | 2, _) => c"(os/?)",
        (MACH_IPC, 0, _) => c"(ipc/send)",
        (MACH_IPC, 1, _) => c"(ipc/rcv)",
        (MACH_IPC, 2, _) => c"(ipc/mig)",
        _ => c"(?/?)",
    }
}

/// Is `err` a code with a text of its own?
pub(crate) fn known(err: kern_return_t) -> bool {
    let text = string(err, false);
    text != UNKNOWN && text != NO_SYSTEM && !text.to_bytes().ends_with(b"unknown subsystem error")
}

/// Errors of system calls, with the C library's words.
fn unix(errno: i32) -> &'static CStr {
    const MOST: usize = 134;
    static TEXTS: [OnceLock<Option<CString>>; MOST] = [const { OnceLock::new() }; MOST];
    let Some(place) = usize::try_from(errno).ok().filter(|n| *n != 0).and_then(|n| TEXTS.get(n)) else {
        return UNKNOWN;
    };
    let text = place.get_or_init(|| {
        let said = std::io::Error::from_raw_os_error(errno).to_string();
        // The number that is appended is known to who asks.
        let words = said.split(" (os error").next().unwrap_or(&said);
        CString::new(format!("(os/unix) {words}")).ok()
    });
    text.as_deref().unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::super::codes::*;
    use super::{kind, known, string};

    fn text(err: i32) -> &'static str {
        string(err, false).to_str().unwrap()
    }

    #[test]
    fn every_code_of_the_kernel_has_a_text_of_its_own() {
        let mut all: Vec<_> = (0..57).map(text).collect();
        assert!(all.iter().all(|t| t.starts_with("(os/kern) ")), "{all:?}");
        assert_eq!(all[4], "(os/kern) invalid argument");
        assert_eq!((text(KERN_NOT_FOUND), text(57)), ("(os/kern) result not found", "unknown error code"));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 57);
    }

    #[test]
    fn messages_have_texts_too() {
        assert_eq!(text(MACH_SEND_INVALID_DEST), "(ipc/send) invalid destination port");
        assert_eq!(text(MACH_SEND_INVALID_MEMORY), "(ipc/send) invalid memory");
        assert_eq!(text(MACH_SEND_AUX_TOO_LARGE), "(ipc/send) auxiliary data too large");
        assert_eq!(text(MACH_RCV_TIMED_OUT), "(ipc/rcv) timed out");
        assert_eq!(text(MACH_RCV_INVALID_ARGUMENTS), "(ipc/rcv) invalid arguments");
        assert_eq!(text(MACH_RCV_BODY_ERROR | 0x1000), "(ipc/rcv) body error");
        assert_eq!(text(MIG_ARRAY_TOO_LARGE), "(ipc/mig) array not large enough");
        assert!(text(3 << 14 | 2).starts_with("(os/unix) No such file"), "{}", text(3 << 14 | 2));
    }

    #[test]
    fn mach_3_gives_four_numbers_to_others() {
        let both = |n| (string(n, false).to_str().unwrap(), string(n, true).to_str().unwrap());
        assert_eq!(both(24), ("(os/kern) memory data moved", "(os/kern) write protection failure"));
        assert_eq!(both(26), ("(os/kern) invalid processor set", "(os/kern) object terminated"));
        assert_eq!(both(27), ("(os/kern) policy limit", "(os/kern) operation timed out"));
        assert_eq!(both(28), ("(os/kern) invalid policy", "(os/kern) interrupted"));
        assert_eq!(both(4).0, both(4).1);
    }

    #[test]
    fn any_number_has_some_text() {
        for system in [0, 1, 2, 3, 4, 5, 0x37, 0x38, 0x3e, 0x3f] {
            for rest in [0, 1, 3 << 14, 3 << 14 | 133, 3 << 14 | 134, 4 << 14, 0xfff << 14, 0x3ff_ffff] {
                let err = system << 26 | rest;
                assert!(!text(err).is_empty() && !kind(err).is_empty(), "{err:#x}");
            }
        }
        assert_eq!((text(-1), text(i32::MIN)), ("(?/?) unknown error system", "(?/?) unknown error system"));
        assert!(known(KERN_FAILURE) && known(MACH_RCV_TOO_LARGE));
        assert!(!known(57) && !known(-1) && !known(4 << 26 | 3 << 14));
    }
}

//! The host's ports, pages, and what codes are called.

use std::ffi::CStr;

use machvm_capi::calls::error::{mach_error, mach_error_string, mach_error_type};
use machvm_capi::calls::host::*;

use crate::util::*;

/// host_get_special_port of the XNU manual.
#[test]
fn special_ports() {
    let get = |host, which| {
        let mut name = 99;
        // SAFETY: a variable of ours.
        match unsafe { host_get_special_port(host, -1, which, &raw mut name) } {
            0 => Ok(name),
            e => Err(e),
        }
    };
    for host in [HOST, HOST_PRIV, mach_host_self()] {
        assert_eq!((get(host, 1), get(host, 2), get(host, 3)), (Ok(HOST), Ok(HOST_PRIV), Ok(NULL)));
        for bad in [0, -1, 27, i32::MAX] {
            assert_eq!(get(host, bad), Err(KERN_INVALID_ARGUMENT));
        }
    }
    assert_eq!(get(NULL, 1), Err(MACH_SEND_INVALID_DEST));
    assert_eq!(get(TASK_SELF, 1), Err(KERN_INVALID_ARGUMENT));
    // SAFETY: null is looked at.
    let null = unsafe { host_get_special_port(HOST, -1, 1, core::ptr::null_mut()) };
    assert_eq!(null, KERN_INVALID_ARGUMENT);
}

#[test]
fn pages() {
    let mut size = 0;
    // SAFETY: a variable of ours; null is looked at.
    unsafe {
        assert_eq!(host_page_size(mach_host_self(), &raw mut size), KERN_SUCCESS);
        assert_eq!(host_page_size(HOST, core::ptr::null_mut()), KERN_INVALID_ARGUMENT);
    }
    assert_eq!((size as u64, vm_page_size, vm_kernel_page_size), (P, size, size));
    assert_eq!((vm_page_mask, vm_kernel_page_mask, 1 << vm_page_shift), (size - 1, size - 1, size));
    assert_eq!((vm_kernel_page_shift, mach_task_self_), (vm_page_shift, TASK_SELF));
}

fn text(p: *mut core::ffi::c_char) -> String {
    // SAFETY: what the calls give is a string for ever.
    unsafe { CStr::from_ptr(p) }.to_str().unwrap().to_owned()
}

/// mach_error_string of the XNU library.
#[test]
fn errors_have_texts() {
    assert_eq!(text(mach_error_string(KERN_INVALID_ADDRESS)), "(os/kern) invalid address");
    assert_eq!(text(mach_error_string(MACH_SEND_INVALID_DEST)), "(ipc/send) invalid destination port");
    assert_eq!(text(mach_error_type(MACH_RCV_TOO_LARGE)), "(ipc/rcv)");
    assert_eq!(text(mach_error_string(12345)), "unknown error code");
    assert_eq!(text(mach_error_type(-1)), "(?/?)");
}

#[test]
#[ignore = "writes: run by errors_are_written"]
fn writes_errors() {
    // SAFETY: strings, and null.
    unsafe {
        mach_error(c"vm_allocate:".as_ptr(), KERN_NO_SPACE);
        mach_error(c"odd:".as_ptr(), 0xfff);
        mach_error(core::ptr::null(), KERN_SUCCESS);
    }
}

#[test]
fn errors_are_written() {
    let said = elsewhere("host::writes_errors", &[]).stderr;
    let want = "vm_allocate: (os/kern) no space available\n\
                odd: (os/kern) unknown error code (fff)\n \
                (os/kern) successful\n";
    assert_eq!(String::from_utf8_lossy(&said), want);
}

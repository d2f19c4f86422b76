//! The host's ports and the size of a page.

use machvm_hal::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};

use super::{destination, here};
use crate::kr;
use crate::ports::{self, Right};
use crate::types::{kern_return_t, mach_port_t, vm_size_t};
use crate::world::world;

/// What the holder of a host port may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Privilege {
    /// Ask.
    None,
    /// Everything.
    Full,
}

impl Privilege {
    /// Has the personality a limit for those without privilege, rather than an error?
    pub(crate) fn is_graded() -> bool {
        here().1.wire.unprivileged.is_some()
    }
}

/// Which host port `name` is, as the destination of a message. The plain one is privileged
/// in the hands of root, whom nothing keeps from the other, except where a limit tells the
/// two apart.
///
/// # Errors
/// As [`destination`]; `KERN_INVALID_HOST`: the port is something else.
pub(crate) fn host_of(name: mach_port_t) -> Result<Privilege, kern_return_t> {
    // SAFETY: it only asks.
    let root = || unsafe { libc::geteuid() } == 0;
    match destination(name)? {
        Right::HostPriv => Ok(Privilege::Full),
        Right::Host if !Privilege::is_graded() && root() => Ok(Privilege::Full),
        Right::Host => Ok(Privilege::None),
        _ => Err(kr::KERN_INVALID_HOST),
    }
}

/// The host's port, with one reference more.
#[unsafe(no_mangle)]
pub extern "C" fn mach_host_self() -> mach_port_t {
    world().ports().retain(ports::HOST);
    ports::HOST
}

/// As [`mach_host_self`].
#[unsafe(no_mangle)]
pub extern "C" fn host_self_trap() -> mach_port_t {
    mach_host_self()
}

/// `HOST_PORT`, `HOST_PRIV_PORT`, and the last that there is anywhere.
const WHICH: (i32, i32, i32) = (1, 2, 26);

/// A port of the host. The privileged one is given to whoever asks: what it protects is
/// this process, which could do all of it to itself anyway. Ports that do not exist are
/// null.
///
/// # Safety
/// 1. `port` is null or good for writing one name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn host_get_special_port(
    host: mach_port_t,
    _node: i32,
    which: i32,
    port: *mut mach_port_t,
) -> kern_return_t {
    let (plain, privileged, last) = WHICH;
    let got = || {
        if port.is_null() {
            return Err(kr::KERN_INVALID_ARGUMENT);
        }
        host_of(host).map_err(|e| if e == kr::KERN_INVALID_HOST { kr::KERN_INVALID_ARGUMENT } else { e })?;
        let name = match which {
            w if w == plain => ports::HOST,
            w if w == privileged => ports::HOST_PRIV,
            w if (1..=last).contains(&w) => return Ok(ports::NULL),
            _ => return Err(kr::KERN_INVALID_ARGUMENT),
        };
        world().ports().retain(name);
        Ok(name)
    };
    // SAFETY: looked at there, and 1.
    unsafe { super::give(port, got()) }
}

/// Bytes of a page. The host is not looked at.
///
/// # Safety
/// 1. `size` is null or good for writing one size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn host_page_size(_host: mach_port_t, size: *mut vm_size_t) -> kern_return_t {
    if size.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    unsafe { super::give(size, Ok(vm_page_size)) }
}

/// The name of this process's task, for `mach_task_self()`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "C's name")]
pub static mach_task_self_: mach_port_t = ports::TASK_SELF;

macro_rules! sizes {
    ($($(#[$doc:meta])* $name:ident: $t:ty = $value:expr;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals, reason = "C's name")]
        pub static $name: $t = $value;
    )*};
}

sizes! {
    /// Bytes of a page.
    vm_page_size: vm_size_t = PAGE_SIZE as usize;
    /// The bits of an address within a page.
    vm_page_mask: vm_size_t = PAGE_MASK as usize;
    /// How many bits these are.
    vm_page_shift: i32 = PAGE_SHIFT as i32;
    /// As [`vm_page_size`]: there is one size.
    vm_kernel_page_size: vm_size_t = PAGE_SIZE as usize;
    /// As [`vm_page_mask`].
    vm_kernel_page_mask: vm_size_t = PAGE_MASK as usize;
    /// As [`vm_page_shift`].
    vm_kernel_page_shift: i32 = PAGE_SHIFT as i32;
}

//! What the calls find.

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::inherit::mach_vm_inherit;
use machvm_capi::calls::names::mach_port_deallocate;
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::tasks::{task_create, task_terminate};
use machvm_capi::calls::wire::mach_vm_wire;
use machvm_capi::calls::write::mach_vm_write;
use machvm_capi::hooks;
use machvm_capi::kr::KERN_SUCCESS;
use machvm_capi::ports::{HOST_PRIV, TASK_SELF};

pub(crate) const P: u64 = 4096;
const LOW: u64 = 1 << 32;
const HIGH: u64 = LOW + (256 << 30);
/// Where the scene is, in the window and outside it.
pub(crate) const AT: u64 = LOW + (1 << 30);
const OUT: u64 = 0x2000_0000;
/// The view of a submap in it, and what comes next.
const VIEW: u64 = AT + 32 * P;
const BUSY: u64 = AT + 48 * P;

/// A place of the scene.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) at: u64,
    /// The page that is held busy meanwhile.
    pub(crate) busy: Option<u64>,
}

const fn free(name: &'static str, at: u64) -> Place {
    Place { name, at, busy: None }
}
const fn busy(name: &'static str, at: u64, page: u64) -> Place {
    Place { name, at, busy: Some(page) }
}

/// Addresses of the scene: two pages each, and what is special by itself.
pub(crate) const PLACES: [Place; 29] = [
    free("null", 0),
    free("one", 1),
    free("rw", AT),
    free("rw+5", AT + 5),
    free("rw, last page", AT + 3 * P),
    free("ro", AT + 4 * P),
    free("ro+5", AT + 4 * P + 5),
    free("none", AT + 6 * P),
    free("hole", AT + 8 * P),
    free("wired", AT + 10 * P),
    free("max ro", AT + 12 * P),
    free("shared", AT + 14 * P),
    free("end", HIGH - P),
    free("beyond", HIGH),
    free("outside rw", OUT),
    free("outside ro", OUT + 4 * P + 9),
    free("outside none", OUT + 6 * P),
    free("outside hole", OUT + 8 * P),
    free("top", !(P - 1)),
    free("max", u64::MAX),
    free("before submap", VIEW - P),
    free("submap", VIEW),
    free("submap+5", VIEW + 5),
    free("submap, ro", VIEW + 2 * P),
    free("submap, hole", VIEW + 4 * P),
    free("submap, last page", VIEW + 7 * P),
    busy("busy", BUSY + P, BUSY + P),
    busy("before busy", BUSY + 9, BUSY + P),
    busy("submap, busy", VIEW + 6 * P, VIEW + 6 * P),
];

fn done(code: i32) {
    assert_eq!(code, KERN_SUCCESS, "the scene");
}

fn fixed(task: u32, at: u64, size: u64) {
    let mut at = at;
    // SAFETY: a good address.
    done(unsafe { mach_vm_allocate(task, &raw mut at, size, 0) });
}

/// Makes the scene in a task: 20 pages of the window, eight that show a submap, four that
/// may be busy. Gives the submap.
pub(crate) fn scene(task: u32) -> u32 {
    fixed(task, AT, 20 * P);
    done(mach_vm_protect(task, AT + 4 * P, 2 * P, 0, 1));
    done(mach_vm_protect(task, AT + 6 * P, 2 * P, 0, 0));
    done(mach_vm_deallocate(task, AT + 8 * P, 2 * P));
    done(mach_vm_wire(HOST_PRIV, task, AT + 10 * P, 2 * P, 3));
    done(mach_vm_protect(task, AT + 12 * P, 2 * P, 1, 1));
    done(mach_vm_inherit(task, AT + 14 * P, 2 * P, 0));
    done(mach_vm_deallocate(task, AT + 16 * P, 4 * P));
    let submap = hooks::showable_task();
    fixed(submap, VIEW, 8 * P);
    done(mach_vm_protect(submap, VIEW + 2 * P, 2 * P, 0, 1));
    done(mach_vm_deallocate(submap, VIEW + 4 * P, 2 * P));
    fixed(task, VIEW - P, P);
    done(mach_vm_inherit(task, VIEW - P, P, 2)); // another region than the view
    fixed(task, VIEW, 8 * P);
    hooks::show(task, VIEW, 8 * P, submap);
    fixed(task, BUSY, 4 * P);
    submap
}

/// The scene outside: 8 pages of Linux's, where it puts nothing by itself.
pub(crate) fn scene_outside() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, and parts of it.
    unsafe {
        let p = libc::mmap(OUT as *mut _, 8 * P as usize, rw, flags, -1, 0);
        assert_eq!(p.addr() as u64, OUT);
        assert_eq!(libc::mprotect(p.byte_add(4 * P as usize), 2 * P as usize, libc::PROT_READ), 0);
        assert_eq!(libc::mprotect(p.byte_add(6 * P as usize), 2 * P as usize, libc::PROT_NONE), 0);
    }
}

/// A task of its own with the scene in it, for calls that change things.
pub(crate) fn with_scene<T>(call: impl FnOnce(u32) -> T) -> T {
    let mut task = 0;
    // SAFETY: a good address.
    done(unsafe { task_create(TASK_SELF, std::ptr::null_mut(), 0, 0, &raw mut task) });
    let submap = scene(task);
    let result = call(task);
    for ended in [task, submap] {
        done(task_terminate(ended));
        done(mach_port_deallocate(TASK_SELF, ended));
    }
    result
}

/// A page to write: not every personality writes less.
static ONE: Aligned = Aligned([77; P as usize]);
#[repr(align(4096))]
struct Aligned([u8; P as usize]);

/// Makes a call, with the page `busy` of the task held busy if there is one. Tells whether
/// the call slept for it.
pub(crate) fn meanwhile(task: u32, busy: Option<u64>, call: impl FnOnce() -> i32) -> (i32, bool) {
    let Some(page) = busy else { return (call(), false) };
    // It may be gone by the last call.
    done(mach_vm_write(task, page, ONE.0.as_ptr().expose_provenance(), P as u32));
    hooks::while_busy(task, page, call)
}

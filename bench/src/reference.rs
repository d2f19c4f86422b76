//! REF: what one fault costs with the primitives alone. A SIGBUS handler does one
//! `UFFDIO_CONTINUE` (after clearing the page through a second mapping, for zero-fill)
//! and returns: no map, no object, no page.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicPtr, AtomicU64};

use machvm_hal::{Va, VaRange};
use machvm_linux::uffd::{Mode, Uffd};

use crate::faults::PAGE;

static UFFD: AtomicPtr<Uffd> = AtomicPtr::new(core::ptr::null_mut());
static WINDOW: AtomicU64 = AtomicU64::new(0);
/// Where the same pages are mapped for good; 0: do not clear them.
static CLEAR: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's siginfo; the uffd is leaked; the second mapping has the
    // pages of the first.
    unsafe {
        let at = (*info).si_addr() as u64 & !(PAGE as u64 - 1);
        let Some(uffd) = UFFD.load(Relaxed).as_ref() else { libc::abort() };
        let clear = CLEAR.load(Relaxed);
        if clear != 0 {
            let page = clear + (at - WINDOW.load(Relaxed));
            core::ptr::with_exposed_provenance_mut::<u8>(page as usize).write_bytes(0, PAGE);
        }
        let page = VaRange::page(Va::from_page(at / PAGE as u64));
        if uffd.continue_range(page, false).is_err() {
            libc::abort();
        }
    }
}

/// The window that REF runs on.
pub(crate) struct Reference {
    window: *mut u8,
    clear: *mut u8,
    bytes: usize,
    ours: libc::sigaction,
    others: libc::sigaction,
}

// SAFETY: two mappings that live for ever.
unsafe impl Sync for Reference {}

fn map(bytes: usize, fd: i32, flags: i32) -> *mut u8 {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: not MAP_FIXED.
    let p = unsafe { libc::mmap(core::ptr::null_mut(), bytes, prot, libc::MAP_SHARED | flags, fd, 0) };
    assert_ne!(p, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    p.cast()
}

impl Reference {
    /// `pages` resident pages of a memfd, mapped twice.
    ///
    /// => the library's handler is installed.
    pub(crate) fn new(pages: usize) -> Reference {
        let bytes = pages * PAGE;
        // SAFETY: good arguments; the descriptor stays open for ever.
        let fd = unsafe { libc::memfd_create(c"reference".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: as above.
        assert!(fd >= 0 && unsafe { libc::ftruncate(fd, bytes as i64) } == 0);
        let (window, clear) = (map(bytes, fd, 0), map(bytes, fd, libc::MAP_POPULATE));
        let uffd = Uffd::open(Mode::Signal, true).expect("a userfaultfd");
        let range = VaRange::of_pages(Va::from_page(window as u64 / PAGE as u64), pages as u64);
        uffd.register(range.expect("a range")).expect("registered");
        UFFD.store(Box::leak(Box::new(uffd)), Relaxed);
        WINDOW.store(window.expose_provenance() as u64, Relaxed);
        clear.expose_provenance();
        let mut ours: libc::sigaction = {
            // SAFETY: all zeroes is an action.
            unsafe { core::mem::zeroed() }
        };
        ours.sa_sigaction = on_sigbus as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        let mut others = ours;
        // SAFETY: asks only.
        unsafe { libc::sigaction(libc::SIGBUS, core::ptr::null(), &raw mut others) };
        Reference { window, clear, bytes, ours, others }
    }

    /// Unmaps every page (they stay resident), then runs `body` on the window with
    /// REF's handler.
    pub(crate) fn with(&self, zero: bool, body: impl FnOnce(*mut u8) -> f64) -> f64 {
        CLEAR.store(if zero { self.clear as u64 } else { 0 }, Relaxed);
        // SAFETY: our mapping of a memfd; good actions.
        unsafe {
            libc::madvise(self.window.cast(), self.bytes, libc::MADV_DONTNEED);
            libc::sigaction(libc::SIGBUS, &raw const self.ours, core::ptr::null_mut());
        }
        let result = body(self.window);
        // SAFETY: the library's handler comes back.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const self.others, core::ptr::null_mut()) };
        result
    }
}

//! The C library's own functions, looked up at their first use.

use std::ffi::CStr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// A function of the C library, by name.
pub(super) struct Real {
    name: &'static CStr,
    at: AtomicUsize,
}

impl Real {
    pub(super) const fn new(name: &'static CStr) -> Self {
        Real { name, at: AtomicUsize::new(0) }
    }

    /// Its address. May be called before anything of this library was initialised.
    pub(super) fn get(&self) -> usize {
        match self.at.load(Relaxed) {
            0 => self.find(),
            at => at,
        }
    }

    #[cold]
    fn find(&self) -> usize {
        // SAFETY: a C string.
        let at = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) }.addr();
        if at == 0 {
            let say = |text: &[u8]| {
                // SAFETY: valid for its length. Not `write`, which may be what is missing.
                unsafe { libc::syscall(libc::SYS_write, 2, text.as_ptr(), text.len()) };
            };
            say(b"libmachvm: the C library has no ");
            say(self.name.to_bytes());
            say(b" that the dynamic linker knows (a fully static program?)\n");
            std::process::abort();
        }
        self.at.store(at, Relaxed);
        at
    }
}

/// Calls the C library's function of this name: `real!(name(argument: type, ...) -> type)`.
///
/// => in an `unsafe` block: the function has this signature, and its conditions hold.
macro_rules! real {
    ($name:ident($($arg:expr => $type:ty),* $(,)?) -> $result:ty) => {{
        const NAME: &core::ffi::CStr =
            match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!("a name"),
            };
        static REAL: $crate::wrap::real::Real = $crate::wrap::real::Real::new(NAME);
        let f = core::mem::transmute::<usize, unsafe extern "C-unwind" fn($($type),*) -> $result>(REAL.get());
        f($($arg),*)
    }};
}
pub(super) use real;

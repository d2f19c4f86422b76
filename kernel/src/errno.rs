//! Linux's error numbers.

/// An error of a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub(crate) i32);

/// What a system call gives.
pub(crate) type Result<T = i64> = core::result::Result<T, Errno>;

macro_rules! numbers {
    ($($name:ident = $n:expr,)*) => { $(#[allow(dead_code)] pub(crate) const $name: Errno = Errno($n);)* };
}
numbers! {
    EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, EIO = 5, E2BIG = 7, ENOEXEC = 8, EBADF = 9, ECHILD = 10, EAGAIN = 11,
    ENOMEM = 12, EACCES = 13, EFAULT = 14, EBUSY = 16, EEXIST = 17, EXDEV = 18, ENODEV = 19, ENOTDIR = 20, EISDIR = 21,
    EINVAL = 22, ENFILE = 23, EMFILE = 24, ENOTTY = 25, EFBIG = 27, ENOSPC = 28, ESPIPE = 29, EROFS = 30, EPIPE = 32,
    ERANGE = 34, EDEADLK = 35, ENAMETOOLONG = 36, ENOLCK = 37, ENOSYS = 38, ENOTEMPTY = 39, ELOOP = 40, EIDRM = 43,
    EOVERFLOW = 75, ENOTSOCK = 88, EMSGSIZE = 90, ENOPROTOOPT = 92, EPROTONOSUPPORT = 93, ESOCKTNOSUPPORT = 94,
    EOPNOTSUPP = 95, EAFNOSUPPORT = 97, ECONNRESET = 104, EISCONN = 106, ETIMEDOUT = 110, ENXIO = 6,
    // Never seen by programs: a signal ended the wait, and `signal::deliver` makes of it a restart or EINTR.
    // ERESTARTSYS: again, if the handler says SA_RESTART or there is none (read, write, wait4, ...).
    // ERESTARTNOINTR: again in any case. ERESTARTNOHAND: again only if no handler ran (select, pause, ...).
    // ERESTARTBLOCK: as NOHAND, by restart_syscall (nanosleep, poll: what is left of the time).
    ERESTARTSYS = 512, ERESTARTNOINTR = 513, ERESTARTNOHAND = 514, ERESTARTBLOCK = 516,
}

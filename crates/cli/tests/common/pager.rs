//! The examples of external pagers, as processes.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{NEVER, scratch};

/// A pager's process, killed when dropped.
pub(crate) struct Pager {
    /// The process.
    pub(crate) child: Child,
    /// Where it listens.
    pub(crate) socket: PathBuf,
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pagers/examples").join(name)
}

impl Pager {
    /// The example in C, at a socket of its own.
    pub(crate) fn in_c() -> Pager {
        Pager::in_c_at(&free_socket())
    }
    /// The example in C.
    pub(crate) fn in_c_at(socket: &Path) -> Pager {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| {
            let at = scratch("programs").join("pager");
            let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pagers/include");
            let mut cc = Command::new("cc");
            cc.args(["-O1", "-pthread", "-I"]).arg(headers).arg("-o").arg(&at).arg(example("pager.c"));
            assert!(cc.status().expect("cc").success());
            at
        });
        Pager::start(&mut Command::new(program), socket)
    }
    /// The example in Python, at a socket of its own.
    pub(crate) fn in_python() -> Pager {
        Pager::start(Command::new("/usr/bin/python3").arg(example("pager.py")), &free_socket())
    }
    fn start(command: &mut Command, socket: &Path) -> Pager {
        let _ = std::fs::remove_file(socket);
        let child = command.arg(socket).stdin(Stdio::null()).spawn().expect("the pager starts");
        let pager = Pager { child, socket: socket.to_owned() };
        let end = Instant::now() + NEVER;
        // Of the wrong kind for a packet socket: refused with EPROTOTYPE once somebody listens.
        let listens = || {
            let e = UnixDatagram::unbound().and_then(|d| d.connect(socket)).expect_err("another kind");
            e.raw_os_error() == Some(91)
        };
        while !listens() {
            assert!(Instant::now() < end, "the pager does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        pager
    }
    /// Sends it a signal, such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }
    /// What `--swap` is given for so many MiB there.
    pub(crate) fn place(&self, mib: u64) -> String {
        format!("pager:{}:{mib}M", self.socket.display())
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_socket() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    scratch("pager").join(format!("s{}", NEXT.fetch_add(1, Relaxed)))
}

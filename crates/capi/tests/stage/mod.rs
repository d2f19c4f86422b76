//! The C library as it is installed, for tests that compile against it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory of the build that runs this test.
pub(crate) fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a directory in the target directory")
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/capi is two below")
}

/// The prefix of an installation made by `cargo xtask install`, once a process.
pub(crate) fn prefix() -> &'static Path {
    static STAGE: OnceLock<PathBuf> = OnceLock::new();
    STAGE.get_or_init(|| {
        let stage = target().join("stage");
        let done = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--package", "xtask", "--", "install", "--dev", "--prefix"])
            .arg(&stage)
            .env("CARGO_TARGET_DIR", target())
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(done.status.success(), "cargo xtask install: {}", String::from_utf8_lossy(&done.stderr));
        stage
    })
}

//! Block devices: loop devices on files.

use std::path::Path;
use std::process::Command;

/// A loop device, until it is dropped.
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    /// `None`: this machine allows no loop devices.
    pub(crate) fn new(file: &Path, bytes: u64) -> Option<Loop> {
        std::fs::File::create(file).and_then(|f| f.set_len(bytes)).expect("a file");
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let made = made.ok().filter(|made| made.status.success())?;
        let name = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        // In a container the node may be missing though Linux made the device.
        let made = Loop(name);
        std::fs::File::open(&made.0).is_ok().then_some(made)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

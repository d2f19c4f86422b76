//! Initial file systems: cpio archives in the "new ASCII" format (cpio(5)).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

/// An archive that is being made.
#[derive(Debug, Default)]
pub(super) struct Initrd {
    bytes: Vec<u8>,
    files: u32,
}

impl Initrd {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.files += 1;
        // Number, mode, owner, group, links, time, size, device (2), the device that it is (2), length of the name, sum.
        let fields = [self.files, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for f in fields {
            self.bytes.extend_from_slice(format!("{f:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
    /// Adds an empty directory.
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, &[]);
    }
    /// Adds a file of the host's, with its rights.
    pub(super) fn file(&mut self, name: &str, from: &Path) -> Result<(), String> {
        let read = |e| format!("{}: {e}", from.display());
        let data = fs::read(from).map_err(read)?;
        let rights = fs::metadata(from).map_err(read)?.permissions().mode() & 0o7777;
        self.entry(name, REGULAR | rights, &data);
        Ok(())
    }
    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_padding_are_those_of_cpio_5() {
        let mut i = Initrd::default();
        i.directory("bin");
        let bytes = i.finish();
        // 110 bytes of header, "bin\0": 114, padded to 116.
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000041ed");
        assert_eq!(&bytes[110..116], b"bin\0\0\0");
        assert_eq!(&bytes[116..122], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }
}

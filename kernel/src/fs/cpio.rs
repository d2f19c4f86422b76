//! The "newc" format of initial file systems.

/// Bytes of a header.
const HEADER: usize = 110;

/// An entry.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) number: usize,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: usize,
    pub(super) mtime: u32,
    /// Of a device file.
    pub(super) device: (u32, u32),
    pub(super) data: &'static [u8],
}

/// Calls `f` with each entry.
pub(super) fn each(bytes: &'static [u8], mut f: impl FnMut(&Entry<'_>)) {
    let mut rest = bytes;
    loop {
        // Archives follow one another, with zeroes in between.
        let skip = rest.iter().position(|b| *b != 0).unwrap_or(rest.len()) & !3;
        rest = &rest[skip..];
        let Some(h) = rest.get(..HEADER).filter(|h| h.starts_with(b"07070")) else { return };
        let field = |i: usize| {
            let text = core::str::from_utf8(&h[6 + 8 * i..14 + 8 * i]).unwrap_or("0");
            usize::from_str_radix(text, 16).unwrap_or(0)
        };
        let (size, name_size) = (field(6), field(11));
        let data_at = (HEADER + name_size).next_multiple_of(4);
        let next = data_at.saturating_add(size).next_multiple_of(4);
        let (Some(name), Some(data)) =
            (rest.get(HEADER..HEADER + name_size), rest.get(data_at..data_at.saturating_add(size)))
        else {
            crate::say!("machvm: the initial file system ends in the middle of an entry");
            return;
        };
        let name = core::str::from_utf8(name).unwrap_or("").trim_end_matches('\0');
        if name != "TRAILER!!!" && !name.is_empty() {
            f(&Entry {
                name,
                number: field(0),
                mode: field(1) as u32,
                uid: field(2) as u32,
                gid: field(3) as u32,
                links: field(4),
                mtime: field(5) as u32,
                device: (field(9) as u32, field(10) as u32),
                data,
            });
        }
        rest = rest.get(next..).unwrap_or(&[]);
    }
}

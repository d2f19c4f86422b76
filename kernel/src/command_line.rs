//! The kernel's command line: words for the kernel, `--`, the first program and its arguments.
//!
//! Words are separated by white space. Between double quotes white space is part of a word, `\"` and `\\` are a quote and
//! a backslash, `\n` and `\t` a line's end and a tab; elsewhere a backslash is itself. As under Linux `NAME=VALUE` in
//! front of `--` is for the program's environment, unless the kernel knows the name.

use alloc::vec::Vec;

/// Settings of this kernel's own.
const OWN: [&[u8]; 2] = [b"swap=", b"panic="];
/// The environment where nothing else is said.
const ENVIRONMENT: [&[u8]; 4] =
    [b"PATH=/bin:/usr/bin:/sbin:/usr/sbin:/", b"HOME=/", b"TERM=dumb", b"USER=root"];

/// What the first program is started with.
pub(crate) struct First {
    /// Its path and its arguments.
    pub(crate) argv: Vec<Vec<u8>>,
    /// Its environment.
    pub(crate) envp: Vec<Vec<u8>>,
}

fn words(line: &str) -> Vec<Vec<u8>> {
    let (mut all, mut word, mut quoted) = (Vec::new(), None::<Vec<u8>>, false);
    let mut bytes = line.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            b'\\' if quoted => word.get_or_insert_default().push(match bytes.next() {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(other) => other,
                None => b,
            }),
            _ if b.is_ascii_whitespace() && !quoted => all.extend(word.take()),
            _ => word.get_or_insert_default().push(b),
        }
    }
    all.extend(word);
    all
}

/// Takes the line apart. Without `--` all of it is the program's.
pub(crate) fn first(line: &str) -> First {
    let mut all = words(line);
    let mut argv = match all.iter().position(|w| w == b"--") {
        Some(at) => {
            let argv = all.split_off(at + 1);
            all.truncate(at);
            argv
        }
        None => core::mem::take(&mut all),
    };
    if argv.is_empty() {
        argv.push(b"/init".to_vec());
    }
    let mut envp: Vec<Vec<u8>> = ENVIRONMENT.iter().map(|e| e.to_vec()).collect();
    for word in all.into_iter().filter(|w| !OWN.iter().any(|o| w.starts_with(o))) {
        let Some(name) = word.iter().position(|b| *b == b'=').filter(|n| *n != 0) else { continue };
        envp.retain(|e| !e.starts_with(&word[..=name]));
        envp.push(word);
    }
    First { argv, envp }
}

//! Codes as text.

use std::fmt::Write as _;

use machvm_capi::kr::{
    KERN_NOT_FOUND, MACH_SEND_INVALID_DEST, MACH_SEND_INVALID_MEMORY, MACH_SEND_INVALID_RIGHT,
};
use machvm_capi::ports::TASK_SELF;

use super::scene::{P, PLACES, meanwhile, with_scene};

pub(crate) const SIZES: [u64; 11] =
    [0, 1, P - 1, P, 2 * P, 3 * P, 8 * P, 1 << 47, 1 << 63, !(P - 1), u64::MAX];

fn name((code, slept): (i32, bool)) -> String {
    let code = match code {
        MACH_SEND_INVALID_DEST => "dest".into(),
        MACH_SEND_INVALID_MEMORY => "memory".into(),
        MACH_SEND_INVALID_RIGHT => "right".into(),
        c => {
            assert!((0..=KERN_NOT_FOUND).contains(&c), "{c:#x} is no code of these calls");
            c.to_string()
        }
    };
    if slept { code + "w" } else { code }
}

pub(crate) struct Golden(pub(crate) String);

impl Golden {
    pub(crate) fn row(&mut self, what: &str, codes: impl IntoIterator<Item = (i32, bool)>) {
        let codes: Vec<String> = codes.into_iter().map(name).collect();
        writeln!(self.0, "{what:<32} {}", codes.join(" ")).unwrap();
    }
    /// A row for each place, a code for each size, of a call that leaves this process's own
    /// task as it is.
    pub(crate) fn ranges(&mut self, what: &str, mut call: impl FnMut(u64, u64) -> i32) {
        writeln!(self.0).unwrap();
        for p in PLACES {
            let codes: Vec<_> =
                SIZES.iter().map(|n| meanwhile(TASK_SELF, p.busy, || call(p.at, *n))).collect();
            self.row(&format!("{what} {}", p.name), codes);
        }
    }
    /// As [`Golden::ranges`], each call on a task of its own.
    pub(crate) fn changes(&mut self, what: &str, mut call: impl FnMut(u32, u64, u64) -> i32) {
        writeln!(self.0).unwrap();
        for p in PLACES {
            let codes: Vec<_> =
                SIZES.iter().map(|n| with_scene(|t| meanwhile(t, p.busy, || call(t, p.at, *n)))).collect();
            self.row(&format!("{what} {}", p.name), codes);
        }
    }
    /// A row for each place, a code for each value; as [`Golden::ranges`].
    pub(crate) fn values(&mut self, what: &str, values: &[i32], mut call: impl FnMut(u64, i32) -> i32) {
        writeln!(self.0, "\n{what}: for {values:?}").unwrap();
        for p in PLACES {
            let codes: Vec<_> =
                values.iter().map(|v| meanwhile(TASK_SELF, p.busy, || call(p.at, *v))).collect();
            self.row(&format!("{what} {}", p.name), codes);
        }
    }
    /// As [`Golden::values`], each call on a task of its own.
    pub(crate) fn change_values(
        &mut self,
        what: &str,
        values: &[i32],
        mut call: impl FnMut(u32, u64, i32) -> i32,
    ) {
        writeln!(self.0, "\n{what}: for {values:?}").unwrap();
        for p in PLACES {
            let codes: Vec<_> =
                values.iter().map(|v| with_scene(|t| meanwhile(t, p.busy, || call(t, p.at, *v)))).collect();
            self.row(&format!("{what} {}", p.name), codes);
        }
    }
}

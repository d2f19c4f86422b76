//! The header and the summary: lines KEY=VALUE.

use std::fmt::Write;

macro_rules! lines {
    ($(#[$about:meta])* $name:ident: $($(#[$doc:meta])* $field:ident,)*) => {
        $(#[$about])*
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)*
            /// Keys and values that are text, or that this version does not know.
            pub words: Vec<(String, String)>,
        }

        impl $name {
            /// As it is in a trace.
            #[must_use]
            pub fn to_text(&self) -> String {
                let mut text = String::new();
                $(let _ = writeln!(text, "{}={}", stringify!($field), self.$field);)*
                for (key, value) in &self.words {
                    let _ = writeln!(text, "{key}={}", value.replace(['\n', '\r'], " "));
                }
                text
            }

            /// From what is in a trace. `None`: a line is none.
            pub(crate) fn of_text(text: &str) -> Option<Self> {
                let mut all = Self::default();
                for line in text.lines() {
                    let (key, value) = line.split_once('=')?;
                    match key {
                        $(stringify!($field) => all.$field = value.parse().ok()?,)*
                        _ => all.words.push((key.to_string(), value.to_string())),
                    }
                }
                Some(all)
            }

            /// The value of a key that is text; empty if there is none.
            #[must_use]
            pub fn word(&self, key: &str) -> &str {
                self.words.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
            }
        }
    };
}

lines! {
    /// What was recorded, and how. Words: `program` (the command line), `policy`.
    Header:
    /// Bytes of a page.
    page_size,
    /// Pages that could be in memory; 0: as many as there were.
    frames,
    /// Times in 1000 seconds that each page was unmapped to see whether it is used.
    sample,
}

lines! {
    /// What the run counted.
    Summary:
    /// Pages read from backing store.
    page_ins,
    /// Pages filled with zero.
    zero_fill,
    /// Pages written to backing store.
    page_outs,
    /// Page faults.
    faults,
    /// Pages unmapped to see whether they are used.
    sampled,
    /// How long it took, in milliseconds.
    ms,
}

//! Bytes as calls of the C library against a flat model, for libFuzzer.
//!
//! The player is the one of `crates/capi/tests/fuzz.rs`: what is found here is replayed there
//! with `MACHVM_FUZZ_INPUT`.
#![no_main]

#[path = "../../crates/capi/tests/fuzz/model.rs"]
mod model;
#[path = "../../crates/capi/tests/fuzz/play.rs"]
mod play;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Err(why) = play::play(input) {
        panic!("{why}");
    }
});

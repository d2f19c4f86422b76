//! Random calls of the C interface against a flat model.
//!
//! Bytes are calls (`fuzz/play.rs`), so that an input found anywhere can be played again: a
//! seed makes bytes, a failure is made smaller by leaving bytes out, and what is printed goes
//! into `MACHVM_FUZZ_INPUT` in hexadecimal. `MACHVM_SEED` replays a seed; the long form
//! (`MACHVM_LONG`, `cargo xtask long`) has more of them.

#[path = "fuzz/model.rs"]
mod model;
#[path = "fuzz/play.rs"]
mod play;

use std::process::Command;

/// splitmix64.
fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..n.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect()
}

/// The input with whatever can be left out left out.
fn smaller(mut input: Vec<u8>) -> Vec<u8> {
    let mut piece = input.len() / 2;
    while piece >= 1 {
        let mut at = 0;
        while at < input.len() {
            let mut less = input.clone();
            less.drain(at..(at + piece).min(input.len()));
            if play::play(&less).is_err() { input = less } else { at += piece }
        }
        piece /= 2;
    }
    input
}

fn hex(input: &[u8]) -> String {
    input.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
#[ignore = "needs an environment: run by random_calls"]
fn play_many() {
    if let Ok(text) = std::env::var("MACHVM_FUZZ_INPUT") {
        let digits: Vec<u8> =
            text.bytes().filter_map(|b| char::from(b).to_digit(16)).map(|d| d as u8).collect();
        let input: Vec<u8> = digits.chunks_exact(2).map(|p| p[0] << 4 | p[1]).collect();
        return play::play(&input).unwrap_or_else(|why| panic!("{why}"));
    }
    let seed: u64 = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let rounds: u64 = std::env::var("MACHVM_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    for seed in seed..seed + rounds {
        let input = bytes(seed, 1 << 12);
        if let Err(why) = play::play(&input) {
            let small = smaller(input);
            let again = play::play(&small).err().unwrap_or_default();
            panic!("seed {seed}: {why}\nsmaller: {again}\nMACHVM_FUZZ_INPUT={}", hex(&small));
        }
    }
}

fn elsewhere(memory: Option<&str>, seed: u64, rounds: u64) {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args(["--exact", "play_many", "--ignored", "--nocapture", "--test-threads=1"]);
    c.env("MACHVM_SEED", seed.to_string()).env("MACHVM_ROUNDS", rounds.to_string());
    if let Some(memory) = memory {
        c.env("MACHVM_MEMORY", memory);
    }
    let out = c.output().unwrap();
    let (said, ill) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(
        out.status.success() && said.contains("1 passed"),
        "memory {memory:?}, seeds from {seed}: {:?}\n{said}{ill}",
        out.status
    );
}

#[test]
fn random_calls() {
    let rounds = if std::env::var_os("MACHVM_LONG").is_some() { 4000 } else { 60 };
    let seed = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20);
    println!("seeds from {seed}");
    elsewhere(None, seed, rounds);
    // Less than what the tasks have: pages come and go meanwhile.
    elsewhere(Some("320K"), seed + rounds, rounds);
}

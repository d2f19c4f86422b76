//! Random bytes: ChaCha20 whose key is replaced by its own output after each request, seeded by the CPU's generator
//! where there is one and by the jitter of its clock.

use crate::arch;
use crate::mutex::Mutex;

struct Generator {
    key: [u32; 8],
    seeded: bool,
    served: u64,
}

static GENERATOR: Mutex<Generator> = Mutex::new(Generator { key: [0; 8], seeded: false, served: 0 });
/// Fresh entropy is mixed in after this many requests.
const RESEED: u64 = 1024;

fn quarter(s: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (x, y, z, by) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
        s[x] = s[x].wrapping_add(s[y]);
        s[z] = (s[z] ^ s[x]).rotate_left(by);
    }
}

/// A block of ChaCha20 with a nonce of zero.
fn block(key: &[u32; 8], counter: u64) -> [u8; 64] {
    let mut first = [0; 16];
    first[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    first[4..12].copy_from_slice(key);
    first[12] = counter as u32;
    first[13] = (counter >> 32) as u32;
    let mut s = first;
    for _ in 0..10 {
        for i in 0..4 {
            quarter(&mut s, i, 4 + i, 8 + i, 12 + i);
        }
        for i in 0..4 {
            quarter(&mut s, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
        }
    }
    let mut out = [0; 64];
    for (to, (a, b)) in out.chunks_exact_mut(4).zip(s.iter().zip(first)) {
        to.copy_from_slice(&a.wrapping_add(b).to_le_bytes());
    }
    out
}

impl Generator {
    /// The key becomes the first half of what it and fresh entropy make.
    fn stir(&mut self) {
        for word in &mut self.key {
            *word ^= arch::entropy();
        }
        let out = block(&self.key, u64::MAX);
        self.take_key(&out);
        self.seeded = true;
    }
    fn take_key(&mut self, from: &[u8; 64]) {
        for (k, b) in self.key.iter_mut().zip(from.chunks_exact(4)) {
            *k = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }
    }
}

/// Fills `buf`.
pub(crate) fn fill(buf: &mut [u8]) {
    let mut g = GENERATOR.lock();
    if !g.seeded || g.served >= RESEED {
        g.stir();
        g.served = 0;
    }
    g.served += 1;
    for (i, chunk) in buf.chunks_mut(64).enumerate() {
        chunk.copy_from_slice(&block(&g.key, i as u64 + 1)[..chunk.len()]);
    }
    // What was given out cannot be computed from what is kept.
    let next = block(&g.key, 0);
    g.take_key(&next);
}

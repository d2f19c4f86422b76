//! The first page of a program's life: strings, environment, auxiliary vector.

use super::creds::Creds;
use super::elf::PAGE;
use super::error::LoadError;
use super::inherited::auxiliary_value;

/// Linux's limit on one string.
const MAX_STRING: usize = 32 * PAGE as usize;
/// Arguments may always have this much, whatever the stack limit.
const ARG_MAX: u64 = 128 << 10;
/// And never more: three quarters of the default stack.
const ARG_CEILING: u64 = 6 << 20;
const PLATFORM: &[u8] = b"x86_64\0";

const AT_MINSIGSTKSZ: u64 = 51;
const AT_RSEQ_FEATURE_SIZE: u64 = 27;
const AT_RSEQ_ALIGN: u64 = 28;
const AT_HWCAP3: u64 = 29;
const AT_HWCAP4: u64 = 30;

/// What the auxiliary vector says about where the loader put things.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// `AT_PHDR`.
    pub phdr: u64,
    /// `AT_PHNUM`.
    pub phnum: u64,
    /// `AT_BASE`.
    pub base: u64,
    /// `AT_ENTRY`.
    pub entry: u64,
}

/// Arguments and environment that are known to fit.
#[derive(Debug)]
pub struct StackPlan {
    argv: Vec<Vec<u8>>,
    envp: Vec<Vec<u8>>,
    execfn: Vec<u8>,
}

/// The bytes from `sp` to the top of the stack, and where the parts are.
#[derive(Debug)]
pub struct StackImage {
    /// The stack pointer at entry.
    pub sp: u64,
    /// What lies there.
    pub bytes: Vec<u8>,
    /// The argument strings.
    pub args: (u64, u64),
    /// The environment strings.
    pub env: (u64, u64),
    /// The auxiliary vector, in words.
    pub auxv: Vec<u64>,
}

impl StackPlan {
    /// Takes what `execve` was given.
    ///
    /// # Errors
    /// [`LoadError::TooLong`] by Linux's rule: a quarter of the stack limit, at least
    /// 128 KiB, at most 6 MiB, pointers included; 128 KiB for one string.
    pub fn new(
        argv: Vec<Vec<u8>>,
        envp: Vec<Vec<u8>>,
        execfn: Vec<u8>,
        stack_limit: u64,
    ) -> Result<StackPlan, LoadError> {
        let limit = ARG_CEILING.min(stack_limit / 4).max(ARG_MAX);
        let mut used = (argv.len() as u64 + envp.len() as u64) * 8 + execfn.len() as u64 + 1;
        for string in argv.iter().chain(&envp) {
            if string.len() >= MAX_STRING {
                return Err(LoadError::TooLong);
            }
            used += string.len() as u64 + 1;
        }
        if used > limit {
            return Err(LoadError::TooLong);
        }
        Ok(StackPlan { argv, envp, execfn })
    }

    /// Lays everything out below `top`, in Linux's order: file name, environment,
    /// arguments, platform, random bytes, then the vectors.
    #[must_use]
    pub fn build(&self, top: u64, addresses: &Addresses, creds: &Creds) -> StackImage {
        let mut below = Downward { at: top, chunks: Vec::new() };
        below.push(&[0; 8]);
        let execfn = below.push_string(&self.execfn);
        let env_end = execfn;
        let envp: Vec<u64> = below.push_strings(&self.envp);
        let arg_end = below.at;
        let argv: Vec<u64> = below.push_strings(&self.argv);
        let arg_start = below.at;
        below.at &= !15;
        let platform = below.push(PLATFORM);
        let random = below.push(&random_bytes());

        let auxv = auxiliary_vector(addresses, creds, execfn, platform, random);
        let mut words = vec![self.argv.len() as u64];
        words.extend(argv);
        words.push(0);
        words.extend(envp);
        words.push(0);
        words.extend(&auxv);
        let sp = (below.at - words.len() as u64 * 8) & !15;

        let mut bytes = vec![0; (top - sp) as usize];
        for (addr, chunk) in &below.chunks {
            let at = (addr - sp) as usize;
            bytes[at..at + chunk.len()].copy_from_slice(chunk);
        }
        for (slot, word) in bytes.chunks_exact_mut(8).zip(&words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        StackImage { sp, bytes, args: (arg_start, arg_end), env: (arg_end, env_end), auxv }
    }
}

/// Collects chunks at falling addresses.
struct Downward {
    at: u64,
    chunks: Vec<(u64, Vec<u8>)>,
}

impl Downward {
    fn push(&mut self, bytes: &[u8]) -> u64 {
        self.at -= bytes.len() as u64;
        self.chunks.push((self.at, bytes.to_vec()));
        self.at
    }

    fn push_string(&mut self, string: &[u8]) -> u64 {
        let mut bytes = string.to_vec();
        bytes.push(0);
        self.push(&bytes)
    }

    /// The first string gets the lowest address: `/proc/PID/cmdline` reads them in
    /// that order.
    fn push_strings(&mut self, strings: &[Vec<u8>]) -> Vec<u64> {
        let mut addresses: Vec<u64> = strings.iter().rev().map(|string| self.push_string(string)).collect();
        addresses.reverse();
        addresses
    }
}

fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: the buffer is 16 bytes long; 16 bytes never come short.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    bytes
}

/// The vector in Linux's order; what describes the machine is our own process's.
fn auxiliary_vector(
    addresses: &Addresses,
    creds: &Creds,
    execfn: u64,
    platform: u64,
    random: u64,
) -> Vec<u64> {
    let mut vector = Vec::new();
    let mut add = |key: u64, value: u64| vector.extend([key, value]);
    let inherited = |key: u64, add: &mut dyn FnMut(u64, u64)| {
        if let Some(value) = auxiliary_value(key) {
            add(key, value);
        }
    };
    inherited(libc::AT_SYSINFO_EHDR, &mut add);
    inherited(AT_MINSIGSTKSZ, &mut add);
    inherited(libc::AT_HWCAP, &mut add);
    add(libc::AT_PAGESZ, PAGE);
    inherited(libc::AT_CLKTCK, &mut add);
    add(libc::AT_PHDR, addresses.phdr);
    add(libc::AT_PHENT, 56);
    add(libc::AT_PHNUM, addresses.phnum);
    add(libc::AT_BASE, addresses.base);
    add(libc::AT_FLAGS, 0);
    add(libc::AT_ENTRY, addresses.entry);
    add(libc::AT_UID, creds.uid.into());
    add(libc::AT_EUID, creds.euid.into());
    add(libc::AT_GID, creds.gid.into());
    add(libc::AT_EGID, creds.egid.into());
    add(libc::AT_SECURE, 0);
    add(libc::AT_RANDOM, random);
    inherited(libc::AT_HWCAP2, &mut add);
    inherited(AT_HWCAP3, &mut add);
    inherited(AT_HWCAP4, &mut add);
    add(libc::AT_EXECFN, execfn);
    add(libc::AT_PLATFORM, platform);
    inherited(AT_RSEQ_FEATURE_SIZE, &mut add);
    inherited(AT_RSEQ_ALIGN, &mut add);
    add(libc::AT_NULL, 0);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    const NOWHERE: Addresses = Addresses { phdr: 0x40, phnum: 3, base: 0x7000, entry: 0x1234 };

    fn word(image: &StackImage, at: u64) -> u64 {
        let at = (at - image.sp) as usize;
        u64::from_le_bytes(image.bytes[at..at + 8].try_into().unwrap())
    }

    fn text(image: &StackImage, at: u64) -> String {
        let bytes = &image.bytes[(at - image.sp) as usize..];
        String::from_utf8(bytes.iter().copied().take_while(|&byte| byte != 0).collect()).unwrap()
    }

    #[test]
    fn a_program_finds_its_arguments_environment_and_vector() {
        let plan =
            StackPlan::new(strings(&["a", "bc"]), strings(&["K=v"]), b"/bin/a".to_vec(), 8 << 20).unwrap();
        let creds = Creds::of_thread(crate::run::vmthread::gettid()).unwrap();
        let image = plan.build(0x7000_0000, &NOWHERE, &creds);
        assert_eq!(image.sp % 16, 0);
        assert_eq!(image.sp + image.bytes.len() as u64, 0x7000_0000);
        assert_eq!(word(&image, image.sp), 2);
        assert_eq!(text(&image, word(&image, image.sp + 8)), "a");
        assert_eq!(text(&image, word(&image, image.sp + 16)), "bc");
        assert_eq!(word(&image, image.sp + 24), 0);
        assert_eq!(text(&image, word(&image, image.sp + 32)), "K=v");
        assert_eq!(word(&image, image.sp + 40), 0);
        let find = |key: u64| {
            (0..)
                .map(|i| image.sp + 48 + 16 * i)
                .find(|&at| word(&image, at) == key)
                .map(|at| word(&image, at + 8))
        };
        assert_eq!(find(libc::AT_ENTRY), Some(0x1234));
        assert_eq!(text(&image, find(libc::AT_EXECFN).unwrap()), "/bin/a");
        assert_eq!(text(&image, find(libc::AT_PLATFORM).unwrap()), "x86_64");
        assert_eq!(text(&image, image.args.0), "a");
        assert_eq!(image.args.1, image.env.0);
        assert_eq!(image.env.1 - image.env.0, 4);
    }

    #[test]
    fn arguments_are_limited_as_on_linux() {
        let fits = |argv: Vec<Vec<u8>>, limit| StackPlan::new(argv, vec![], b"x".to_vec(), limit).is_ok();
        assert!(fits(vec![vec![b'x'; MAX_STRING - 1]], 8 << 20));
        assert!(!fits(vec![vec![b'x'; MAX_STRING]], 8 << 20));
        assert!(fits(vec![vec![b'x'; 99]; 1000], 0));
        assert!(!fits(vec![vec![b'x'; 99]; 1300], 0));
        assert!(fits(vec![vec![b'x'; 99]; 19000], 8 << 20));
        assert!(!fits(vec![vec![b'x'; 99]; 20000], 8 << 20));
        assert!(fits(vec![vec![b'x'; 99]; 55000], u64::MAX));
        assert!(!fits(vec![vec![b'x'; 99]; 60000], u64::MAX));
    }
}

//! `pmap(9)` on Linux: the conformance suite, and what only a real machine shows. Every
//! access is an instruction of this process; a fault that the kernel reports ends it.

#[cfg(target_arch = "x86_64")]
#[path = "pmap9/access.rs"]
mod access;
#[cfg(target_arch = "x86_64")]
#[path = "pmap9/fixture.rs"]
mod fixture;
#[cfg(target_arch = "x86_64")]
#[path = "pmap9/races.rs"]
mod races;
#[cfg(target_arch = "x86_64")]
#[path = "pmap9/rows.rs"]
mod rows;

#[cfg(target_arch = "x86_64")]
mod conformance {
    use super::fixture::LinuxFixture;

    /// They are all the same.
    fn machine(_: u64) -> LinuxFixture {
        LinuxFixture::new()
    }
    machvm_model::pmap9_conformance!(1, machine);
}

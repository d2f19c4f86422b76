//! The linker script of the target.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    println!("cargo:rerun-if-changed=link/{arch}.ld");
    if os == "none" {
        for arg in [&format!("-T{dir}/link/{arch}.ld"), "--no-pie", "-zmax-page-size=4096", "--build-id=none"]
        {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
}

//! How the programs are linked.
#![allow(clippy::disallowed_methods)] // this is how cargo tells a build script its target

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_CFG_TARGET_OS");
    let target = |part: &str| std::env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        // The addresses that are set when a program starts are listed in 30 kB instead of 1.6 MB, all of which is read
        // then and counts as its memory. A linker that does not know this says so and goes on.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

//! Lets programs and tests find libtorch wherever cargo puts them: with `CARGO_TARGET_DIR`, and in a workspace.

use std::env;
use std::path::PathBuf;

fn main() {
    let libtorch = PathBuf::from(env::var_os("LIBTORCH").unwrap_or_default());
    let library = libtorch.join("lib");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", library.display());
    if !library.join("libtorch_cpu.so").exists() {
        let place = libtorch.display();
        println!("cargo::error=libtorch is not in {place}: run `runpod-worker libtorch`");
    }
}

//! With feature `torch`, compiles the C++ shim against the libtorch that `torch-sys` links.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "torch")]
    shim::compile()?;
    Ok(())
}

#[cfg(feature = "torch")]
mod shim {
    use std::path::PathBuf;

    const SOURCE: &str = "shim/accelerator.cpp";

    pub(crate) fn compile() -> Result<(), Box<dyn std::error::Error>> {
        println!("cargo:rerun-if-changed={SOURCE}");
        println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
        println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
        // torch-sys sets this to the directory of libtorch, except when it builds only documentation and links nothing.
        let Some(library) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else { return Ok(()) };
        let root = match std::env::var_os("LIBTORCH_INCLUDE") {
            Some(root) => PathBuf::from(root),
            None => library.parent().ok_or("the folder of libtorch has no parent")?.to_owned(),
        };
        let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            // A relative path is relative to the root of the workspace, as in the build script of torch-sys.
            .include(root.join("include"))
            .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
            .warnings(false)
            .file(SOURCE)
            .try_compile("runpod_torch_shim")?;
        Ok(())
    }
}

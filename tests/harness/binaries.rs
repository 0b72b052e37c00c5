//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The root of the repository.
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map_or_else(|| tests.to_owned(), Path::to_owned)
}

/// A program of this workspace, freshly built. All of them are built together, as a release would, so that a dependency
/// which one of them drags into another shows up here too.
///
/// # Panics
/// When the build fails or there is no such program.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = run_tool(&cargo.to_string_lossy(), &["build", "--workspace", "--bins", "--locked", "--quiet"]);
        if !build.status.success() {
            return Err(format!("cargo build failed: {}", String::from_utf8_lossy(&build.stderr)));
        }
        // target/debug/deps/<test> → target/debug
        let test = std::env::current_exe().unwrap_or_default();
        Ok(test.ancestors().nth(2).map(Path::to_owned).unwrap_or_default())
    });
    let folder = built.as_ref().unwrap_or_else(|error| panic!("{error}"));
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

/// Runs a tool at the root of the repository and waits for it.
///
/// # Panics
/// When the tool cannot be started.
pub fn run_tool(program: &str, args: &[&str]) -> Output {
    run_tool_in(&repository(), program, args)
}

/// Runs a tool in a folder and waits for it.
///
/// # Panics
/// When the tool cannot be started.
#[expect(clippy::disallowed_methods, reason = "the harness starts the programs under test")]
pub fn run_tool_in(folder: &Path, program: &str, args: &[&str]) -> Output {
    match Command::new(program).args(args).current_dir(folder).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot start {program}: {error}"),
    }
}

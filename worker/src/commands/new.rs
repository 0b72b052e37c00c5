//! `runpod-worker new`: writes a new handler crate.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{complain, print};
use crate::cli::NewArgs;
use crate::config::EXIT_CONFIG;

/// One file of a new crate. Placeholders such as `{{name}}` are replaced by [`values`].
struct Template {
    path: &'static str,
    text: &'static str,
    executable: bool,
}

/// Declares the files of a new crate: where each goes, and where its template lies.
macro_rules! templates {
    ($($path:literal = $file:literal $($executable:ident)?),* $(,)?) => {
        &[$(Template {
            path: $path,
            text: include_str!(concat!("../../templates/", $file)),
            executable: templates!(@ $($executable)?),
        }),*]
    };
    (@ executable) => { true };
    (@) => { false };
}

// Not named Cargo.toml: cargo leaves out of a package what looks like another package.
const PLAIN: &[Template] = templates! {
    ".dockerignore" = "common/dockerignore",
    ".gitignore" = "common/gitignore",
    "Cargo.toml" = "plain/Cargo.toml.template",
    "Dockerfile" = "plain/Dockerfile",
    "README.md" = "plain/README.md",
    "src/handler.rs" = "plain/handler.rs",
    "src/main.rs" = "common/main.rs",
    "test_input.json" = "plain/test_input.json",
};

const TORCH: &[Template] = templates! {
    ".cargo/config.toml" = "torch/cargo-config.toml",
    ".dockerignore" = "common/dockerignore",
    ".gitignore" = "common/gitignore",
    "Cargo.toml" = "torch/Cargo.toml.template",
    "Dockerfile" = "torch/Dockerfile",
    "README.md" = "torch/README.md",
    "docker/install-libtorch.sh" = "torch/install-libtorch.sh" executable,
    "src/handler.rs" = "torch/handler.rs",
    "src/main.rs" = "common/main.rs",
    "test_input.json" = "torch/test_input.json",
    "weights/README.md" = "torch/weights.md",
};

/// Cargo refuses these as the name of a program, or they would hide a crate that the handler uses.
const RESERVED: [&str; 8] = ["build", "core", "deps", "examples", "incremental", "proc_macro", "std", "test"];

/// Why the crate cannot be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewError {
    /// The folder's name cannot be the name of a crate.
    #[error(
        "{0:?} cannot be the name of a crate: use lower-case letters, digits, - and _, a letter first, and no name that \
         cargo reserves"
    )]
    Name(String),
    /// The folder exists and is not empty.
    #[error("{} exists and is not empty: name a folder that does not exist yet", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {}: {error}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
}

/// Writes the crate and prints the next steps.
pub(super) fn new_command(args: &NewArgs) -> ExitCode {
    let name = match create(&args.path, args.torch) {
        Ok(name) => name,
        Err(error) => return complain(EXIT_CONFIG, &error.to_string()),
    };
    let libtorch = if args.torch { "    docker/install-libtorch.sh\n" } else { "" };
    print(&format!(
        "{path} is a handler crate. Try it:\n\n    cd {path}\n{libtorch}    cargo test && cargo build\n    \
         runpod-worker test -- target/debug/{name}      one job, from test_input.json\n    \
         runpod-endpoint dev -- target/debug/{name}     a local RunPod API\n\nThe model goes into src/handler.rs.",
        path = args.path.display(),
    ))
}

/// Writes all files and overwrites none. Returns the name of the crate.
fn create(folder: &Path, torch: bool) -> Result<String, NewError> {
    let name = crate_name(folder)?;
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(NewError::Exists(folder.to_owned()));
    }
    for template in if torch { TORCH } else { PLAIN } {
        let path = folder.join(template.path);
        write(&path, &fill(template.text, &name), template.executable)
            .map_err(|error| NewError::Write { path, error })?;
    }
    Ok(name)
}

fn crate_name(folder: &Path) -> Result<String, NewError> {
    // `.` and `..` have no name of their own.
    let named = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let name = named.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '_');
    let good = name.starts_with(|letter: char| letter.is_ascii_lowercase()) && name.chars().all(allowed);
    if good && !RESERVED.contains(&name.as_str()) { Ok(name) } else { Err(NewError::Name(name)) }
}

/// The values of the placeholders.
fn values(name: &str) -> [(&'static str, &str); 4] {
    [("{{name}}", name), ("{{version}}", env!("CARGO_PKG_VERSION")), ("{{tch}}", TCH), ("{{libtorch}}", LIBTORCH)]
}

/// The release of `tch` that the SDK is built with.
const TCH: &str = "0.24.0";
/// The release of libtorch that it matches.
const LIBTORCH: &str = "2.11.0";

fn fill(text: &str, name: &str) -> String {
    values(name).iter().fold(text.to_owned(), |text, (key, value)| text.replace(key, value))
}

fn write(path: &Path, text: &str, executable: bool) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mode = if executable { 0o755 } else { 0o644 };
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(torch: bool) -> &'static [Template] {
        if torch { TORCH } else { PLAIN }
    }

    #[test]
    fn every_file_is_there_and_nothing_is_left_to_fill_in() {
        for torch in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("my-handler");
            assert_eq!(create(&path, torch).unwrap(), "my-handler");
            for template in listed(torch) {
                let text = fs::read_to_string(path.join(template.path)).unwrap();
                assert!(!text.contains("{{"), "{}: {text}", template.path);
            }
            let manifest: toml::Table = fs::read_to_string(path.join("Cargo.toml")).unwrap().parse().unwrap();
            assert_eq!(manifest["package"]["name"].as_str(), Some("my-handler"));
        }
    }

    #[test]
    fn an_existing_folder_is_left_alone_unless_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert_eq!(create(&path, false).unwrap(), "taken");
        let before = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        assert!(matches!(create(&path, true), Err(NewError::Exists(_))));
        assert_eq!(fs::read_to_string(path.join("Cargo.toml")).unwrap(), before);
    }

    #[test]
    fn names_that_cargo_refuses_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["Handler", "1st", "my handler", "test", "über", "-x"] {
            let path = folder.path().join(name);
            assert!(matches!(create(&path, false), Err(NewError::Name(bad)) if bad == name), "{name}");
            assert!(!path.exists(), "{name}");
        }
    }

    /// What the templates promise must be what the workspace is built with.
    #[test]
    fn versions_are_those_of_the_workspace() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let workspace: toml::Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
        let tch = workspace["workspace"]["dependencies"]["tch"]["version"].as_str().unwrap();
        assert_eq!(tch, format!("={TCH}"));
        let script = fs::read_to_string(root.join("docker/install-libtorch.sh")).unwrap();
        assert!(script.contains(&format!("torch_version={LIBTORCH}\n")));
    }
}

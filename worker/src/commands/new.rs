//! `runpod-worker new`: writes a new handler crate that builds as it stands.

mod sdk;
mod templates;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::workspace::is_workspace;
use super::{complain, print};
use crate::cli::{HandlerKind, NewArgs};
use crate::config::EXIT_CONFIG;
use sdk::{Origin, Sdk};
use templates::NewCrate;

pub use sdk::SdkError;

/// Cargo refuses these as the name of a program, or they would hide a crate that the handler uses.
const RESERVED: [&str; 8] = ["build", "core", "deps", "examples", "incremental", "proc_macro", "std", "test"];

/// Said of a crate that waits for the SDK on crates.io.
const NOT_PUBLISHED: &str = concat!(
    "runpod-worker: version ",
    env!("CARGO_PKG_VERSION"),
    " of runpod-handler-sdk is not published on crates.io yet: until then the crate does not build. \
     --sdk path=FOLDER or --sdk git=URL names a copy of the repository"
);

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
    /// A function has nowhere to keep a model, and a model on libtorch would block the threads of an async handler.
    #[error(
        "--kind function and --kind async have no model on libtorch, so they take no --torch: use --kind handler, batch or step"
    )]
    NoModel,
    /// There is no SDK to depend on.
    #[error(transparent)]
    Sdk(#[from] SdkError),
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
    let origin = Origin {
        current: std::env::current_dir().unwrap_or_default(),
        program: std::env::current_exe().unwrap_or_default(),
    };
    let (name, sdk) = match create(args, &origin) {
        Ok(created) => created,
        Err(error) => return complain(EXIT_CONFIG, &error.to_string()),
    };
    if sdk == Sdk::Version {
        let _ = writeln!(io::stderr(), "{NOT_PUBLISHED}");
    }
    let libtorch = if args.torch { "    runpod-worker libtorch\n" } else { "" };
    let file = if args.kind == HandlerKind::Function { "src/main.rs" } else { "src/handler.rs" };
    print(&format!(
        "{path} is a handler crate; its SDK: {sdk}. Try it:\n\n    cd {path}\n{libtorch}    cargo test && cargo build\n    \
         runpod-worker test -- target/debug/{name}      one job, from test_input.json\n    \
         runpod-endpoint dev -- target/debug/{name}     a local RunPod API\n\nYour code goes into {file}.",
        path = args.path.display(),
        sdk = sdk.dependency(),
    ))
}

/// Writes all files and overwrites none. Returns the name of the crate and its SDK.
fn create(args: &NewArgs, origin: &Origin) -> Result<(String, Sdk), NewError> {
    let folder = &args.path;
    let name = crate_name(folder)?;
    if args.torch && matches!(args.kind, HandlerKind::Function | HandlerKind::Async) {
        return Err(NewError::NoModel);
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(NewError::Exists(folder.clone()));
    }
    let sdk = Sdk::find(args.sdk.as_ref(), origin)?;
    let in_workspace = origin.current.join(folder).ancestors().skip(1).any(is_workspace);
    let new = NewCrate { name: &name, kind: args.kind, torch: args.torch, sdk: &sdk, in_workspace };
    for template in new.files() {
        let path = folder.join(template.path);
        write(&path, &new.fill(template), template.executable).map_err(|error| NewError::Write { path, error })?;
    }
    Ok((name, sdk))
}

fn crate_name(folder: &Path) -> Result<String, NewError> {
    // `.` and `..` have no name of their own.
    let named = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let name = named.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '_');
    let good = name.starts_with(|letter: char| letter.is_ascii_lowercase()) && name.chars().all(allowed);
    if good && !RESERVED.contains(&name.as_str()) { Ok(name) } else { Err(NewError::Name(name)) }
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
    use super::templates::{LIBTORCH, TCH};
    use super::*;
    use crate::cli::SdkChoice;

    fn args(path: &Path, kind: HandlerKind, torch: bool) -> NewArgs {
        NewArgs { path: path.to_owned(), kind, torch, sdk: Some(SdkChoice::Version) }
    }

    fn handler(path: &Path) -> Result<(String, Sdk), NewError> {
        create(&args(path, HandlerKind::Handler, false), &nowhere())
    }

    fn nowhere() -> Origin {
        Origin { current: "/".into(), program: "/bin/runpod-worker".into() }
    }

    #[test]
    fn every_file_is_there_and_nothing_is_left_to_fill_in() {
        for (kind, torch) in [
            (HandlerKind::Function, false),
            (HandlerKind::Handler, false),
            (HandlerKind::Handler, true),
            (HandlerKind::Batch, false),
            (HandlerKind::Batch, true),
            (HandlerKind::Step, false),
            (HandlerKind::Step, true),
            (HandlerKind::Async, false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("my-handler");
            let (name, sdk) = create(&args(&path, kind, torch), &nowhere()).unwrap();
            assert_eq!((&*name, &sdk), ("my-handler", &Sdk::Version));
            let new = NewCrate { name: &name, kind, torch, sdk: &sdk, in_workspace: false };
            for template in new.files() {
                let text = fs::read_to_string(path.join(template.path)).unwrap();
                assert!(!text.contains("{{") && !text.contains("\n\n\n"), "{}: {text}", template.path);
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
        assert_eq!(handler(&path).unwrap().0, "taken");
        let before = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        assert!(matches!(handler(&path), Err(NewError::Exists(_))));
        assert_eq!(fs::read_to_string(path.join("Cargo.toml")).unwrap(), before);
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["Handler", "1st", "my handler", "test", "über", "-x"] {
            let path = folder.path().join(name);
            assert!(matches!(handler(&path), Err(NewError::Name(bad)) if bad == name), "{name}");
            assert!(!path.exists(), "{name}");
        }
        let path = folder.path().join("without-a-model");
        for kind in [HandlerKind::Function, HandlerKind::Async] {
            let created = create(&args(&path, kind, true), &nowhere());
            assert!(matches!(created, Err(NewError::NoModel)) && !path.exists());
        }
        let without_sdk = NewArgs { sdk: None, ..args(&path, HandlerKind::Handler, false) };
        let without_sdk = create(&without_sdk, &nowhere());
        assert!(matches!(without_sdk, Err(NewError::Sdk(SdkError::NotFound))) && !path.exists());
    }

    #[test]
    fn a_crate_below_a_workspace_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Cargo.toml"), "[workspace]\nmembers = []\n").unwrap();
        let path = folder.path().join("handlers/mine");
        handler(&path).unwrap();
        assert!(fs::read_to_string(path.join("Cargo.toml")).unwrap().ends_with("\n[workspace]\n"));
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

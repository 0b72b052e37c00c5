//! `runpod-worker libtorch`: installs libtorch where a handler crate looks for it.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::complain;
use super::workspace::is_workspace;
use crate::cli::{LibtorchArgs, LibtorchVariant};
use crate::config::EXIT_CONFIG;
use crate::process::become_script;

/// The same script that installs libtorch in the repository and in the images. It pins the versions and their hashes.
const INSTALLER: &str = include_str!("../../templates/install-libtorch.sh");

/// Tells cargo where libtorch is.
const CARGO_CONFIG: &str = include_str!("../../templates/torch/cargo-env.toml");

/// The folder that [`CARGO_CONFIG`] names, beside the manifest.
const FOLDER: &str = ".libtorch";

/// Why libtorch cannot be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibtorchError {
    /// There is no crate here.
    #[error(
        "there is no Cargo.toml in this folder or above it: go to your handler crate, or name a folder with --prefix"
    )]
    NoCrate,
    /// Cargo cannot be told where libtorch is.
    #[error("cannot write {}: {error}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The installer cannot be started.
    #[error("cannot start bash, which the installation needs: {0}")]
    Bash(io::Error),
}

/// Becomes the installer; returns only when it cannot be started.
pub(super) fn libtorch_command(args: &LibtorchArgs) -> ExitCode {
    match install(args) {
        Err(error @ LibtorchError::NoCrate) => complain(EXIT_CONFIG, &error.to_string()),
        Err(error) => complain(1, &error.to_string()),
        Ok(never) => match never {},
    }
}

fn install(args: &LibtorchArgs) -> Result<std::convert::Infallible, LibtorchError> {
    let prefix = match &args.prefix {
        Some(prefix) => prefix.clone(),
        None => {
            let root = root(&std::env::current_dir().unwrap_or_default()).ok_or(LibtorchError::NoCrate)?;
            tell_cargo(&root)?;
            root.join(FOLDER)
        }
    };
    let mut arguments: Vec<OsString> = vec!["--prefix".into(), prefix.into()];
    if let Some(variant) = args.variant {
        let variant = match variant {
            LibtorchVariant::Cpu => "cpu",
            LibtorchVariant::Cuda => "cuda",
        };
        arguments.extend(["--variant".into(), variant.into()]);
    }
    Err(LibtorchError::Bash(become_script(INSTALLER, "runpod-worker libtorch", &arguments)))
}

/// The folder that cargo is told about: the nearest crate's, or that of the workspace which it belongs to.
fn root(current: &Path) -> Option<PathBuf> {
    let nearest = current.ancestors().find(|folder| folder.join("Cargo.toml").is_file())?;
    let own_config = nearest.join(".cargo/config.toml").is_file();
    let root =
        if own_config { nearest } else { nearest.ancestors().find(|folder| is_workspace(folder)).unwrap_or(nearest) };
    Some(root.to_owned())
}

/// Writes cargo's configuration, unless there is one. One that does not name libtorch is left alone, and the reader told.
fn tell_cargo(root: &Path) -> Result<(), LibtorchError> {
    let path = root.join(".cargo/config.toml");
    if let Ok(present) = fs::read_to_string(&path) {
        if !present.contains("LIBTORCH") {
            let _ = writeln!(io::stderr(), "Add this to {}:\n\n{CARGO_CONFIG}", path.display());
        }
        return Ok(());
    }
    let written = fs::create_dir_all(root.join(".cargo"))
        .and_then(|()| OpenOptions::new().write(true).create_new(true).open(&path)?.write_all(CARGO_CONFIG.as_bytes()));
    written.map_err(|error| LibtorchError::Write { path, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_that_of_the_crate_or_of_its_workspace() {
        let folder = tempfile::tempdir().unwrap();
        let (top, member) = (folder.path().join("top"), folder.path().join("top/crates/member"));
        fs::create_dir_all(member.join("src")).unwrap();
        assert_eq!(root(&member), None);
        fs::write(member.join("Cargo.toml"), "[package]\n").unwrap();
        assert_eq!(root(&member.join("src")).as_ref(), Some(&member));
        fs::write(top.join("Cargo.toml"), "[workspace]\n").unwrap();
        assert_eq!(root(&member), Some(top));
        // What cargo reads last wins, so the crate's own configuration decides.
        fs::create_dir(member.join(".cargo")).unwrap();
        fs::write(member.join(".cargo/config.toml"), "").unwrap();
        assert_eq!(root(&member), Some(member));
    }

    #[test]
    fn cargo_is_told_once_and_no_configuration_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".cargo/config.toml");
        tell_cargo(folder.path()).unwrap();
        let config: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!(config["env"]["LIBTORCH"]["value"].as_str(), Some(".libtorch/torch"));
        fs::write(&path, "[build]\n").unwrap();
        tell_cargo(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[build]\n");
    }
}

//! Where a new crate takes the SDK from.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::SdkChoice;

/// The SDK's folder in its repository.
const FOLDER: &str = "handler-sdk";

/// Why there is no SDK to depend on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SdkError {
    /// Nothing tells where the SDK is.
    #[error(
        "the SDK was not found, because this program belongs to no copy of its repository: name one with --sdk path=FOLDER or \
         --sdk git=URL"
    )]
    NotFound,
    /// The folder is no copy of the repository.
    #[error("--sdk path={}: there is no {FOLDER}/Cargo.toml of runpod-handler-sdk; name the repository's folder", .0.display())]
    NotARepository(PathBuf),
    /// `--sdk git` without a URL, and none is known.
    #[error("--sdk git: the address of the repository is not known; write --sdk git=URL, or --sdk git=URL#REVISION")]
    NoUrl,
}

/// A dependency on the SDK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sdk {
    /// A copy of the repository: its folder, as an absolute path.
    Path(PathBuf),
    /// A git repository, at a revision or at the head of its default branch.
    Git { url: String, revision: Option<String> },
    /// The version of this program, from crates.io.
    Version,
}

/// What this program knows about its own origin.
pub(super) struct Origin {
    /// The folder it runs in.
    pub(super) current: PathBuf,
    /// Its own file.
    pub(super) program: PathBuf,
}

impl Sdk {
    /// The SDK that was asked for; without a choice, the one of the repository that this program runs in or comes from.
    pub(super) fn find(choice: Option<&SdkChoice>, origin: &Origin) -> Result<Self, SdkError> {
        match choice {
            None => origin.sdk().ok_or(SdkError::NotFound),
            Some(SdkChoice::Version) => Ok(Self::Version),
            Some(SdkChoice::Path(None)) => match origin.sdk() {
                Some(found @ Self::Path(_)) => Ok(found),
                _ => Err(SdkError::NotFound),
            },
            Some(SdkChoice::Path(Some(folder))) => {
                let found = fs::canonicalize(folder).ok();
                let found = found.as_deref().and_then(|folder| folder.ancestors().take(2).find(|it| is_repository(it)));
                found
                    .map(|folder| Self::Path(folder.to_owned()))
                    .ok_or_else(|| SdkError::NotARepository(folder.clone()))
            }
            Some(SdkChoice::Git(Some(url))) => Ok(match url.split_once('#') {
                Some((url, revision)) => Self::Git { url: url.to_owned(), revision: Some(revision.to_owned()) },
                None => Self::Git { url: url.clone(), revision: None },
            }),
            Some(SdkChoice::Git(None)) => match (origin.installed_from(), env!("CARGO_PKG_REPOSITORY")) {
                (Some(found @ Self::Git { .. }), _) => Ok(found),
                (_, "") => Err(SdkError::NoUrl),
                (_, url) => Ok(Self::Git { url: url.to_owned(), revision: None }),
            },
        }
    }

    /// The part of the dependency in `Cargo.toml` that names the source.
    pub(super) fn dependency(&self) -> String {
        match self {
            Self::Path(repository) => format!("path = {}", quoted(&repository.join(FOLDER).to_string_lossy())),
            Self::Git { url, revision: None } => format!("git = {}", quoted(url)),
            Self::Git { url, revision: Some(revision) } => format!("git = {}, rev = {}", quoted(url), quoted(revision)),
            Self::Version => format!("version = {}", quoted(env!("CARGO_PKG_VERSION"))),
        }
    }
}

impl Origin {
    fn sdk(&self) -> Option<Sdk> {
        let above = |path: &Path| path.ancestors().find(|folder| is_repository(folder)).map(Path::to_owned);
        let checkout = above(&self.current).or_else(|| above(&self.program));
        checkout.map(Sdk::Path).or_else(|| self.installed_from())
    }

    /// What `cargo install` has noted beside the folder that it has put this program into.
    fn installed_from(&self) -> Option<Sdk> {
        #[derive(Deserialize)]
        struct Installed {
            v1: toml::Table,
        }
        let notes = self.program.parent()?.parent()?.join(".crates.toml");
        let installed: Installed = toml::from_str(&fs::read_to_string(notes).ok()?).ok()?;
        let ours = installed.v1.keys().find_map(|key| key.strip_prefix("runpod-worker "))?;
        let source = ours.split_once(" (")?.1.strip_suffix(')')?;
        match source.split_once('+')? {
            ("path", url) => {
                let folder = Path::new(url.strip_prefix("file://")?).parent()?;
                is_repository(folder).then(|| Sdk::Path(folder.to_owned()))
            }
            ("git", url) => {
                let (url, revision) = url.split_once('#')?;
                let url = url.split('?').next().unwrap_or(url).to_owned();
                Some(Sdk::Git { url, revision: Some(revision.to_owned()) })
            }
            _ => Some(Sdk::Version),
        }
    }
}

fn is_repository(folder: &Path) -> bool {
    fs::read_to_string(folder.join(FOLDER).join("Cargo.toml"))
        .is_ok_and(|manifest| manifest.contains("\nname = \"runpod-handler-sdk\"\n"))
}

/// A string of TOML; those of JSON are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> PathBuf {
        fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap()
    }

    fn origin(current: &Path, program: &Path) -> Origin {
        Origin { current: current.to_owned(), program: program.to_owned() }
    }

    #[test]
    fn a_repository_is_found_from_inside_and_from_its_programs() {
        let root = repository();
        for origin in [
            origin(&root.join("docs"), Path::new("/usr/bin/runpod-worker")),
            origin(Path::new("/tmp"), &root.join("target/debug/runpod-worker")),
        ] {
            assert_eq!(Sdk::find(None, &origin).unwrap(), Sdk::Path(root.clone()));
        }
        let elsewhere = origin(Path::new("/"), Path::new("/usr/bin/runpod-worker"));
        assert!(matches!(Sdk::find(None, &elsewhere), Err(SdkError::NotFound)));
        for folder in [root.clone(), root.join(FOLDER)] {
            let choice = SdkChoice::Path(Some(folder));
            assert_eq!(Sdk::find(Some(&choice), &elsewhere).unwrap(), Sdk::Path(root.clone()));
        }
        let wrong = SdkChoice::Path(Some("/".into()));
        assert!(matches!(Sdk::find(Some(&wrong), &elsewhere), Err(SdkError::NotARepository(_))));
    }

    #[test]
    fn a_program_of_cargo_install_knows_where_it_came_from() {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("bin/runpod-worker");
        let found = |source: &str| {
            let notes =
                format!("[v1]\n\"other 1.0.0 (x)\" = []\n\"runpod-worker 0.1.0 ({source})\" = [\"runpod-worker\"]\n");
            fs::write(home.path().join(".crates.toml"), notes).unwrap();
            Sdk::find(None, &origin(Path::new("/"), &program))
        };
        let root = repository();
        assert_eq!(found(&format!("path+file://{}", root.join("worker").display())).unwrap(), Sdk::Path(root));
        let git = found("git+https://example.com/r.git?branch=main#0f3a").unwrap();
        assert_eq!(git.dependency(), r#"git = "https://example.com/r.git", rev = "0f3a""#);
        assert_eq!(found("registry+https://example.com/index").unwrap(), Sdk::Version);
        assert!(matches!(found("path+file:///no/such/worker"), Err(SdkError::NotFound)));
    }

    #[test]
    fn a_url_may_name_a_revision() {
        let nowhere = origin(Path::new("/"), Path::new("/bin/x"));
        let dependency = |choice: &str| Sdk::find(Some(&choice.parse().unwrap()), &nowhere).map(|sdk| sdk.dependency());
        assert_eq!(dependency("git=https://example.com/r").unwrap(), r#"git = "https://example.com/r""#);
        assert_eq!(dependency("git=file:///r#v1").unwrap(), r#"git = "file:///r", rev = "v1""#);
        assert!(dependency("version").unwrap().starts_with("version = \"0."));
        assert!("svn".parse::<SdkChoice>().is_err());
    }
}

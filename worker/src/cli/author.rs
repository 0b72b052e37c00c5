//! Arguments of the commands that begin a handler crate.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

/// Arguments of `new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// Folder to create; its name becomes the crate's name
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// A model on libtorch instead of plain Rust
    #[arg(long)]
    pub torch: bool,
    /// The way to write the handler; docs/handlers.md helps to choose
    #[arg(long, value_enum, default_value_t = HandlerKind::Handler)]
    pub kind: HandlerKind,
    /// Where Cargo.toml takes the SDK from: path, path=FOLDER, git=URL, git=URL#REVISION, or version for crates.io. Without the
    /// flag it is the copy of the repository that this program runs in or was built from
    #[arg(long, value_name = "SOURCE")]
    pub sdk: Option<SdkChoice>,
}

/// The way to write a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HandlerKind {
    /// A function without a model
    Function,
    /// A model that takes one job at a time
    Handler,
    /// A model that is faster with several jobs at once
    Batch,
    /// A model that computes in steps, such as a decoder
    Step,
    /// Code that mostly waits: for services, databases, disks
    Async,
}

/// Where a new crate takes the SDK from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SdkChoice {
    /// A copy of the repository, in this folder or to be found.
    Path(Option<PathBuf>),
    /// A git repository; its URL may end in `#` and a revision.
    Git(Option<String>),
    /// The release on crates.io.
    Version,
}

impl FromStr for SdkChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=').map_or((text, None), |(kind, place)| (kind, Some(place))) {
            ("path", folder) => Ok(Self::Path(folder.map(PathBuf::from))),
            ("git", url) => Ok(Self::Git(url.map(str::to_owned))),
            ("version", None) => Ok(Self::Version),
            _ => Err("use path, path=FOLDER, git=URL, git=URL#REVISION or version"),
        }
    }
}

/// Arguments of `libtorch`.
#[derive(Debug, Args)]
pub struct LibtorchArgs {
    /// Without CUDA or with it [default: what is installed, else cpu]
    #[arg(long, value_enum)]
    pub variant: Option<LibtorchVariant>,
    /// Folder to install into [default: .libtorch beside the Cargo.toml of this crate, or of its workspace]
    #[arg(long, value_name = "FOLDER")]
    pub prefix: Option<PathBuf>,
}

/// Which libtorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LibtorchVariant {
    /// About 550 MB to download
    Cpu,
    /// About 2.6 GB to download
    Cuda,
}

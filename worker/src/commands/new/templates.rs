//! The files of a new crate.

use std::path::Path;

use super::sdk::Sdk;
use crate::cli::HandlerKind;

/// One file of a new crate. Placeholders such as `{{name}}` are replaced by [`NewCrate::values`].
pub(super) struct Template {
    pub(super) path: &'static str,
    text: &'static str,
    pub(super) executable: bool,
}

/// Declares files: where each goes, and where its template lies.
macro_rules! templates {
    ($($path:literal = $file:literal $($executable:ident)?),* $(,)?) => {
        &[$(Template {
            path: $path,
            text: include_str!(concat!("../../../templates/", $file)),
            executable: templates!(@ $($executable)?),
        }),*]
    };
    (@ executable) => { true };
    (@) => { false };
}

// Not named Cargo.toml: cargo leaves out of a package what looks like another package.
const COMMON: &[Template] = templates! {
    ".dockerignore" = "common/dockerignore",
    ".gitignore" = "common/gitignore",
    "Cargo.toml" = "common/Cargo.toml.template",
    "Dockerfile" = "common/Dockerfile",
    "README.md" = "common/README.md",
};

const FUNCTION: &[Template] = templates! {
    "src/main.rs" = "function/main.rs",
    "test_input.json" = "common/names.json",
};

const HANDLER: &[Template] = templates! {
    "src/handler.rs" = "plain/handler.rs",
    "src/main.rs" = "common/main.rs",
    "test_input.json" = "common/names.json",
};

const BATCH: &[Template] = templates! {
    "src/handler.rs" = "plain/batch.rs",
    "src/main.rs" = "common/main.rs",
    "test_input.json" = "common/names.json",
};

const ASYNC: &[Template] = templates! {
    "src/handler.rs" = "plain/async.rs",
    "src/main.rs" = "common/main.rs",
    "test_input.json" = "common/names.json",
};

const STEP: &[Template] = templates! {
    "src/handler.rs" = "plain/step.rs",
    "src/main.rs" = "common/main.rs",
    "test_input.json" = "common/names.json",
};

const TORCH: &[Template] = templates! {
    ".cargo/config.toml" = "torch/cargo-config.toml",
    ".cargo/with-libtorch.sh" = "torch/with-libtorch.sh" executable,
    "build.rs" = "torch/build.rs",
    "src/main.rs" = "common/main.rs",
    "test_input.json" = "torch/test_input.json",
    "weights/README.md" = "torch/weights.md",
};

const TORCH_HANDLER: &[Template] = templates! { "src/handler.rs" = "torch/handler.rs" };
const TORCH_BATCH: &[Template] = templates! { "src/handler.rs" = "torch/batch.rs" };
const TORCH_STEP: &[Template] = templates! { "src/handler.rs" = "torch/step.rs" };

/// The release of `tch` that the SDK is built with.
pub(super) const TCH: &str = "0.24.0";
/// The release of libtorch that it matches.
pub(super) const LIBTORCH: &str = "2.11.0";

/// What a new crate is to be.
pub(super) struct NewCrate<'a> {
    pub(super) name: &'a str,
    pub(super) kind: HandlerKind,
    pub(super) torch: bool,
    pub(super) sdk: &'a Sdk,
    /// A workspace lies above it.
    pub(super) in_workspace: bool,
}

impl NewCrate<'_> {
    /// Its files.
    pub(super) fn files(&self) -> impl Iterator<Item = &'static Template> + use<> {
        let own: [&[Template]; 2] = match (self.torch, self.kind) {
            (false, HandlerKind::Function) => [FUNCTION, &[]],
            (false, HandlerKind::Handler) => [HANDLER, &[]],
            (false, HandlerKind::Batch) => [BATCH, &[]],
            (false, HandlerKind::Step) => [STEP, &[]],
            (false, HandlerKind::Async) => [ASYNC, &[]],
            // Neither a function nor an async handler has a model on libtorch; `new` refuses them.
            (true, HandlerKind::Function | HandlerKind::Handler | HandlerKind::Async) => [TORCH, TORCH_HANDLER],
            (true, HandlerKind::Batch) => [TORCH, TORCH_BATCH],
            (true, HandlerKind::Step) => [TORCH, TORCH_STEP],
        };
        COMMON.iter().chain(own.into_iter().flatten())
    }

    /// The text of one of them.
    pub(super) fn fill(&self, template: &Template) -> String {
        self.values().iter().fold(template.text.to_owned(), |text, (key, value)| text.replace(key, value))
    }

    fn values(&self) -> [(&'static str, String); 15] {
        let (base, base_image) = match self.torch {
            true => ("worker-base-cpu", "worker-base-${DEVICE}"),
            false => ("worker-base", "worker-base"),
        };
        let with_torch = |text: &str| if self.torch { text.to_owned() } else { String::new() };
        let mut dependency = self.sdk.dependency();
        let more = match (self.torch, self.kind) {
            (true, _) => {
                dependency.push_str(", features = [\"torch\"]");
                format!(
                    "# The release that matches libtorch {LIBTORCH}.\ntch = {{ version = \"={TCH}\", default-features = false }}\n"
                )
            }
            (false, HandlerKind::Async) => {
                dependency.push_str(", features = [\"async\"]");
                "tokio = { version = \"1\", features = [\"time\"] }\n".to_owned()
            }
            (false, _) => String::new(),
        };
        [
            ("{{name}}", self.name.to_owned()),
            ("{{version}}", env!("CARGO_PKG_VERSION").to_owned()),
            ("{{serve}}", self.serve().to_owned()),
            ("{{where}}", self.whereabouts().to_owned()),
            ("{{sdk}}", dependency),
            ("{{workspace}}", self.workspace().to_owned()),
            ("{{more}}", more),
            ("{{libtorch}}", with_torch("runpod-worker libtorch     # once; --variant cuda on a machine with a GPU\n")),
            ("{{base}}", base.to_owned()),
            ("{{base_image}}", base_image.to_owned()),
            ("{{cargo_env}}", include_str!("../../../templates/torch/cargo-env.toml").to_owned()),
            ("{{device}}", with_torch("# cuda for GPUs: `docker/build.sh worker-base-cuda`.\nARG DEVICE=cpu\n")),
            (
                "{{weights}}",
                with_torch(
                    "# What changes rarely comes first: a change of code does not ship the weights again.\nCOPY weights /app/weights\n",
                ),
            ),
            ("{{sdk_in_builder}}", self.sdk_in_builder()),
            ("{{images}}", self.images(base)),
        ]
    }

    fn serve(&self) -> &'static str {
        match self.kind {
            HandlerKind::Function | HandlerKind::Handler => "serve",
            HandlerKind::Batch => "serve_batch",
            HandlerKind::Step => "serve_step",
            HandlerKind::Async => "serve_async",
        }
    }

    fn whereabouts(&self) -> &'static str {
        match (self.torch, self.kind) {
            (false, HandlerKind::Function) => "What a job does stands in `src/main.rs`.",
            (false, HandlerKind::Async) => "What a job does goes into `src/handler.rs`.",
            (false, _) => "The model goes into `src/handler.rs`.",
            (true, _) => "The model, on libtorch, goes into `src/handler.rs`, its weights into `weights/`.",
        }
    }

    /// A crate below a workspace that does not list it is an error for cargo.
    fn workspace(&self) -> &'static str {
        if self.in_workspace {
            "\n# This crate stands alone. To make it part of the workspace above, remove this and list it there in `members`.\n[workspace]\n"
        } else {
            ""
        }
    }

    fn sdk_in_builder(&self) -> String {
        let Sdk::Path(repository) = self.sdk else { return String::new() };
        let (path, parent) = (shell_word(repository), shell_word(repository.parent().unwrap_or(Path::new("/"))));
        format!(
            "# Cargo.toml names the SDK by its folder on the machine that wrote it. The builder image contains the same SDK.\n\
             RUN mkdir -p {parent} && ln -s /opt/runpod-worker {path}\n"
        )
    }

    fn images(&self, base: &str) -> String {
        format!("Its base images are built once, by `docker/build.sh builder {base}` in {}", self.repository())
    }

    fn repository(&self) -> String {
        match self.sdk {
            Sdk::Path(repository) => format!("`{}`", repository.display()),
            Sdk::Git { .. } | Sdk::Version => "runpod-worker's repository".to_owned(),
        }
    }
}

/// One word of a shell command.
fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

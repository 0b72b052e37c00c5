//! The modules of a package, found by their `mod` declarations, as the compiler does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::scan::{Scanned, scan_text};

/// The segments of a module's path below the crate; empty for the root.
pub(crate) type ModulePath = Vec<String>;

/// A module and the file that it is written in.
#[derive(Debug)]
pub(crate) struct Module {
    /// Relative to the folder that was read.
    pub(crate) file: PathBuf,
    pub(crate) scanned: Scanned,
}

/// Where files are read from: a folder, or the text of a test.
pub(crate) trait Files {
    /// The text of a file, if there is one.
    fn read(&self, file: &Path) -> Option<String>;
}

/// Files below a folder.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Files for Folder {
    fn read(&self, file: &Path) -> Option<String> {
        std::fs::read_to_string(self.0.join(file)).ok()
    }
}

/// All modules that are not tests. A program's `main.rs` is the module `main`, because it imports the library like a stranger.
pub(crate) fn read_modules(files: &dyn Files) -> BTreeMap<ModulePath, Module> {
    let mut modules = BTreeMap::new();
    for (root, path) in [("lib.rs", vec![]), ("main.rs", vec!["main".to_owned()])] {
        if let Some(text) = files.read(Path::new(root)) {
            let scanned = scan_text(root, &text);
            add(files, &mut modules, path, Path::new(root), Path::new(""), scanned);
        }
    }
    assert!(!modules.is_empty(), "there is neither lib.rs nor main.rs");
    modules
}

/// `folder` is where the files of child modules lie.
fn add(
    files: &dyn Files,
    modules: &mut BTreeMap<ModulePath, Module>,
    path: ModulePath,
    file: &Path,
    folder: &Path,
    mut scanned: Scanned,
) {
    let child_path = |name: &String| -> ModulePath { path.iter().chain([name]).cloned().collect() };
    for name in &scanned.children {
        let candidates = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
        let found = candidates.iter().find_map(|file| Some((file, files.read(file)?)));
        let (child, text) = found.unwrap_or_else(|| panic!("{}: no file for `mod {name}`", file.display()));
        let scanned = scan_text(&child.display().to_string(), &text);
        add(files, modules, child_path(name), child, &folder.join(name), scanned);
    }
    for (name, inner) in std::mem::take(&mut scanned.inline) {
        add(files, modules, child_path(&name), file, &folder.join(&name), inner);
    }
    modules.insert(path, Module { file: file.to_owned(), scanned });
}

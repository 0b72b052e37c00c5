//! From paths to edges: which file uses a name that which other file defines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::modules::{Files, Module, ModulePath, read_modules};

/// A re-export of a re-export of … this many deep is given up.
const MAX_REEXPORTS: usize = 16;

/// The imports of one package: who uses whom, and which names.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    /// From the file that uses a name to the file that defines it.
    pub(crate) edges: BTreeMap<(PathBuf, PathBuf), BTreeSet<String>>,
    /// The top-level module of each file: `lib` for the root.
    pub(crate) top_level: BTreeMap<PathBuf, String>,
}

impl Imports {
    /// Reads a package whose library is called `crate_name`.
    pub(crate) fn read(files: &dyn Files, crate_name: &str) -> Self {
        let package = Package { crate_name, modules: read_modules(files) };
        let mut imports = Self::default();
        for (path, module) in &package.modules {
            let top = path.first().map_or("lib", String::as_str);
            imports.top_level.entry(module.file.clone()).or_insert_with(|| top.to_owned());
            for written in &module.scanned.used {
                let Some(Found::Item(definer)) = package.resolve(path, written, 0) else { continue };
                let target = &package.modules[&definer].file;
                if *target != module.file {
                    let names = imports.edges.entry((module.file.clone(), target.clone())).or_default();
                    names.insert(written.last().cloned().unwrap_or_default());
                }
            }
        }
        imports
    }
}

struct Package<'a> {
    crate_name: &'a str,
    modules: BTreeMap<ModulePath, Module>,
}

/// What a path stands for.
enum Found {
    Module(ModulePath),
    /// Something defined in this module.
    Item(ModulePath),
}

impl Package<'_> {
    fn resolve(&self, from: &ModulePath, written: &[String], depth: usize) -> Option<Found> {
        let (first, mut rest) = written.split_first()?;
        let mut found = match first.as_str() {
            // The root of the crate that the module belongs to: the program's own, or the library's.
            "crate" if from.first().is_some_and(|top| top == "main") => Found::Module(vec!["main".to_owned()]),
            "crate" => Found::Module(Vec::new()),
            "self" => Found::Module(from.clone()),
            "super" => {
                let (_, parent) = from.split_last()?;
                let mut parent = parent.to_vec();
                while let Some((_, after)) = rest.split_first().filter(|(next, _)| *next == "super") {
                    parent.pop();
                    rest = after;
                }
                Found::Module(parent)
            }
            name => match self.look_up(from, name, depth) {
                Some(found) => found,
                None if name == self.crate_name => Found::Module(Vec::new()),
                None => return None,
            },
        };
        for name in rest {
            let Found::Module(module) = &found else { return Some(found) };
            found = self.look_up(module, name, depth)?;
        }
        Some(found)
    }

    /// A name in the scope of a module.
    fn look_up(&self, module: &ModulePath, name: &str, depth: usize) -> Option<Found> {
        if depth > MAX_REEXPORTS {
            return None;
        }
        let child: ModulePath = module.iter().cloned().chain([name.to_owned()]).collect();
        if self.modules.contains_key(&child) && child != ["main"] {
            return Some(Found::Module(child));
        }
        let scanned = &self.modules.get(module)?.scanned;
        if scanned.defined.contains(name) {
            return Some(Found::Item(module.clone()));
        }
        if let Some(target) = scanned.imported.get(name) {
            // `use name::…` of a crate with the name of what it brings would look itself up for ever.
            return if target.len() == 1 && target[0] == name { None } else { self.resolve(module, target, depth + 1) };
        }
        scanned.globs.iter().find_map(|glob| match self.resolve(module, glob, depth + 1)? {
            Found::Module(source) => self.look_up(&source, name, depth + 1),
            Found::Item(_) => None,
        })
    }
}

//! The table of floors, and what a package does against it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::circles::{Graph, circles};
use crate::imports::Imports;

/// The table as `ARCHITECTURE.md` quotes it.
pub(crate) const TABLE: &str = include_str!("floors.txt");

/// One package of the table.
#[derive(Debug)]
pub(crate) struct Package {
    /// Where its sources are.
    pub(crate) folder: String,
    /// Top-level modules, top floor first. A module may import those on the floors below it.
    floors: Vec<Vec<String>>,
    /// Folders whose files may import each other: one vocabulary in several files.
    shared: Vec<String>,
}

/// Reads the table: a folder at the left margin, then one indented line a floor. A name in brackets is a folder whose files may
/// import each other.
pub(crate) fn read_table(text: &str) -> Vec<Package> {
    let mut packages: Vec<Package> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match line.strip_prefix(' ') {
            None => {
                let folder = line.trim().trim_end_matches('/').to_owned();
                packages.push(Package { folder, floors: Vec::new(), shared: Vec::new() });
            }
            Some(floor) => {
                let package = packages.last_mut().unwrap_or_else(|| panic!("no package above {line:?}"));
                let mut names = Vec::new();
                for name in floor.split_whitespace() {
                    let plain = name.trim_matches(['[', ']']);
                    if plain != name {
                        package.shared.push(plain.to_owned());
                    }
                    names.push(plain.to_owned());
                }
                package.floors.push(names);
            }
        }
    }
    packages
}

impl Package {
    /// Everything that breaks the rules, in words.
    pub(crate) fn problems(&self, imports: &Imports) -> Vec<String> {
        let mut problems = self.wrong_names(imports);
        problems.extend(self.upward(imports));
        problems.extend(self.circles(imports));
        problems
    }

    fn floor_of(&self) -> BTreeMap<&str, usize> {
        let numbered = self.floors.iter().rev().enumerate();
        numbered.flat_map(|(number, names)| names.iter().map(move |name| (name.as_str(), number))).collect()
    }

    fn wrong_names(&self, imports: &Imports) -> Vec<String> {
        let listed = self.floor_of();
        let mut modules: Vec<&str> = imports.top_level.values().map(String::as_str).collect();
        modules.sort_unstable();
        modules.dedup();
        let missing = modules.iter().filter(|module| !listed.contains_key(*module));
        let gone = listed.keys().filter(|name| !modules.contains(name));
        missing
            .map(|module| format!("{}: the module `{module}` has no floor in the table", self.folder))
            .chain(gone.map(|name| format!("{}: the table has a module `{name}` that does not exist", self.folder)))
            .collect()
    }

    fn upward(&self, imports: &Imports) -> Vec<String> {
        let floor_of = self.floor_of();
        let mut problems = Vec::new();
        for ((from, to), names) in &imports.edges {
            let (lower, upper) = (imports.top_level[from].as_str(), imports.top_level[to].as_str());
            if lower == upper {
                continue;
            }
            if let (Some(own), Some(other)) = (floor_of.get(lower), floor_of.get(upper))
                && own <= other
            {
                let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                let (from, to) = (from.display(), to.display());
                problems.push(format!("{}: {from} → {to} ({names}): `{lower}` may not import `{upper}`", self.folder));
            }
        }
        problems
    }

    fn circles(&self, imports: &Imports) -> Vec<String> {
        let mut graph = Graph::new();
        for (from, to) in imports.edges.keys() {
            let (own, other) = (&imports.top_level[from], &imports.top_level[to]);
            let is_vocabulary = own == other && self.shared.contains(own);
            if !is_vocabulary && !is_parent(to, from) {
                graph.entry(from.clone()).or_default().insert(to.clone());
            }
        }
        let show = |circle: Vec<PathBuf>| {
            let files = circle.iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
            format!("{}: a circle of imports: {}", self.folder, files.join(" → "))
        };
        circles(&graph).into_iter().map(show).collect()
    }
}

/// Whether a file is that of a folder in which the other lies. The two are one module in several files: a part may use what the
/// whole defines. The root of the package is not such a parent.
fn is_parent(parent: &Path, file: &Path) -> bool {
    let folder = match parent.file_name().and_then(|name| name.to_str()) {
        Some("lib.rs" | "main.rs") => return false,
        Some("mod.rs") => parent.with_file_name(""),
        _ => parent.with_extension(""),
    };
    file.starts_with(&folder)
}

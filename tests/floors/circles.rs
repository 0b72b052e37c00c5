//! Circles of imports, of any length.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// The imports of every file.
pub(crate) type Graph = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// One shortest circle for every group of files that import each other, as a path that ends where it began.
pub(crate) fn circles(graph: &Graph) -> Vec<Vec<PathBuf>> {
    let mut circles: Vec<Vec<PathBuf>> = Vec::new();
    let mut shortest: Vec<Vec<PathBuf>> = graph.keys().filter_map(|file| circle_through(graph, file)).collect();
    shortest.sort_by_key(Vec::len);
    for circle in shortest {
        let is_known = circles.iter().any(|known| known.iter().collect::<BTreeSet<_>>() == circle.iter().collect());
        if !is_known {
            circles.push(circle);
        }
    }
    circles
}

fn circle_through(graph: &Graph, start: &Path) -> Option<Vec<PathBuf>> {
    let mut came_from: BTreeMap<&Path, &Path> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for next in graph.get(file).into_iter().flatten() {
            if next == start {
                let mut circle = vec![start.to_owned(), file.to_owned()];
                let mut at = file;
                while at != start {
                    at = came_from[at];
                    circle.push(at.to_owned());
                }
                circle.dedup();
                circle.reverse();
                return Some(circle);
            }
            if !came_from.contains_key(next.as_path()) {
                came_from.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    None
}

//! What the documents name exists: files, sections, flags, environment variables and make targets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use end_to_end_tests::{binary, repository, run_tool};

/// Every document that people read, relative to the repository. The changelog is not one: it also names what is gone.
fn documents() -> Vec<PathBuf> {
    let list = run_tool("git", &["ls-files", "--cached", "--others", "--exclude-standard", "*.md"]);
    let list = String::from_utf8(list.stdout).unwrap();
    let documents: Vec<PathBuf> = list
        .lines()
        .filter(|path| !path.starts_with("worker/templates/") && *path != "CHANGELOG.md")
        .map(PathBuf::from)
        .filter(|path| repository().join(path).is_file())
        .collect();
    assert!(documents.len() > 10, "{documents:?}");
    documents
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text between code fences, and the text outside of them.
fn fenced_and_prose(text: &str) -> (String, String) {
    let (mut fenced, mut prose, mut inside) = (String::new(), String::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else {
            let to = if inside { &mut fenced } else { &mut prose };
            to.push_str(line);
            to.push('\n');
        }
    }
    (fenced, prose)
}

/// All inline code of a text.
fn code_spans(prose: &str) -> impl Iterator<Item = &str> {
    prose.split("\n\n").flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2))
}

/// The anchors that a web page makes of the headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let (_, prose) = fenced_and_prose(text);
    let headings = prose.lines().filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()));
    let kept = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_');
    headings.map(|heading| heading.to_lowercase().replace(' ', "-").chars().filter(|c| kept(*c)).collect()).collect()
}

#[test]
fn every_link_of_a_document_leads_to_a_file_and_a_section() {
    for path in documents() {
        let (_, prose) = fenced_and_prose(&read(&path));
        let links = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let images = prose.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for link in links.chain(images).filter(|link| !link.contains("://")) {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(repository().join(&target).exists(), "{} links to {link}", path.display());
            if !section.is_empty() {
                assert!(anchors(&read(&target)).contains(section), "{} links to {link}", path.display());
            }
        }
    }
}

/// The help of a program and of all its commands.
fn help(program: &str) -> String {
    let program = binary(program).to_string_lossy().into_owned();
    let show = |arguments: &[&str]| String::from_utf8(run_tool(&program, arguments).stdout).unwrap();
    let commands = |help: &str| -> Vec<String> {
        let listed = help.split_once("Commands:\n").map_or("", |(_, rest)| rest);
        let names = listed.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("    "));
        names
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .filter(|name| name != "help")
            .collect()
    };
    let mut all = show(&["--help"]);
    for command in commands(&all) {
        let of_command = show(&[&command, "--help"]);
        for inner in commands(&of_command) {
            all += &show(&[&command, &inner, "--help"]);
        }
        all += &of_command;
    }
    all
}

/// Flags of other programs that documents name in running text.
const FOREIGN_FLAGS: [&str; 4] = ["--build-arg", "--locked", "--path", "--secret"];

#[test]
fn every_flag_that_a_document_names_exists() {
    let known = help("runpod-worker") + &help("runpod-endpoint") + "--manifest ";
    let separates = |letter: char| !letter.is_ascii_alphanumeric() && letter != '-';
    let known: BTreeSet<&str> = known.split(separates).filter(|word| word.starts_with("--")).collect();
    let mut named = 0;
    for path in documents() {
        let (fenced, prose) = fenced_and_prose(&read(&path));
        let ours = |line: &&str| line.trim_start().starts_with("runpod-");
        let commands = fenced.lines().filter(ours).map(|line| line.split('#').next().unwrap());
        let spans = code_spans(&prose).filter(|code| code.starts_with("--") || ours(code));
        for code in commands.chain(spans) {
            // What follows a lone `--` is the handler's.
            let words = code.split_whitespace().take_while(|word| *word != "--");
            let flags = words.filter(|word| word.starts_with("--")).filter_map(|word| word.split(separates).next());
            for flag in flags.filter(|flag| !FOREIGN_FLAGS.contains(flag)) {
                assert!(known.contains(flag), "{} names {flag} in `{code}`", path.display());
                named += 1;
            }
        }
    }
    assert!(named > 50, "only {named} flags were found");
}

#[test]
fn every_environment_variable_that_a_document_names_is_read() {
    let list = run_tool("git", &["ls-files", "--cached", "--others", "--exclude-standard", "*.rs", "docker"]);
    let list = String::from_utf8(list.stdout).unwrap();
    let files = list.lines().filter(|path| !path.starts_with("tests/") && repository().join(path).is_file());
    let mut known: String = files.filter_map(|path| std::fs::read_to_string(repository().join(path)).ok()).collect();
    // Secrets of the platform, and variables that only tests read.
    known += "RUNPOD_SECRET_name CHAOS_SEED CHAOS_SECONDS ";
    // Read by RunPod's SDK 2.0; the guide says what is here in their place.
    known += "RUNPOD_LOG_CAPTURE RUNPOD_DEFER_FITNESS_CHECKS RUNPOD_EARLY_FITNESS_CHECKS_DONE RUNPOD_TEST";
    for path in documents() {
        let text = read(&path);
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let prefixes = ["RUNPOD_", "TEXT_EMBEDDINGS_", "CHAOS_"];
        for word in words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))) {
            assert!(known.contains(word), "{} names {word}, which no program reads", path.display());
        }
    }
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = read(Path::new("Makefile"));
    for path in documents() {
        let (fenced, prose) = fenced_and_prose(&read(&path));
        for code in fenced.lines().chain(code_spans(&prose)) {
            let Some(target) = code.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next()) else {
                continue;
            };
            assert!(makefile.contains(&format!("\n{target}:")), "{} names `make {target}`", path.display());
        }
    }
}

/// The table of rules, and whatever else `ARCHITECTURE.md` writes as a path.
#[test]
fn every_file_that_the_architecture_names_exists() {
    let text = read(Path::new("ARCHITECTURE.md"));
    let (_, prose) = fenced_and_prose(&text);
    let of_the_core =
        prose.split_once("start at `worker/core/src/`").unwrap().1.split_once("start at the root").unwrap().0;
    let is_path = |code: &&str| {
        let extension = code.rsplit_once('.').map_or("", |(_, extension)| extension);
        !code.contains('*') && (code.ends_with('/') || matches!(extension, "rs" | "toml" | "sql"))
    };
    let exists = |path: &str| {
        let folders = ["", "worker/core/src", "worker/src"];
        folders.iter().any(|folder| repository().join(folder).join(path).exists())
    };
    let mut named = 0;
    for path in code_spans(&prose).filter(is_path) {
        assert!(exists(path), "ARCHITECTURE.md names {path}");
        named += 1;
    }
    for path in code_spans(of_the_core).filter(is_path).filter(|path| *path != "worker/core/src/") {
        assert!(repository().join("worker/core/src").join(path).exists(), "the core has no {path}");
    }
    assert!(named > 40, "only {named} paths were found");
}

/// The trees of the code map: a folder at the left margin, below it names that end in `/` or `.rs`, two spaces deeper in each
/// folder.
#[test]
fn every_file_of_the_code_map_exists() {
    let text = read(Path::new("ARCHITECTURE.md"));
    let map = text.split_once("## Code map").unwrap().1.split_once("\n## ").unwrap().0;
    let (trees, _) = fenced_and_prose(map);
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut named = 0;
    for line in trees.lines().filter(|line| !line.is_empty()) {
        let depth = (line.len() - line.trim_start().len()) / 2;
        folders.truncate(depth);
        let parent = folders.last().cloned().unwrap_or_default();
        let is_name = |word: &&str| (word.ends_with('/') || word.ends_with(".rs")) && !word.contains('*');
        for name in line.split_whitespace().take_while(is_name) {
            let path = parent.join(name);
            assert!(repository().join(&path).exists(), "the code map names {}", path.display());
            if name.ends_with('/') && folders.len() == depth {
                folders.push(path);
            }
            named += 1;
        }
    }
    assert!(named > 40, "only {named} files were found");
}

#[test]
fn the_operations_guide_explains_every_reason_for_taking_no_job() {
    let schema: serde_json::Value = serde_json::from_str(&read(Path::new("docs/health.schema.json"))).unwrap();
    let reasons = schema["$defs"]["Poll"]["properties"]["blockedBy"]["enum"].as_array().unwrap();
    let guide = read(Path::new("docs/operations.md"));
    for reason in reasons.iter().filter_map(serde_json::Value::as_str) {
        assert!(guide.contains(&format!("| `{reason}` |")), "docs/operations.md does not explain {reason}");
    }
}

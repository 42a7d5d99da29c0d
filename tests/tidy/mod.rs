//! Rules of the repository that a machine can check.
//!
//! - Takes: the sources as text. Gives: a list of offences; a test fails unless it is empty.
//! - `OFFENDERS` names files that broke a rule when the rule was written. It may only shrink: a file on
//!   it that breaks the rule no longer must be taken off.

mod documents;
mod imports;
mod map;
mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use source::Source;

/// (rule, path) of old offenders.
const OFFENDERS: [(&str, &str); 0] = [];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 60;

/// One file that breaks one rule.
struct Offence {
    path: String,
    detail: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Finds files of the repository with this ending, in path order; generated folders are left out.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        const GENERATED: [&str; 5] = ["target", "data", "node_modules", "corpus", "artifacts"];
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if !name.starts_with('.') && !GENERATED.contains(&name.as_str()) {
                    walk(&path, ending, found);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), ending, &mut found);
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

/// Product sources: the server and the cluster crate.
fn product() -> Vec<Source> {
    let paths = files("src", ".rs").into_iter().chain(files("cluster/src", ".rs"));
    let mut sources: Vec<Source> = paths.map(|path| Source::read(&path)).collect();
    Source::mark_tests(&mut sources);
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

/// All Rust of the repository.
fn all_rust() -> Vec<Source> {
    let mut sources: Vec<Source> = files("", ".rs").iter().map(|path| Source::read(path)).collect();
    Source::mark_tests(&mut sources);
    sources
}

/// Fails unless the offences are exactly those that are excused.
fn check(rule: &str, offences: &[Offence]) {
    let excused = |path: &str| OFFENDERS.iter().any(|(r, p)| *r == rule && *p == path);
    let news: Vec<String> = offences
        .iter()
        .filter(|offence| !excused(&offence.path))
        .map(|offence| format!("  {}: {}", offence.path, offence.detail))
        .collect();
    assert!(news.is_empty(), "rule \"{rule}\" is broken:\n{}", news.join("\n"));
    let still: BTreeSet<&str> = offences.iter().map(|offence| offence.path.as_str()).collect();
    for (_, path) in OFFENDERS.iter().filter(|(r, _)| *r == rule) {
        assert!(still.contains(path), "{path} keeps rule \"{rule}\" now: take it off OFFENDERS");
    }
}

fn offences<T>(
    sources: &[Source],
    find: impl Fn(&Source) -> Vec<T>,
    tell: impl Fn(&T) -> String,
) -> Vec<Offence> {
    sources
        .iter()
        .flat_map(|source| find(source).into_iter().map(move |found| (source, found)))
        .map(|(source, found)| Offence { path: source.path.clone(), detail: tell(&found) })
        .collect()
}

#[test]
fn every_import_points_inwards() {
    let found = offences(&product(), imports::forbidden, Clone::clone);
    check("imports", &found);
}

#[test]
fn every_file_opens_with_a_header() {
    const FACTS: [&str; 7] = ["Owns", "Takes", "Gives", "Bound", "Blocks", "Source", "Never"];
    let lacks = |source: &Source| {
        let header: Vec<&str> =
            source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        let states_facts = header.iter().any(|line| {
            line.strip_prefix("//! - ")
                .is_some_and(|rest| FACTS.iter().any(|f| rest.starts_with(f)))
        });
        let is_entry = ["src/lib.rs", "src/main.rs"].contains(&source.path.as_str());
        let is_folder = source.path.ends_with("/mod.rs");
        let needs_facts = source.is_product() && !source.is_test_file() && !is_entry && !is_folder;
        match (header.is_empty(), states_facts || !needs_facts) {
            (true, _) => vec!["does not begin with //!"],
            (false, false) => vec!["says neither what it owns, takes, gives nor what bounds it"],
            (false, true) => vec![],
        }
    };
    check("headers", &offences(&all_rust(), lacks, |detail| (*detail).to_owned()));
}

#[test]
fn no_file_has_more_than_500_lines() {
    let sources = [".rs", ".py", ".sh", ".js"].into_iter().flat_map(|ending| files("", ending));
    let long = sources.filter_map(|path| {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let detail = format!("{lines} lines");
        (lines > FILE_LINES_MAX).then(|| Offence { path: relative(&path), detail })
    });
    check("file size", &long.collect::<Vec<_>>());
}

#[test]
fn no_function_outside_tests_has_more_than_60_lines() {
    let long = |source: &Source| {
        let functions = source.functions().into_iter();
        functions.filter(|function| function.lines > FUNCTION_LINES_MAX).collect()
    };
    let tell = |function: &source::Function| {
        format!("fn {} in line {} has {} lines", function.name, function.line, function.lines)
    };
    check("function size", &offences(&product(), long, tell));
}

#[test]
fn no_call_queues_without_bound_or_blocks_a_thread() {
    const CALLS: [(&str, &str); 6] = [
        (".do_send(", "queues past the mailbox bound"),
        ("unbounded_channel(", "has no bound"),
        ("mpsc::unbounded(", "has no bound"),
        ("mpsc::channel()", "has no bound"),
        ("thread::sleep(", "blocks a thread"),
        (".unwrap()", "panics"),
    ];
    let calls = |source: &Source| {
        let code = source.product_code();
        let has = |(call, why): &(&str, &str)| code.contains(call).then(|| format!("{call} {why}"));
        CALLS.iter().filter_map(has).collect()
    };
    check("calls", &offences(&product(), calls, String::clone));
}

#[test]
fn time_comes_from_the_clock_alone() {
    let clocks = |source: &Source| {
        let is_clock = source.path.ends_with("/clock.rs");
        let code = source.product_code();
        let reads = ["Instant::now(", "SystemTime::now("].into_iter();
        reads.filter(|read| !is_clock && code.contains(read)).collect()
    };
    check("clock", &offences(&product(), clocks, |read| format!("calls {read})")));
}

#[test]
fn no_comment_or_page_uses_a_banned_word() {
    let in_comments = |source: &Source| documents::banned_words(&source.comments());
    let mut found = offences(&all_rust(), in_comments, String::clone);
    for path in files("", ".md").into_iter().chain(files("config", ".toml")) {
        let words = documents::banned_words(&fs::read_to_string(&path).unwrap());
        let path = relative(&path);
        found.extend(words.into_iter().map(|detail| Offence { path: path.clone(), detail }));
    }
    check("banned words", &found);
}

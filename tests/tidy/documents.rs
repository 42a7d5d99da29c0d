//! Rules about pages, configuration files and the build.
//!
//! - Takes: `.md`, `.toml`, the Makefile. Gives: failures that name the page and the line.

use std::{collections::BTreeSet, fs, path::PathBuf};

use hongqiao::{
    config::{Config, Sources},
    metrics::METRICS,
};

use super::{files, relative, root};

/// Words that need a measurement instead. Written apart, so that this file keeps its own rule.
const BANNED: [&str; 4] = ["fast", "blazing", "zero-cost", "industrial"];

/// Lists banned words of a text. A word in quotes is spoken of, not used.
pub(super) fn banned_words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let lower = line.to_ascii_lowercase();
        for word in BANNED {
            let is_used = lower.match_indices(word).any(|(at, _)| {
                let before = lower[..at].chars().next_back().unwrap_or(' ');
                let after = lower[at + word.len()..].chars().next().unwrap_or(' ');
                let edge = |c: char| !c.is_alphanumeric() && c != '_';
                edge(before) && edge(after) && !"\"`".contains(before)
            });
            if is_used {
                found.push(format!("line {} says {word:?}", number + 1));
            }
        }
    }
    found
}

#[test]
fn every_configuration_file_loads() {
    let paths = files("config", ".toml");
    assert!(paths.len() >= 2, "{paths:?}");
    for path in paths {
        let sources = Sources { file: Some(path.clone()), ..Sources::default() };
        if let Err(error) = Config::load(&sources) {
            panic!("{}: {error}", relative(&path));
        }
    }
}

#[test]
fn three_nodes_of_one_machine_share_the_secret_and_nothing_else() {
    let load =
        |path: PathBuf| Config::load(&Sources { file: Some(path), ..Sources::default() }).unwrap();
    let nodes: Vec<Config> = files("config/cluster", ".toml").into_iter().map(load).collect();
    assert_eq!(nodes.len(), 3);
    let mut own = BTreeSet::new();
    for node in &nodes {
        assert_eq!(node.cluster.secret, nodes[0].cluster.secret);
        own.insert(node.cluster.node.to_string());
        own.extend(node.cluster.listen.map(|address| address.to_string()));
        own.insert(node.storage.data_dir.display().to_string());
        own.extend(node.listeners_enabled().map(|(_, listener)| listener.address.to_string()));
    }
    assert_eq!(own.len(), 3 * 5, "{own:?}");
    let first = nodes.iter().filter(|node| node.cluster.join.is_empty());
    assert_eq!(first.count(), 1, "one node makes the cluster, the others join it");
}

#[test]
fn every_metric_named_in_a_page_exists() {
    let names: Vec<String> = METRICS.iter().map(|metric| metric.name()).collect();
    let is_known = |name: &str| {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        names.iter().any(|known| known == name || Some(known.as_str()) == stem)
    };
    for path in files("", ".md") {
        for word in fs::read_to_string(&path).unwrap().split(|c| !is_name(c)) {
            let is_metric = word.starts_with("hongqiao_") && word != "hongqiao_cluster";
            assert!(!is_metric || is_known(word), "{} names {word}", relative(&path));
        }
    }
}

#[test]
fn every_metric_is_explained_to_operators() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for metric in &METRICS {
        let name = metric.name();
        assert!(page.contains(&format!("`{name}`")), "docs/operations.md does not explain {name}");
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[test]
fn every_relative_link_leads_somewhere() {
    for path in files("", ".md") {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or("");
            let is_local = !target.is_empty() && !target.contains("://") && !target.contains(' ');
            let exists = path.parent().unwrap().join(target).exists();
            assert!(!is_local || exists, "{} links to {link}", relative(&path));
        }
    }
}

#[test]
fn make_knows_every_target_that_pages_promise() {
    const TARGETS: [&str; 14] = [
        "help",
        "run",
        "build",
        "test",
        "verify",
        "fix",
        "crash",
        "fuzz",
        "bench",
        "bench-peers",
        "bench-million",
        "deny",
        "doc",
        "interop",
    ];
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for target in TARGETS {
        let starts = format!("{target}:");
        let line = makefile.lines().find(|line| line.starts_with(&starts));
        assert!(line.is_some_and(|line| line.contains("## ")), "{target} has no help line");
    }
}

#[test]
fn lock_file_is_part_of_the_repository() {
    assert!(root().join("Cargo.lock").is_file());
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    assert!(!ignored.contains("Cargo.lock"));
}

#[test]
fn banned_word_is_found_unless_it_is_quoted() {
    assert_eq!(banned_words("a Fast path").len(), 1);
    assert!(banned_words("breakfast, \"fast\", `fast`, fast_path").is_empty());
    assert_eq!(banned_words("zero-cost").len(), 1);
}

//! The map of `ARCHITECTURE.md` against the tree.
//!
//! - Takes: the rows of "Folders and modules", paths in the text. Gives: what is missing, and what is no more.
//! - Rule: each folder with sources has a row; rows of `src/` and `cluster/src/` name every module of theirs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{files, relative, root};

type Map = BTreeMap<String, BTreeSet<String>>;

fn is_product(folder: &str) -> bool {
    folder.starts_with("src/") || folder.starts_with("cluster/src/")
}

/// Folders and, of the product, their modules, as the rows of the section name them.
fn drawn(page: &str) -> Map {
    let section = page.split("\n### Folders and modules\n").nth(1).expect("the section is there");
    let rows = section.lines().take_while(|line| !line.starts_with('#'));
    let mut map = Map::new();
    for row in rows.filter(|row| row.starts_with("| `")) {
        let mut words = row.split('`').skip(1).step_by(2).map(str::to_owned);
        let folder = words.next().unwrap();
        let named = map.entry(folder.clone()).or_default();
        if is_product(&folder) {
            named.extend(words);
        }
    }
    map
}

/// The same of the tree. Unit tests beside the code, and what only names other files, have no row.
fn there() -> Map {
    let mut map = Map::new();
    let endings = [".rs", ".py", ".js", ".sh"].into_iter();
    let paths = endings.flat_map(|ending| files("", ending));
    for path in paths.map(|path| relative(&path)) {
        let (folder, file) = path.rsplit_once('/').unwrap();
        let folder = format!("{folder}/");
        let is_unit_test = is_product(&folder) && folder.contains("/tests/");
        if is_unit_test {
            continue;
        }
        let (at, module) = match (file, folder.trim_end_matches('/').rsplit_once('/')) {
            ("mod.rs", Some((above, module))) => (format!("{above}/"), module),
            _ => (folder.clone(), file.trim_end_matches(".rs")),
        };
        map.entry(folder.clone()).or_default();
        if is_product(&at) && module != "tests" {
            map.entry(at).or_default().insert(module.to_owned());
        }
    }
    // A folder that holds nothing but unit tests belongs to the file beside it.
    map.retain(|folder, modules| !is_product(folder) || !modules.is_empty());
    map
}

#[test]
fn map_names_every_folder_and_every_module_of_the_product() {
    let drawn = drawn(&fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap());
    let there = there();
    let mut wrong = Vec::new();
    for folder in drawn.keys().chain(there.keys()).collect::<BTreeSet<_>>() {
        match (drawn.get(folder), there.get(folder)) {
            (Some(named), Some(modules)) => {
                let missing = modules.difference(named);
                wrong.extend(missing.map(|module| format!("{folder} does not name `{module}`")));
                let gone = named.difference(modules);
                wrong.extend(
                    gone.map(|module| format!("{folder} names `{module}`, which is not there")),
                );
            }
            (Some(_), None) => wrong.push(format!("{folder} has a row and is not there")),
            (None, _) => wrong.push(format!("{folder} has no row")),
        }
    }
    assert!(wrong.is_empty(), "ARCHITECTURE.md, \"Folders and modules\":\n{}", wrong.join("\n"));
}

#[test]
fn every_source_that_the_architecture_names_exists() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let sources: Vec<String> = files("", ".rs").iter().map(|path| relative(path)).collect();
    let named = page.split('`').skip(1).step_by(2).filter(|word| {
        let is_path = word.chars().all(|c| c.is_ascii_alphanumeric() || "_/.".contains(c));
        is_path && word.ends_with(".rs")
    });
    let exists =
        |word: &str| sources.iter().any(|path| path == word || path.ends_with(&format!("/{word}")));
    let gone: Vec<&str> = named.filter(|word| !exists(word)).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names {gone:?}");
}

#[test]
fn row_that_lacks_a_module_is_seen() {
    let page =
        "\n### Folders and modules\n| `src/a/` | `one`, `two` |\n| `tests/` | `x` |\n## Next\n";
    let map = drawn(page);
    assert_eq!(map["src/a/"].len(), 2);
    assert!(map["tests/"].is_empty());
}

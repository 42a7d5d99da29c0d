//! Who may import whom: the table of `ARCHITECTURE.md`, read from `use` lines and paths.
//!
//! - Takes: a source. Gives: each import that points outwards.

use super::source::Source;

/// What all but `model` may import; what these import themselves stands in [`RULES`].
const LEAVES: [&str; 7] =
    ["limits", "clock", "error", "config", "metrics", "logging", "data_folder"];

/// One row: (folder or file under `src/`, what it may import of the server, foreign crates it may not).
type Rule = (&'static str, &'static [&'static str], &'static [&'static str]);

/// The first row that fits counts. Paths are prefixes: `model` covers `model::wire`.
const RULES: [Rule; 16] = [
    (
        "model/",
        &["model"],
        &["tokio", "actix", "sled", "openraft", "rand", "std::fs", "std::thread"],
    ),
    ("shard/", &["model", "shard"], &["actix", "sled", "openraft"]),
    ("auth/", &["model", "auth"], &["actix", "sled", "hongqiao_cluster"]),
    ("actors/", &["model", "auth", "shard", "actors"], &["sled", "openraft"]),
    ("front/", &["model", "auth", "actors", "front"], &["sled", "openraft", "hongqiao_cluster"]),
    ("http/", &["model", "auth", "actors", "http"], &["sled", "openraft"]),
    ("hooks/", &["model", "actors", "hooks"], &["sled", "openraft"]),
    ("cli/bench", &["cli", "model", "front::mqtt"], &["sled", "openraft"]),
    ("cli", &["cli", "server", "auth"], &["sled", "openraft", "hongqiao_cluster"]),
    (
        "server",
        &["model", "auth", "shard", "actors", "front", "http", "hooks", "server", "banner"],
        &["sled", "openraft"],
    ),
    ("banner", &[], &["actix", "sled"]),
    ("limits", &[], &["tokio", "actix"]),
    ("clock", &[], &["actix"]),
    ("error", &["model"], &["tokio", "actix"]),
    ("main", &["cli"], &[]),
    ("", &[], &["actix", "sled", "openraft"]),
];

/// Lists the imports of a source that the table does not allow.
pub(super) fn forbidden(source: &Source) -> Vec<String> {
    let code = source.product_code();
    let mut paths = use_paths(code);
    paths.extend(inline_paths(code, "crate::"));
    paths.extend(inline_paths(code, "hongqiao::"));
    if source.path.starts_with("cluster/") {
        let is_foreign =
            |path: &String| path.starts_with("actix") || path.starts_with("hongqiao::");
        return paths.into_iter().filter(is_foreign).map(|p| format!("imports {p}")).collect();
    }
    let place = source.path.trim_start_matches("src/");
    let Some((_, allowed, banned)) = RULES.iter().find(|(prefix, ..)| place.starts_with(prefix))
    else {
        return vec!["stands outside the table".to_owned()];
    };
    let is_pure = place.starts_with("model/");
    let is_allowed = |path: &str| match path.strip_prefix("crate::") {
        Some(inner) => {
            let own = LEAVES.iter().filter(|_| !is_pure);
            allowed.iter().chain(own).any(|prefix| is_prefix(prefix, inner))
        }
        None => !banned.iter().any(|banned| is_crate(banned, path)) && is_cluster_ok(place, path),
    };
    let outward = paths.into_iter().filter(|path| !is_allowed(path));
    outward.map(|path| format!("imports {path}")).collect()
}

fn is_prefix(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `actix` stands for `actix_rt` and its other crates too.
fn is_crate(banned: &str, path: &str) -> bool {
    is_prefix(banned, path) || (banned == "actix" && path.starts_with("actix_"))
}

/// The pure rules know the cluster's words and nothing else of it.
fn is_cluster_ok(place: &str, path: &str) -> bool {
    let Some(inner) = path.strip_prefix("hongqiao_cluster::") else { return true };
    !place.starts_with("model/") || is_prefix("id", inner) || is_prefix("directory", inner)
}

/// Expands every `use` of a file to full paths.
fn use_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let at = statement.rfind("use ").filter(|&at| {
            let before = statement[..at].trim_end();
            before.is_empty() || before.ends_with(['}', ']', '{', ')']) || before.ends_with("pub")
        });
        if let Some(at) = at {
            let tree: String = statement[at + 4..].split_whitespace().collect();
            expand("", &tree, &mut paths);
        }
    }
    paths
}

fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some(open) = tree.find('{') else {
        return paths.push(format!("{prefix}{tree}"));
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let inner = tree[open + 1..].strip_suffix('}').unwrap_or(&tree[open + 1..]);
    let (mut depth, mut start) = (0_i32, 0);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                expand(&prefix, &inner[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < inner.len() {
        expand(&prefix, &inner[start..], paths);
    }
}

/// Finds paths written out in code, such as `crate::error::code_of(reason)`.
fn inline_paths(code: &str, root: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let at_root = code.match_indices(root).map(|(at, _)| &code[at..]);
    at_root
        .map(|rest| rest.split(|c| !is_path(c)).next().unwrap_or(rest).to_owned())
        .filter(|path| path.len() > root.len())
        .collect()
}

#[test]
fn nested_use_trees_are_expanded() {
    let paths =
        use_paths("use crate::{\n  a,\n  b::{c, d::E},\n};\npub use x::y;\nfn f() { g(); }");
    assert_eq!(paths, ["crate::a", "crate::b::c", "crate::b::d::E", "x::y"]);
}

#[test]
fn outward_import_is_found() {
    let source = |path: &str, text: &str| Source::new(path.to_owned(), text.to_owned());
    for (path, text, offends) in [
        ("src/model/a.rs", "use crate::actors::b;", true),
        ("src/model/a.rs", "use crate::limits::B;", true),
        ("src/model/a.rs", "use hongqiao_cluster::id::NodeId;", false),
        ("src/model/a.rs", "use hongqiao_cluster::handle::H;", true),
        ("src/model/a.rs", "use tokio::sync::mpsc;", true),
        ("src/actors/a.rs", "fn f() { crate::front::mqtt::g() }", true),
        ("src/actors/a.rs", "use crate::{limits, model::id::AppId};", false),
        ("src/shard/a.rs", "use actix_rt::spawn;", true),
        ("src/front/a.rs", "use crate::{actors::link::Link, http::app};", true),
        ("src/cli/bench/a.rs", "use crate::front::mqtt::Codec;", false),
        ("src/cli/serve.rs", "use crate::front::mqtt::Codec;", true),
        ("cluster/src/a.rs", "use actix::Actor;", true),
        (
            "src/actors/a.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n use crate::front::x;\n}",
            false,
        ),
    ] {
        let found = forbidden(&source(path, text));
        assert_eq!(!found.is_empty(), offends, "{path}: {text}: {found:?}");
    }
}

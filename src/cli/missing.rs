//! Groups that a folder lacks, and the operator's word that they are given up.
//!
//! - Takes: `--accept-missing`. Gives: numbers of groups, or what to say instead.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};

use crate::server::recovery::{FolderGroup, FolderReport};

/// What may be missing.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct AcceptMissing {
    /// Goes on although this folder has no whole copy of these groups: they start with what is here, and
    /// that may be nothing. A list of numbers, as in 3,7; `meta` is the group of the metadata.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    accept_missing: Vec<String>,
}

impl AcceptMissing {
    /// Returns the groups that are named.
    ///
    /// # Errors
    /// One of them is no group, or nothing is wrong with it.
    pub(super) fn groups(&self, report: &FolderReport) -> anyhow::Result<BTreeSet<u16>> {
        let mut groups = BTreeSet::new();
        for name in &self.accept_missing {
            let is_it = |group: &&FolderGroup| group_name(group) == *name;
            let group = report.groups.iter().find(is_it);
            let group =
                group.with_context(|| format!("--accept-missing: no group is called {name}"))?;
            if group.usable {
                bail!("--accept-missing: group {name} is not missing");
            }
            groups.insert(group.group);
        }
        Ok(groups)
    }
}

/// Returns what people call a group.
pub(super) fn group_name(group: &FolderGroup) -> String {
    if group.meta { "meta".to_owned() } else { group.group.to_string() }
}

/// Says of each group that is missing and not accepted where its copies were; `None` if there is none.
pub(super) fn complaint(report: &FolderReport, accepted: &BTreeSet<u16>) -> Option<String> {
    let missing = report.groups.iter().filter(|group| !group.usable);
    let missing: Vec<&FolderGroup> =
        missing.filter(|group| !accepted.contains(&group.group)).collect();
    if missing.is_empty() {
        return None;
    }
    let mut text = String::from("this folder has no whole copy of some groups:\n");
    for group in &missing {
        let (name, here) = (group_name(group), meaning(group.here));
        text += &format!("  group {name}: {here} here{}\n", elsewhere(group, report.node));
    }
    let names: Vec<String> = missing.into_iter().map(group_name).collect();
    text += "use the folder or the backup of a node that has them, or give them up with --accept-missing ";
    Some(text + &names.join(","))
}

/// Says what is here of a group.
pub(super) fn meaning(here: &str) -> &str {
    match here {
        "voter" => "a whole copy",
        "learner" => "a copy that was still being made",
        "old" => "an old copy",
        _ => "nothing",
    }
}

fn elsewhere(group: &FolderGroup, node: u64) -> String {
    let placed = group.placed.iter().chain(&group.voters).filter(|id| **id != node);
    let others: BTreeSet<String> = placed.map(u64::to_string).collect();
    if others.is_empty() {
        return String::new();
    }
    let others: Vec<String> = others.into_iter().collect();
    format!(", copies were on nodes {}", others.join(" "))
}

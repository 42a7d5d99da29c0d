//! `hongqiao cluster recover`: one node goes on alone after the majority is lost for good.
//!
//! - Takes: the data folder of a node that does not run. Gives: what it has and what may be lost; with `--yes`
//!   a folder that starts as a cluster of one.
//! - Never: a change without `--yes`.

use super::super::{
    config_args::ConfigArguments,
    missing::{AcceptMissing, complaint, group_name, meaning},
    table::table,
};
use crate::{
    clock,
    server::recovery::{Folder, FolderReport},
};

/// Makes the node of a data folder the only member of a new cluster.
///
/// For the day when most nodes are lost with their disks, and only then: while a majority can come back,
/// start it instead. No node may run on the folder. Without --yes it says what the folder has and what
/// may be lost, and changes nothing. Run it so on every folder that is left, and use the one that has most.
#[derive(clap::Args, Debug)]
pub(super) struct Recover {
    /// Does it.
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    accept: AcceptMissing,

    /// Prints JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArguments,
}

/// # Errors
/// A node runs on the folder, it is damaged, or a group is missing and not accepted.
pub(super) fn run(recover: Recover) -> anyhow::Result<()> {
    let config = recover.config.load()?;
    let path = &config.storage.data_dir;
    let folder = Folder::open(path)?;
    let report = folder.report();
    let accepted = recover.accept.groups(&report)?;
    let complaint = complaint(&report, &accepted);
    if !recover.json {
        print!("{}", text(&report));
    }
    if !recover.yes {
        if recover.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("\n{}\n", loss(&report));
            if let Some(complaint) = complaint {
                println!("{complaint}\n");
            }
            println!("nothing was changed; --yes does it");
        }
        return Ok(());
    }
    if let Some(complaint) = complaint {
        anyhow::bail!(complaint);
    }
    let node = report.node;
    let cluster = folder.found(&accepted)?;
    if recover.json {
        let done = serde_json::json!({ "cluster": cluster, "node": node, "before": report });
        println!("{}", serde_json::to_string_pretty(&done)?);
    } else {
        println!(
            "\nnode {node} is now the only member of cluster {cluster}; start it: hongqiao serve --data {}\n\
             then let others join it, each with an empty data folder and an id that was not used before",
            path.display()
        );
    }
    Ok(())
}

/// Writes what the folder has.
fn text(report: &FolderReport) -> String {
    let mut text = format!("node {} of cluster {}{}\n", report.node, report.cluster, age(report));
    if report.is_begun {
        text += "a recovery of this folder was cut off; --yes ends it\n";
    }
    if report.is_removed {
        text += "the cluster had removed this node: it cannot be recovered from\n";
    }
    let own = report.members.iter().find(|member| member.node == report.node);
    if own.is_some_and(|own| !own.up) {
        text += "the others had declared this node down: they went on without it\n";
    }
    text.push('\n');
    text += &table(
        ["node", "when last heard of", "peers at"],
        report.members.iter().map(|member| {
            let state = match member {
                member if member.node == report.node => "this one",
                member if member.up => "up",
                _ => "down",
            };
            [member.node.to_string(), state.to_owned(), member.cluster_address.clone()]
        }),
    );
    text.push('\n');
    let ids = |nodes: &[u64]| nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    text + &table(
        ["group", "here", "last", "of term", "committed", "stored", "voters", "placed on"],
        report.groups.iter().map(|group| {
            [
                group_name(group),
                meaning(group.here).to_owned(),
                group.last.to_string(),
                group.last_term.to_string(),
                group.committed.to_string(),
                group.applied.to_string(),
                ids(&group.voters),
                ids(&group.placed),
            ]
        }),
    )
}

fn age(report: &FolderReport) -> String {
    let Some(written) = report.written_ms else { return String::new() };
    let secs = clock::wall_ms().saturating_sub(written) / 1_000;
    let age = match secs {
        0..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        7_200..172_800 => format!("{} h", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    };
    format!(", last written {age} ago")
}

/// Says what is kept and what may be lost.
fn loss(report: &FolderReport) -> String {
    let others = report.members.iter().filter(|member| member.node != report.node);
    let others: Vec<String> = others.map(|member| member.node.to_string()).collect();
    let node = report.node;
    let gone = if others.is_empty() {
        String::new()
    } else {
        format!(
            "  - nodes {} are given up: the new cluster refuses them; empty their folders before they are\n    \
             started, and let them join under new ids\n",
            others.join(", ")
        )
    };
    format!(
        "recovering makes node {node} the only member of a new cluster:\n{gone}  \
         - kept is every entry up to LAST, those beyond COMMITTED too: they may have been acknowledged\n  \
         - lost is what the others have acknowledged without this node: an acknowledgement needs most voters\n    \
         of a group, not all; a folder with a higher term or LAST in a group has more of it\n  \
         - clients that were connected elsewhere come back as after the death of their node"
    )
}

//! `hongqiao version`: what this binary is.
//!
//! - Gives: version, target and build profile, as text or JSON.

/// Prints the version, as text or JSON.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// # Errors
/// Never; the signature is that of every command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let platform = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({ "version": version, "platform": platform, "profile": profile })
        );
    } else {
        println!("hongqiao {version} ({platform}, {profile} build)");
    }
    Ok(())
}

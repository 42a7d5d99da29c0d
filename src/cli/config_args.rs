//! The arguments that say which configuration to use; shared by several commands.
//!
//! - Takes: `--config`, `--data`, `--listen`, `--http`, `--set`. Gives: a validated [`Config`].

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::config::{Config, ConfigError, Sources};

/// Which configuration to use.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ConfigArguments {
    /// Configuration file (TOML), laid over the built-in defaults.
    #[arg(long, short, value_name = "FILE", env = "HONGQIAO_CONFIG")]
    config: Option<PathBuf>,

    /// Data folder [default: ./data]. Short for --set storage.data_dir=DIR.
    #[arg(long, short, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Address of the MQTT listener [default: 127.0.0.1:1883]. Short for --set
    /// listeners.mqtt.address=ADDRESS.
    #[arg(long, short, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Address of the HTTP listener [default: 127.0.0.1:8080]. Short for --set
    /// listeners.http.address=ADDRESS.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,

    /// Sets one key, over file and environment; may be given again. Example: --set
    /// storage.durability=os
    #[arg(long, short, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArguments {
    /// The same, of a node that joins the cluster of these members.
    pub(super) fn joining(
        mut self,
        members: &[String],
        secret_file: Option<&Path>,
        replaces: Option<u64>,
    ) -> Self {
        let quoted: Vec<String> = members.iter().map(|member| format!("{member:?}")).collect();
        let mut assignments = vec![format!("cluster.join=[{}]", quoted.join(","))];
        if let Some(path) = secret_file {
            assignments.push(format!("cluster.secret_file={}", path.display()));
        }
        assignments.extend(replaces.map(|node| format!("cluster.replaces={node}")));
        // Before what was set one by one, which has the last word.
        assignments.append(&mut self.set);
        self.set = assignments;
        self
    }

    /// Reads all layers.
    ///
    /// # Errors
    /// [`ConfigError`] says which key to change.
    pub(super) fn load(self) -> Result<Config, ConfigError> {
        let listen =
            |name: &str, address: SocketAddr| format!("listeners.{name}.address={address}");
        let mut assignments = Vec::new();
        assignments.extend(self.listen.map(|address| listen("mqtt", address)));
        assignments.extend(self.http.map(|address| listen("http", address)));
        // After the short forms, so that the last word is the explicit one's.
        assignments.extend(self.set);
        let mut config = Config::load(&Sources::of_process(self.config, assignments))?;
        if let Some(data) = self.data {
            // A path need not be UTF-8, so it does not go through text.
            config.storage.data_dir = data;
            config.validate()?;
        }
        Ok(config)
    }
}

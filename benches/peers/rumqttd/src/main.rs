//! rumqttd as its own program starts it: one broker, configured by one file.
//!
//! - Takes: the path of a configuration. Gives: a broker that runs until it is killed.
//! - Source: rumqttd 0.20 `src/main.rs`, without logging.

use std::{env, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("usage: rumqttd-peer CONFIG")?;
    let file = config::File::new(&path, config::FileFormat::Toml);
    let config = config::Config::builder().add_source(file).build()?.try_deserialize()?;
    rumqttd::Broker::new(config).start()?;
    Ok(())
}

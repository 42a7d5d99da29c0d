//! The data folder as other programs on this machine see it.
//!
//! - Owns: `listeners.json` and `admin.token`; what is stored belongs to the cluster crate.
//! - Takes: bound addresses and the token, once the node runs. Gives: both back to `hongqiao backup` and
//!   `hongqiao user`, and to scripts.
//! - Bound: two small files, written whole or not at all (temporary file, then rename).

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

const LISTENERS: &str = "listeners.json";
const TOKEN: &str = "admin.token";

/// Bound addresses of each listener, by its name.
pub type Listening = BTreeMap<String, Vec<SocketAddr>>;

/// The folder of one node.
#[derive(Clone, Debug)]
pub struct DataFolder {
    path: PathBuf,
}

impl DataFolder {
    /// Names the folder; touches nothing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the folder, for its owner alone (0700). A folder that others may enter is closed to
    /// them.
    ///
    /// # Errors
    /// It cannot be created or belongs to somebody else.
    pub fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let mode = fs::metadata(&self.path)?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Tells programs on this machine where the node listens and how to administer it. Called once the
    /// node serves and holds the folder's lock.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn announce(&self, listening: &Listening, token: &str) -> io::Result<()> {
        self.write(TOKEN, token.as_bytes())?;
        let json = serde_json::to_vec_pretty(listening).map_err(io::Error::other)?;
        self.write(LISTENERS, &json)
    }

    /// Takes back what [`announce`](Self::announce) told; called when the node stops.
    pub fn withdraw(&self) {
        for name in [LISTENERS, TOKEN] {
            // What is not there needs no removal, and a leftover is replaced by the next start.
            let _ = fs::remove_file(self.path.join(name));
        }
    }

    /// Reads where the node listens.
    ///
    /// # Errors
    /// No node runs on this folder, or the caller may not read it.
    pub fn listening(&self) -> io::Result<Listening> {
        let json = fs::read(self.path.join(LISTENERS))?;
        serde_json::from_slice(&json).map_err(io::Error::other)
    }

    /// Reads the token of the running node.
    ///
    /// # Errors
    /// As [`listening`](Self::listening).
    pub fn admin_token(&self) -> io::Result<String> {
        fs::read_to_string(self.path.join(TOKEN))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}.tmp"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, self.path.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn create_closes_the_folder_to_others() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::new(parent.path().join("a/b"));
        folder.create().unwrap();
        assert_eq!(mode(folder.path()), 0o700);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        folder.create().unwrap();
        assert_eq!(mode(folder.path()), 0o700);
    }

    #[test]
    fn announce_then_read_then_withdraw() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::new(parent.path());
        assert!(folder.listening().is_err());
        let listening =
            Listening::from([("mqtt".to_owned(), vec!["127.0.0.1:1883".parse().unwrap()])]);
        fs::write(parent.path().join("admin.token.tmp"), "left by a crash").unwrap();
        folder.announce(&listening, "secret").unwrap();
        folder.announce(&listening, "secret2").unwrap();
        assert_eq!(folder.listening().unwrap(), listening);
        assert_eq!(folder.admin_token().unwrap(), "secret2");
        assert_eq!(mode(&parent.path().join(TOKEN)), 0o600);
        folder.withdraw();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}

//! What the control plane may ask of the node; the server implements it.
//!
//! - Owns: nothing; a trait, so that routes are tested without a node.
//! - Takes: what routes have checked. Gives: futures that end when the work is done.

use std::path::PathBuf;

use futures_util::future::BoxFuture;

use super::{ClusterOrder, ClusterReport, Ordered};
use crate::{auth::UserName, metrics::Snapshot};

/// Why the node did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Nothing was changed; retry later.
    #[error("the node cannot do this now: {0}")]
    Unavailable(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// What was asked cannot be done as it was asked; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It may or may not have been done; asking again is safe.
    #[error("the outcome is unknown")]
    Unknown,
    /// One is running already.
    #[error("another backup is running")]
    Busy,
}

/// A group of which a node has no whole copy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// Its number.
    pub group: u16,
    /// Who has one.
    pub nodes: Vec<u64>,
}

/// What a backup lacks.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Lacking {
    /// Groups that are not in it as a whole.
    pub missing: Vec<Missing>,
    /// Groups that may lack what was acknowledged before it was asked for.
    pub behind: Vec<u16>,
}

/// The node as the control plane sees it.
pub trait NodeApi: Send + Sync + 'static {
    /// Says why the node cannot serve clients now; `Ok` if it can.
    ///
    /// # Errors
    /// The reason, for people.
    fn ready(&self) -> Result<(), String>;

    /// Counts what a scrape shows. May take some milliseconds, never waits for a commit.
    fn snapshot(&self) -> BoxFuture<'static, Snapshot>;

    /// Tells how the cluster does; waits for nobody.
    fn cluster(&self) -> ClusterReport;

    /// Decides about members, shards and leads; ends when that is decided, not when it is done.
    fn order(&self, order: ClusterOrder) -> BoxFuture<'static, Result<Ordered, AdminError>>;

    /// Creates a user, or changes its password; creates the app if it does not exist. The hash is that
    /// of `auth::hash_password`.
    fn put_user(
        &self,
        name: UserName,
        password_hash: String,
    ) -> BoxFuture<'static, Result<(), AdminError>>;

    /// Writes a backup of the running node into `folder`, which is absent or empty; ends when it is
    /// whole and flushed. Gives what is not in it.
    fn backup(&self, folder: PathBuf) -> BoxFuture<'static, Result<Lacking, AdminError>>;
}

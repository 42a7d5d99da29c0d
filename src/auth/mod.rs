//! Who a client is: the question at CONNECT, and those who can answer it.
//!
//! - Owns: nothing; the trait, what goes in and what comes out.
//! - Takes: [`Credentials`] of one CONNECT. Gives: a [`Principal`] or a [`Reason`] to refuse with.
//! - Bound: see `users.rs`; an anonymous client costs no allocation and no wait.
//!
//! ```text
//! connection ── Credentials ──► Authenticator ── Verdict::Now ────► connection   (anonymous)
//!                                   │
//!                                   └── Verdict::Later: user record, then argon2 on a bounded queue
//! ```

mod password;
mod user_name;
mod users;
mod verifier;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use self::{
    password::{HashError, generate_password, hash_password},
    user_name::{UserName, UserNameError},
    users::{PasswordUsers, StoreUnavailable, UserRecord, UserStore},
    verifier::Verifier,
};
use crate::model::{id::AppId, reason::Reason};

/// Who a connection belongs to, once it is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Tenant.
    pub app: AppId,
    /// User name without its app; `None` = anonymous.
    pub user: Option<Arc<str>>,
}

/// What a listener says about those who come in through it. One per listener, shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Name of the tenant (`org#app`) of user names without one, and of anonymous clients.
    pub app_name: Arc<str>,
    /// Number of the same tenant.
    pub app: AppId,
    /// Whether clients that show neither user name nor password are let in.
    pub anonymous: bool,
}

/// What a client shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `org#app/user`, or `user` in the listener's app.
    pub user_name: Option<String>,
    /// Proof.
    pub password: Option<Bytes>,
}

/// Passwords are never printed.
impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "…");
        let mut text = formatter.debug_struct("Credentials");
        text.field("user_name", &self.user_name).field("password", &password).finish()
    }
}

/// An answer, or the promise of one.
pub enum Verdict {
    /// Nothing had to be looked up.
    Now(Result<Principal, Reason>),
    /// Comes within `limits::PASSWORD_CHECK_TIMEOUT`.
    Later(BoxFuture<'static, Result<Principal, Reason>>),
}

impl fmt::Debug for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(result) => formatter.debug_tuple("Now").field(result).finish(),
            Self::Later(_) => formatter.write_str("Later"),
        }
    }
}

impl Verdict {
    /// Waits for the answer.
    ///
    /// # Errors
    /// Why the client is refused.
    pub async fn wait(self) -> Result<Principal, Reason> {
        match self {
            Self::Now(result) => result,
            Self::Later(answer) => answer.await,
        }
    }
}

/// Decides who a client is. Object safe: `Arc<dyn Authenticator>`.
pub trait Authenticator: Send + Sync + 'static {
    /// Answers one CONNECT. Never blocks.
    ///
    /// Reasons: `NotAuthorized` (nothing shown where something must be), `BadUserNameOrPassword`,
    /// `ServerBusy` (too many checks wait), `ServerUnavailable` (user records cannot be read).
    fn authenticate(&self, admission: &Admission, credentials: Credentials) -> Verdict;
}

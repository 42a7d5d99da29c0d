//! The authenticator of users with passwords, and of anonymous clients where they are allowed.
//!
//! - Owns: nothing; asks a [`UserStore`] and a [`Verifier`].
//! - Takes: [`Credentials`]. Gives: a [`Verdict`].
//! - Bound: `limits::PASSWORD_CHECK_TIMEOUT` for both questions together, then `ServerBusy`.
//! - Source: MQTT 5.0 sections 3.1.3.5, 3.1.3.6 and 5.4.2. An unknown user takes as long as a wrong
//!   password, so that nobody can find out names by the clock.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Admission, Authenticator, Credentials, Principal, UserName, Verdict, Verifier};
use crate::{
    limits,
    model::{id::AppId, reason::Reason},
};

/// A user as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// Tenant.
    pub app: AppId,
    /// PHC string of `hash_password`.
    pub password_hash: String,
}

/// User records cannot be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user records cannot be read")]
pub struct StoreUnavailable;

/// Where user records are read from; the server wires it to the user's shard.
pub trait UserStore: Send + Sync + 'static {
    /// Reads one user; `None` if the app or the user does not exist.
    fn find(
        &self,
        name: &UserName,
    ) -> BoxFuture<'static, Result<Option<UserRecord>, StoreUnavailable>>;
}

/// Lets in whom the user records know.
pub struct PasswordUsers {
    store: Arc<dyn UserStore>,
    verifier: Verifier,
}

impl std::fmt::Debug for PasswordUsers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PasswordUsers")
    }
}

impl PasswordUsers {
    /// Puts store and verifier together.
    #[must_use]
    pub fn new(store: Arc<dyn UserStore>, verifier: Verifier) -> Self {
        Self { store, verifier }
    }
}

impl Authenticator for PasswordUsers {
    fn authenticate(&self, admission: &Admission, credentials: Credentials) -> Verdict {
        let (user_name, password) = match (credentials.user_name, credentials.password) {
            (None, None) if admission.anonymous => {
                return Verdict::Now(Ok(Principal { app: admission.app, user: None }));
            }
            (None, None) => return Verdict::Now(Err(Reason::NotAuthorized)),
            (Some(user_name), Some(password)) => (user_name, password),
            // One without the other is nobody we know.
            (Some(_), None) | (None, Some(_)) => {
                return Verdict::Now(Err(Reason::BadUserNameOrPassword));
            }
        };
        let Ok(name) = UserName::parse(&user_name, &admission.app_name) else {
            return Verdict::Now(Err(Reason::BadUserNameOrPassword));
        };
        let record = self.store.find(&name);
        let verifier = self.verifier.clone();
        let answer = async move {
            let record = record.await.map_err(|StoreUnavailable| Reason::ServerUnavailable)?;
            let (app, hash) = record.map(|record| (record.app, record.password_hash)).unzip();
            let matches = verifier.verify(password, hash).await.ok_or(Reason::ServerBusy)?;
            match app.filter(|_| matches) {
                Some(app) => Ok(Principal { app, user: Some(name.user().into()) }),
                None => Err(Reason::BadUserNameOrPassword),
            }
        };
        Verdict::Later(Box::pin(async move {
            let answer = tokio::time::timeout(limits::PASSWORD_CHECK_TIMEOUT, answer).await;
            answer.unwrap_or(Err(Reason::ServerBusy))
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;

    use super::*;
    use crate::auth::hash_password;

    struct Table(HashMap<String, UserRecord>);

    impl UserStore for Table {
        fn find(
            &self,
            name: &UserName,
        ) -> BoxFuture<'static, Result<Option<UserRecord>, StoreUnavailable>> {
            let found = match name.user() {
                "unreadable" => Err(StoreUnavailable),
                _ => Ok(self.0.get(&name.to_string()).cloned()),
            };
            Box::pin(std::future::ready(found))
        }
    }

    fn users() -> PasswordUsers {
        let hash = hash_password(b"secret").unwrap();
        let record = |app| UserRecord { app: AppId(app), password_hash: hash.clone() };
        let table = HashMap::from([
            ("demo#demo/ann".to_owned(), record(1)),
            ("acme#chat/bob".to_owned(), record(2)),
        ]);
        PasswordUsers::new(Arc::new(Table(table)), Verifier::start().unwrap())
    }

    fn admission(anonymous: bool) -> Admission {
        Admission { app_name: "demo#demo".into(), app: AppId(1), anonymous }
    }

    fn shown(user_name: Option<&str>, password: Option<&'static str>) -> Credentials {
        Credentials {
            user_name: user_name.map(str::to_owned),
            password: password.map(|text| Bytes::from_static(text.as_bytes())),
        }
    }

    #[tokio::test]
    async fn authenticate_lets_in_only_who_proves_it() {
        let users = users();
        let user = |app, name: &str| Ok(Principal { app: AppId(app), user: Some(name.into()) });
        let bad = Err(Reason::BadUserNameOrPassword);
        for (user_name, password, expected) in [
            (Some("ann"), Some("secret"), user(1, "ann")),
            (Some("demo#demo/ann"), Some("secret"), user(1, "ann")),
            (Some("acme#chat/bob"), Some("secret"), user(2, "bob")),
            (Some("bob"), Some("secret"), bad.clone()),
            (Some("ann"), Some("wrong"), bad.clone()),
            (Some("ann"), Some(""), bad.clone()),
            (Some("ann"), None, bad.clone()),
            (None, Some("secret"), bad.clone()),
            (Some("nobody"), Some("secret"), bad.clone()),
            (Some(""), Some("secret"), bad.clone()),
            (Some("a#b/c/d"), Some("secret"), bad.clone()),
            (Some("unreadable"), Some("secret"), Err(Reason::ServerUnavailable)),
        ] {
            let verdict = users.authenticate(&admission(true), shown(user_name, password));
            assert_eq!(verdict.wait().await, expected, "{user_name:?} {password:?}");
        }
    }

    #[test]
    fn authenticate_anonymous_answers_at_once() {
        let users = users();
        let now = |anonymous| match users.authenticate(&admission(anonymous), shown(None, None)) {
            Verdict::Now(result) => result,
            Verdict::Later(_) => panic!("an anonymous client had to wait"),
        };
        assert_eq!(now(true), Ok(Principal { app: AppId(1), user: None }));
        assert_eq!(now(false), Err(Reason::NotAuthorized));
    }

    #[test]
    fn debug_of_credentials_hides_the_password() {
        let text = format!("{:?}", shown(Some("ann"), Some("secret")));
        assert!(text.contains("ann") && !text.contains("secret"), "{text}");
    }
}

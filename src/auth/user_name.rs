//! User names as clients write them.
//!
//! - Takes: `org#app/user`, or `user` with the listener's app. Gives: both parts, checked.
//! - Bound: `limits::USER_NAME_BYTES_MAX`.

use std::fmt;

use crate::{config::is_app_name, limits};

/// A user of an app.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserName {
    app: String,
    user: String,
}

/// Why a text is no user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected \"org#app/user\" or \"user\", without control characters, \"/\", \"#\" and \"+\""
)]
pub struct UserNameError;

impl UserName {
    /// Parses a name; `default_app` is used where it has none.
    ///
    /// # Errors
    /// [`UserNameError`] says what is expected.
    ///
    /// ```
    /// # use hongqiao::auth::UserName;
    /// let name = UserName::parse("acme#chat/ann", "demo#demo").unwrap();
    /// assert_eq!((name.app(), name.user()), ("acme#chat", "ann"));
    /// assert_eq!(UserName::parse("ann", "demo#demo").unwrap().app(), "demo#demo");
    /// assert!(UserName::parse("a/b/c", "demo#demo").is_err());
    /// ```
    pub fn parse(text: &str, default_app: &str) -> Result<Self, UserNameError> {
        let (app, user) = text.split_once('/').unwrap_or((default_app, text));
        let is_legal = |c: char| !c.is_control() && !"/#+".contains(c);
        let is_user = !user.is_empty() && user.chars().all(is_legal);
        if text.len() <= limits::USER_NAME_BYTES_MAX && is_user && is_app_name(app) {
            Ok(Self { app: app.to_owned(), user: user.to_owned() })
        } else {
            Err(UserNameError)
        }
    }

    /// Returns the tenant, `org#app`.
    #[must_use]
    pub fn app(&self) -> &str {
        &self.app
    }

    /// Returns the name inside the tenant.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.app, self.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_takes_both_forms_and_refuses_the_rest() {
        for (text, app, user) in [
            ("ann", "demo#demo", "ann"),
            ("acme#chat/ann", "acme#chat", "ann"),
            ("a.b#c-d/安 娜@x", "a.b#c-d", "安 娜@x"),
        ] {
            let name = UserName::parse(text, "demo#demo").unwrap();
            assert_eq!((name.app(), name.user()), (app, user));
        }
        let long = "x".repeat(limits::USER_NAME_BYTES_MAX + 1);
        for text in ["", "/", "a#b/", "/ann", "acme/ann", "a#b/c/d", "a#b", "a+b", "a\0b", &long] {
            assert!(UserName::parse(text, "demo#demo").is_err(), "{text:?}");
        }
    }
}

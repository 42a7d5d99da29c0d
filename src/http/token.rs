//! The secret that shows that a caller may read the data folder.
//!
//! - Owns: 32 random letters and digits (190 bits), new at each start. Gives: a comparison that takes the
//!   same time wherever texts differ.

use rand::{Rng as _, distr::Alphanumeric};

/// Administration needs this token and a loopback address.
#[derive(Clone)]
pub struct AdminToken(String);

/// Tokens are never printed.
impl std::fmt::Debug for AdminToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("AdminToken(…)")
    }
}

impl AdminToken {
    /// Makes a new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect())
    }

    /// Returns the text to write into the data folder.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Compares with what a caller shows.
    #[must_use]
    pub fn matches(&self, shown: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), shown.as_bytes());
        let differences = ours.iter().zip(theirs).fold(0_u8, |sum, (a, b)| sum | (a ^ b));
        ours.len() == theirs.len() && differences == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_matches_itself_alone() {
        let token = AdminToken::generate();
        let secret = token.secret().to_owned();
        assert!(token.matches(&secret));
        assert!(!token.matches(&secret[1..]));
        assert!(!token.matches(&format!("{secret}x")));
        assert!(!token.matches(""));
        assert!(!AdminToken::generate().matches(&secret));
        assert!(!format!("{token:?}").contains(&secret));
    }
}

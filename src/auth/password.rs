//! Passwords: hashed with argon2id, never kept.
//!
//! - Takes: a password. Gives: a PHC string, or whether one matches.
//! - Bound: `limits::PASSWORD_BYTES_MAX`; a check takes 19 MiB and tens of milliseconds, so it runs on
//!   the threads of `verifier.rs` and never on an arbiter.
//! - Source: RFC 9106; parameters are the second choice of the OWASP cheat sheet (19 MiB, 2 passes).

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::SaltString,
};
use rand::{Rng as _, distr::Alphanumeric};

use crate::limits;

/// Why a password cannot be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Empty or longer than the limit.
    #[error("a password has 1 to {} bytes", limits::PASSWORD_BYTES_MAX)]
    Length,
    /// The hash function refused its input.
    #[error("the password cannot be hashed")]
    Hash,
}

/// A hash of no password with the same parameters, so that an unknown user costs as much as a
/// known one.
pub(super) const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                                AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

/// Hashes a password for storage. Takes tens of milliseconds.
///
/// # Errors
/// [`HashError`].
pub fn hash_password(password: &[u8]) -> Result<String, HashError> {
    if password.is_empty() || password.len() > limits::PASSWORD_BYTES_MAX {
        return Err(HashError::Length);
    }
    let mut bytes = [0_u8; 16];
    rand::rng().fill(&mut bytes);
    let salt = SaltString::encode_b64(&bytes).map_err(|_| HashError::Hash)?;
    let hash = argon2().hash_password(password, &salt).map_err(|_| HashError::Hash)?;
    Ok(hash.to_string())
}

/// Returns whether `password` is the one that was hashed. A hash that cannot be read matches none.
pub(super) fn verify_password(password: &[u8], hash: &str) -> bool {
    let parsed = PasswordHash::new(hash);
    parsed.is_ok_and(|hash| argon2().verify_password(password, &hash).is_ok())
}

/// Makes a password for a person to copy: 20 letters and digits, 119 bits.
#[must_use]
pub fn generate_password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(20).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_then_verify_accepts_only_the_same_password() {
        let hash = hash_password(b"secret").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(verify_password(b"secret", &hash));
        assert!(!verify_password(b"Secret", &hash));
        assert!(!verify_password(b"secret", "no hash"));
        assert_ne!(hash, hash_password(b"secret").unwrap());
    }

    #[test]
    fn hash_refuses_empty_and_endless_passwords() {
        assert_eq!(hash_password(b""), Err(HashError::Length));
        let long = vec![b'x'; limits::PASSWORD_BYTES_MAX + 1];
        assert_eq!(hash_password(&long), Err(HashError::Length));
    }

    #[test]
    fn decoy_has_the_parameters_of_a_real_hash() {
        let decoy = PasswordHash::new(DECOY).unwrap();
        let real = hash_password(b"secret").unwrap();
        let real = PasswordHash::new(&real).unwrap();
        assert_eq!(decoy.params, real.params);
        assert_eq!(decoy.algorithm, real.algorithm);
        assert_eq!(decoy.hash.unwrap().len(), real.hash.unwrap().len());
    }

    #[test]
    fn generated_passwords_differ() {
        let (one, two) = (generate_password(), generate_password());
        assert_eq!(one.len(), 20);
        assert_ne!(one, two);
    }
}

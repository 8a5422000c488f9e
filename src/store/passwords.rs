//! Passwords: hashed with argon2id, a few at a time, beside the work of everybody else.

use super::users::PasswordHash;
use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What OWASP's cheat sheet on password storage asks for first: 19 MiB, two passes, one lane. About 20 ms of a core.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Bytes of a salt and of a hash, as the specification of argon2 recommends.
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// Hashes at once: people sign in seldom, and the cores are there for calls.
const AT_ONCE: usize = 2;
/// Hashes at once and those that wait for one of them: who comes then would wait for more than a second.
const WAITING_MAX: usize = 64;
/// A password that nobody guesses in the attempts that a sign-in has, and no longer than anybody types.
const CHARACTERS_MIN: usize = 12;
const BYTES_MAX: usize = 1_024;

/// A password that somebody has chosen.
#[derive(Clone)]
pub struct Password(String);

impl FromStr for Password {
    type Err = &'static str;

    /// Length alone makes a password good: rules of letters and digits make it worse.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().count() < CHARACTERS_MIN || text.len() > BYTES_MAX {
            return Err("a password has at least 12 characters, and at most 1024 bytes");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(…)")
    }
}

/// Why a password was not hashed.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many others wait.
    #[error("too many passwords are being checked")]
    Busy,
    /// The library refuses, which it has no reason to.
    #[error("the password can't be hashed: {0}")]
    Hash(String),
    /// The system has no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// A place in the queue of those who have a password hashed or checked.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

/// Hashes passwords and checks them. Clones share its places.
#[derive(Clone, Debug)]
pub struct Passwords {
    queue: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { queue: Arc::new(Semaphore::new(WAITING_MAX)), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Passwords {
    /// A place in the queue, unless it is full.
    pub fn turn(&self) -> Result<Turn, PasswordError> {
        let permit = Arc::clone(&self.queue).try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        Ok(Turn { _permit: permit })
    }

    /// What is to be stored of a password.
    pub async fn hash(&self, _turn: Turn, password: &Password) -> Result<PasswordHash, PasswordError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt)?;
        let password = password.clone();
        let hash = move || {
            let hash = argon2()?.hash_password_with_salt(password.0.as_bytes(), &salt).map_err(failure)?;
            Ok(PasswordHash(hash.to_string()))
        };
        self.in_place(hash).await
    }

    /// Whether a text is the password of that hash. Where there is none it takes as long, so that nobody learns by the time
    /// which users there are.
    pub async fn is_password(
        &self,
        _turn: Turn,
        text: &str,
        stored: Option<&PasswordHash>,
    ) -> Result<bool, PasswordError> {
        let hash = stored.map_or_else(hash_of_nobody, |stored| stored.0.clone());
        let (text, is_known) = (text.to_owned(), stored.is_some());
        let verify = move || {
            let hash = phc::PasswordHash::new(&hash).map_err(failure)?;
            Ok(argon2()?.verify_password(text.as_bytes(), &hash).is_ok() && is_known)
        };
        self.in_place(verify).await
    }

    async fn in_place<T, F>(&self, work: F) -> Result<T, PasswordError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, PasswordError> + Send + 'static,
    {
        // The hash goes on when its caller has left: its place is free only then.
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(failure)?;
        let placed = move || {
            let _place = place;
            work()
        };
        tokio::task::spawn_blocking(placed).await.map_err(failure)?
    }
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES)).map_err(failure)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// A hash that takes as long to check as every other, and that no password has.
fn hash_of_nobody() -> String {
    let (salt, hash) = ("A".repeat(22), "A".repeat(43));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${hash}")
}

fn failure(cause: impl fmt::Display) -> PasswordError {
    PasswordError::Hash(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash() {
        let passwords = Passwords::default();
        let chosen: Password = "correct horse battery".parse().expect("long enough");
        let turn = || passwords.turn().expect("a place");
        let (one, other) = (passwords.hash(turn(), &chosen).await, passwords.hash(turn(), &chosen).await);
        let (one, other) = (one.expect("hashed"), other.expect("hashed"));
        assert!(one.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && one != other, "{}", one.0);
        assert!(passwords.is_password(turn(), "correct horse battery", Some(&one)).await.expect("checked"));
        assert!(!passwords.is_password(turn(), "Correct horse battery", Some(&one)).await.expect("checked"));
        assert_eq!(format!("{chosen:?} {one:?}"), "Password(…) PasswordHash(…)");
    }

    #[tokio::test]
    async fn nobodys_hash_is_like_every_other_and_no_password_has_it() {
        let passwords = Passwords::default();
        let turn = || passwords.turn().expect("a place");
        let (made, nobodys) = (passwords.hash(turn(), &Password(String::new())).await, hash_of_nobody());
        let made = made.expect("hashed").0;
        let (made, nobodys) = (phc::PasswordHash::new(&made), phc::PasswordHash::new(&nobodys));
        let (made, nobodys) = (made.expect("a hash"), nobodys.expect("a hash"));
        assert_eq!((made.algorithm, made.version, &made.params), (nobodys.algorithm, nobodys.version, &nobodys.params));
        let bytes = |hash: &phc::PasswordHash| hash.hash.map(|hash| hash.len());
        assert_eq!(bytes(&made), bytes(&nobodys));
        assert!(!passwords.is_password(turn(), "", None).await.expect("checked"));
    }

    #[test]
    fn who_would_wait_too_long_is_sent_away() {
        let passwords = Passwords { queue: Arc::new(Semaphore::new(1)), ..Passwords::default() };
        let turn = passwords.turn().expect("a place");
        assert!(matches!(passwords.turn(), Err(PasswordError::Busy)));
        drop(turn);
        assert!(passwords.turn().is_ok());
    }

    #[test]
    fn short_passwords_are_refused_and_long_ones_bounded() {
        assert!("elevenchars".parse::<Password>().is_err());
        assert!("äöüäöüäöüäöü".parse::<Password>().is_ok());
        assert!("a".repeat(1_025).parse::<Password>().is_err());
    }
}

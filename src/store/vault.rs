//! Secrets that must be had back, such as organisations' credentials at providers: each is sealed with AES-256-GCM under a key of its
//! own, and that key under a master key, which is never in the store. What a secret belongs to is sealed with it, so a row that is
//! copied to another organisation can't be opened there.
//!
//! Master keys are a list, newest first: all of them open, the newest seals. After a new one was put in front, every row's own key is
//! sealed anew under it ([`Store::rewrap`]), and the old ones may go.

use super::pepper::{IfNone, create, encode_hex};
use super::{Store, StoreError, Transaction, file_error};
use crate::config::{MASTER_KEY_BYTES, MasterKey, MasterKeys};
use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce};
use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use sqlx::{AnyPool, Row};
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use zeroize::Zeroizing;

/// Bytes of a nonce, which stands before what it was used for.
const NONCE_BYTES: usize = 12;
/// Bytes by which what is sealed is longer.
const TAG_BYTES: usize = 16;
/// Rows that are sealed anew in one transaction.
const ROWS_PER_TRANSACTION: i64 = 256;
/// The row of `meta` that names a master key which every node must have.
const PROBE: &str = "master_key_probe";

/// A secret as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The secret under its own key.
    pub content: Vec<u8>,
    /// That key under the master key.
    pub wrapped: Vec<u8>,
    /// Which master key.
    pub master_key: String,
}

/// The master keys, ready to be used.
pub struct Vault {
    masters: ArcSwap<Vec<Master>>,
}

struct Master {
    /// The beginning of the key's SHA-256.
    id: String,
    cipher: Aes256Gcm,
}

impl Master {
    fn new(key: &MasterKey) -> Self {
        let digest = Sha256::new_with_prefix(b"tollgate master key").chain_update(key.reveal()).finalize();
        Self { id: encode_hex(&digest[..8]), cipher: Aes256Gcm::new(key.reveal().into()) }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Vault(…)")
    }
}

impl Vault {
    /// A vault of these master keys, newest first.
    #[must_use]
    pub fn new(keys: &[MasterKey]) -> Self {
        Self { masters: ArcSwap::from_pointee(keys.iter().map(Master::new).collect()) }
    }

    /// Seals a secret. It can only be opened by who says the same of what it belongs to.
    pub fn seal(&self, about: &[&str], secret: &str) -> Result<Sealed, StoreError> {
        let masters = self.masters.load();
        let newest = masters.first().ok_or_else(|| StoreError::Sealing("there is no master key".to_owned()))?;
        let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
        getrandom::fill(&mut key[..])?;
        let own = Aes256Gcm::new((&*key).into());
        let about = joined(about);
        Ok(Sealed {
            content: encrypt(&own, &about, secret.as_bytes())?,
            wrapped: encrypt(&newest.cipher, &about, &key[..])?,
            master_key: newest.id.clone(),
        })
    }

    /// Opens a secret.
    pub fn open(&self, about: &[&str], sealed: &Sealed) -> Result<Zeroizing<String>, StoreError> {
        let joined = joined(about);
        let key = self.own_key(&joined, sealed)?;
        let own = Aes256Gcm::new_from_slice(&key).map_err(|_| unopened("the key of a secret has another length"))?;
        let mut secret = Zeroizing::new(decrypt(&own, &joined, &sealed.content)?);
        let text = String::from_utf8(std::mem::take(&mut *secret));
        text.map(Zeroizing::new).map_err(|_| unopened("a secret is no text"))
    }

    /// The same secret with its key under the newest master key; none if it is already.
    pub fn rewrap(&self, about: &[&str], sealed: &Sealed) -> Result<Option<Sealed>, StoreError> {
        let masters = self.masters.load();
        let Some(newest) = masters.first().filter(|newest| newest.id != sealed.master_key) else { return Ok(None) };
        let about = joined(about);
        let key = self.own_key(&about, sealed)?;
        let wrapped = encrypt(&newest.cipher, &about, &key)?;
        Ok(Some(Sealed { wrapped, master_key: newest.id.clone(), content: sealed.content.clone() }))
    }

    /// The name of the master key that seals.
    #[must_use]
    pub fn newest(&self) -> String {
        self.masters.load().first().map(|newest| newest.id.clone()).unwrap_or_default()
    }

    fn own_key(&self, about: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let masters = self.masters.load();
        let master = masters.iter().find(|master| master.id == sealed.master_key);
        let master = master.ok_or_else(|| unopened("it is sealed under a master key that is not in the list"))?;
        decrypt(&master.cipher, about, &sealed.wrapped).map(Zeroizing::new)
    }

    fn has(&self, master_key: &str) -> bool {
        self.masters.load().iter().any(|master| master.id == master_key)
    }
}

/// The parts of what a secret belongs to, each behind its length, so that no two lists read alike.
fn joined(about: &[&str]) -> Vec<u8> {
    let mut joined = Vec::new();
    for part in about {
        joined.extend((part.len() as u64).to_le_bytes());
        joined.extend(part.as_bytes());
    }
    joined
}

fn encrypt(cipher: &Aes256Gcm, about: &[u8], content: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce)?;
    // Room for the tag, so that the content is not left behind in a smaller buffer.
    let mut sealed = Vec::with_capacity(content.len() + TAG_BYTES);
    sealed.extend_from_slice(content);
    let done = cipher.encrypt_in_place(&Nonce::<Aes256Gcm>::from(nonce), about, &mut sealed);
    done.map_err(|_| StoreError::Sealing("a secret can't be sealed".to_owned()))?;
    Ok([&nonce[..], &sealed].concat())
}

fn decrypt(cipher: &Aes256Gcm, about: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
    let (nonce, content) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(|| unopened("it is cut short"))?;
    let mut opened = content.to_vec();
    let done = cipher.decrypt_in_place(&Nonce::<Aes256Gcm>::from(*nonce), about, &mut opened);
    done.map(|()| opened).map_err(|_| unopened("it was changed, or belongs to something else"))
}

fn unopened(problem: &str) -> StoreError {
    StoreError::Sealing(format!("a sealed secret can't be opened: {problem}"))
}

/// Reads the master keys, and sees that they are those of this store.
pub(super) async fn open(place: &MasterKeys, if_none: IfNone, writer: &AnyPool) -> Result<Vault, StoreError> {
    let vault = Vault::new(&read(place, if_none, writer).await?);
    sqlx::query("INSERT INTO meta (name, content) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(PROBE)
        .bind(vault.newest())
        .execute(writer)
        .await?;
    check(&vault, writer).await?;
    Ok(vault)
}

async fn read(place: &MasterKeys, if_none: IfNone, writer: &AnyPool) -> Result<Vec<MasterKey>, StoreError> {
    let path: &Path = match place {
        MasterKeys::Given(keys) => return Ok(keys.clone()),
        MasterKeys::Kept(path) => path,
    };
    let is_new = read_probe(writer).await?.is_none();
    if is_new && if_none == IfNone::Make {
        create(path, MASTER_KEY_BYTES)?;
    }
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = match text {
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            return Err(StoreError::Sealing(format!(
                "there are no master keys in {}: name the configuration that says where they are (--config), make some with \
                 `openssl rand -hex 32`, or restore them from the backup",
                path.display()
            )));
        }
        read => read.map_err(|cause| file_error(path, cause))?,
    };
    let refuse = |problem| StoreError::Sealing(format!("{} {problem}; restore it from the backup", path.display()));
    MasterKeys::parse(&text).map_err(refuse)
}

async fn read_probe(pool: &AnyPool) -> Result<Option<String>, StoreError> {
    let probe = "SELECT content FROM meta WHERE name = $1";
    Ok(sqlx::query_scalar(probe).bind(PROBE).fetch_optional(pool).await?)
}

/// Refuses master keys that do not open what is there.
async fn check(vault: &Vault, pool: &AnyPool) -> Result<(), StoreError> {
    let mut named: Vec<String> = read_probe(pool).await?.into_iter().collect();
    let rows =
        sqlx::query("SELECT DISTINCT master_key FROM credentials WHERE status <> 'deleted'").fetch_all(pool).await?;
    for row in &rows {
        named.push(row.try_get("master_key")?);
    }
    match named.into_iter().find(|name| !vault.has(name)) {
        Some(name) => Err(StoreError::Sealing(format!(
            "the master key {name}, which this store needs, is not in the list: put it back behind the newest, or restore it from \
             the backup"
        ))),
        None => Ok(()),
    }
}

impl Store {
    /// What seals secrets.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Takes up another list of master keys, if it opens all that is there. [`Store::rewrap`] is due then.
    pub async fn replace_master_keys(&self, place: &MasterKeys) -> Result<(), StoreError> {
        let keys = read(place, IfNone::Refuse, &self.database.writer).await?;
        let vault = Vault::new(&keys);
        check(&vault, &self.database.writer).await?;
        self.vault.masters.store(vault.masters.load_full());
        Ok(())
    }

    /// Seals the keys of all secrets under the newest master key; says of how many. Calls go on meanwhile.
    pub async fn rewrap(&self) -> Result<u64, StoreError> {
        let newest = self.vault.newest();
        let mut rewrapped = 0;
        loop {
            let mut transaction = self.database.change().await?;
            let count = super::credentials::rewrap(&mut transaction, &self.vault, ROWS_PER_TRANSACTION).await?;
            if count == 0 {
                set_probe(&mut transaction, &newest).await?;
                transaction.commit().await?;
                return Ok(rewrapped);
            }
            transaction.commit().await?;
            rewrapped += count;
        }
    }
}

/// From now on every node must have this one.
async fn set_probe(transaction: &mut Transaction, newest: &str) -> Result<(), StoreError> {
    let statement = "UPDATE meta SET content = $1 WHERE name = $2";
    sqlx::query(statement).bind(newest).bind(PROBE).execute(&mut **transaction).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn vault(bytes: &[u8]) -> Vault {
        let keys: Vec<MasterKey> = bytes.iter().map(|byte| MasterKey::new([*byte; MASTER_KEY_BYTES])).collect();
        Vault::new(&keys)
    }

    #[test]
    fn a_secret_is_opened_only_where_it_belongs() {
        let vault = vault(&[1]);
        let sealed = vault.seal(&["org_1", "openai", "1"], "sk-secret").expect("sealed");
        assert_eq!(&**vault.open(&["org_1", "openai", "1"], &sealed).expect("opened"), "sk-secret");
        for about in
            [&["org_2", "openai", "1"][..], &["org_1", "openai", "2"], &["org_1openai", "1"], &["org_1", "openai1"]]
        {
            assert!(vault.open(about, &sealed).is_err(), "{about:?}");
        }
        let bytes = [&sealed.content[..], &sealed.wrapped].concat();
        assert!(!bytes.windows(9).any(|window| window == b"sk-secret"));
        let again = vault.seal(&["org_1", "openai", "1"], "sk-secret").expect("sealed");
        assert!(again.content != sealed.content && again.wrapped != sealed.wrapped);
    }

    #[test]
    fn what_was_changed_is_not_opened() {
        let vault = vault(&[1]);
        let sealed = vault.seal(&["a"], "secret").expect("sealed");
        for at in 0..sealed.content.len() {
            let mut changed = sealed.clone();
            changed.content[at] ^= 1;
            assert!(vault.open(&["a"], &changed).is_err(), "{at}");
        }
        for length in [0, 5, NONCE_BYTES, sealed.wrapped.len() - 1] {
            let cut = Sealed { wrapped: sealed.wrapped[..length].to_vec(), ..sealed.clone() };
            assert!(vault.open(&["a"], &cut).is_err(), "{length}");
        }
    }

    #[test]
    fn a_secret_moves_to_the_newest_master_key() {
        let sealed = vault(&[1]).seal(&["a"], "secret").expect("sealed");
        let both = vault(&[2, 1]);
        let moved = both.rewrap(&["a"], &sealed).expect("opened").expect("it was under the old one");
        assert_eq!((moved.content.clone(), moved.master_key.clone()), (sealed.content.clone(), both.newest()));
        assert_eq!(both.rewrap(&["a"], &moved).expect("nothing to do"), None);
        let new = vault(&[2]);
        assert_eq!(&**new.open(&["a"], &moved).expect("opened"), "secret");
        assert!(new.open(&["a"], &sealed).is_err() && both.rewrap(&["b"], &sealed).is_err());
    }

    #[tokio::test]
    async fn the_master_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Store::open(dir.path()).await.expect("a store");
        let mode = fs::metadata(dir.path().join("master-keys")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Store::open(dir.path()).await.expect("the same store");
        let sealed = first.vault().seal(&["a"], "secret").expect("sealed");
        assert_eq!(&**second.vault().open(&["a"], &sealed).expect("opened"), "secret");
    }

    #[tokio::test]
    async fn missing_short_or_foreign_master_keys_refuse_to_start() {
        let dir = tempfile::tempdir().expect("a directory");
        Store::open(dir.path()).await.expect("a store").close().await;
        let path = dir.path().join("master-keys");
        let own = fs::read_to_string(&path).expect("a file");
        for wrong in [Some(String::new()), Some("ab".repeat(31)), Some("ab".repeat(32)), None] {
            match &wrong {
                Some(text) => fs::write(&path, text).expect("written"),
                None => fs::remove_file(&path).expect("removed"),
            }
            assert!(Store::open(dir.path()).await.is_err(), "{wrong:?}");
        }
        fs::write(&path, format!("{}\n{own}", "ab".repeat(32))).expect("written");
        Store::open(dir.path()).await.expect("the old one is in the list");
    }
}

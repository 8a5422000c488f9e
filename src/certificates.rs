//! The certificates of the public listener, replaced while it listens.

use crate::config::Tls;
use arc_swap::ArcSwap;
use pingora_rustls::sign::CertifiedKey;
use pingora_rustls::{ClientHello, ResolvesServerCert, load_certs_and_key_files};
use std::sync::Arc;

/// The certificate in force.
#[derive(Debug)]
pub(crate) struct Certificates {
    current: ArcSwap<CertifiedKey>,
}

impl Certificates {
    /// Reads the files that the configuration names; the error says which can't be used.
    pub(crate) fn load(tls: &Tls) -> Result<Self, String> {
        Ok(Self { current: ArcSwap::from_pointee(read(tls)?) })
    }

    /// Reads the files anew; the certificate in force stays if they can't be used.
    pub(crate) fn reload(&self, tls: &Tls) -> Result<(), String> {
        self.current.store(Arc::new(read(tls)?));
        Ok(())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(tls: &Tls) -> Result<CertifiedKey, String> {
    let (certificate, key) = (tls.certificate.display().to_string(), tls.key.display().to_string());
    pingora_rustls::install_default_crypto_provider();
    let loaded =
        load_certs_and_key_files(&certificate, &key).map_err(|error| format!("{certificate} and {key}: {error}"))?;
    let (chain, key_der) =
        loaded.ok_or_else(|| format!("{certificate} and {key}: no certificate and key in PEM form"))?;
    let provider = pingora_rustls::CryptoProvider::get_default().ok_or("no cryptography is installed")?;
    CertifiedKey::from_der(chain, key_der, provider).map_err(|error| format!("{certificate} and {key}: {error}"))
}

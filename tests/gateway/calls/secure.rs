//! HTTP/2 and TLS, spoken by curl.

use crate::support::{Call, Gateway, Setup, curl, eventually};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A certificate for this machine, and its key, in files.
pub(super) struct Certificate {
    directory: TempDir,
}

impl Certificate {
    pub(super) fn new() -> Self {
        let certificate = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        certificate.renew();
        certificate
    }

    /// Puts another certificate in place of the one before.
    fn renew(&self) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        std::fs::write(self.key(), made.signing_key.serialize_pem()).expect("written");
        std::fs::write(self.file(), made.cert.pem()).expect("written");
    }

    pub(super) fn file(&self) -> PathBuf {
        self.directory.path().join("gateway.pem")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.directory.path().join("gateway.key")
    }
}

fn over_tls(gateway: &Gateway, certificate: &Path, version: &str, call: &Call) -> Option<(String, String)> {
    let file = certificate.to_str().expect("temporary directories have plain names");
    curl(&format!("https://{}", gateway.tls), &[version, "--cacert", file], &call.request(&gateway.key.token))
}

#[test]
fn http2_is_served_without_tls() {
    let gateway = Gateway::start();
    for call in [
        Call::chat("Hello"),
        Call::messages("Hello"),
        Call::chat("Hello").streamed(),
        Call::messages("Hello").streamed(),
    ] {
        let expected = gateway.call(&call).text();
        let url = format!("http://{}", gateway.address);
        let answer = curl(&url, &["--http2-prior-knowledge"], &call.request(&gateway.key.token));
        assert_eq!(answer, Some(("2 200".to_owned(), expected)));
    }
    gateway.books_of(8);
}

#[test]
fn http2_bodies_of_megabytes_arrive_whole() {
    let gateway = Gateway::start();
    let call = Call::chat(&"a tollgate on the road ".repeat(100_000));
    let url = format!("http://{}", gateway.address);
    let request = call.request(&gateway.key.token);
    let (status, _) = curl(&url, &["--http2-prior-knowledge"], &request).expect("an answer");
    assert_eq!(status, "2 200");
    assert_eq!(gateway.provider().log_of(1)[0]["body_sha256"], crate::support::sha256(&request.body));
}

#[test]
fn tls_is_served_over_both_versions_of_http() {
    let certificate = Certificate::new();
    let gateway = Setup::new().tls(&certificate.file(), &certificate.key()).start();
    for call in [Call::chat("Hello"), Call::messages("Hello").streamed()] {
        let expected = gateway.call(&call).text();
        for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let answer = over_tls(&gateway, &certificate.file(), flag, &call);
            assert_eq!(answer, Some((format!("{version} 200"), expected.clone())));
        }
    }
}

#[test]
fn a_renewed_certificate_is_served_without_a_restart() {
    let certificate = Certificate::new();
    let gateway = Setup::new().tls(&certificate.file(), &certificate.key()).start();
    let call = Call::chat("Hello");
    assert!(over_tls(&gateway, &certificate.file(), "--http2", &call).is_some());
    certificate.renew();
    // Curl trusts the new certificate only.
    eventually("the new certificate is served", || over_tls(&gateway, &certificate.file(), "--http2", &call));
}

#[test]
fn a_broken_certificate_changes_nothing() {
    let certificate = Certificate::new();
    let gateway = Setup::new().tls(&certificate.file(), &certificate.key()).start();
    let old = certificate.directory.path().join("old.pem");
    std::fs::copy(certificate.file(), &old).expect("copied");
    std::fs::write(certificate.file(), "not a certificate").expect("written");
    eventually("the reload was refused", || {
        (gateway.metric("tollgate_config_reloads_total", &["failed"]) > 0.0).then_some(())
    });
    assert!(over_tls(&gateway, &old, "--http2", &Call::chat("Hello")).is_some());
}

//! The way to a provider: TLS with authorities of one's own, HTTP/2, an HTTP proxy. The provider behind TLS is another gateway.

use super::secure::Certificate;
use crate::support::{Call, Gateway, Provider, Setup, Upstream};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A gateway behind TLS, and the gateway that is to reach it with these settings.
fn behind_tls(settings: &[&str]) -> (Gateway, Gateway, Certificate) {
    let certificate = Certificate::new();
    let inner = Setup::new().tls(&certificate.file(), &certificate.key()).start();
    let port = inner.tls.to_string().rsplit(':').next().expect("a port").to_owned();
    let upstream = Upstream::openai("inner", format!("https://localhost:{port}/v1")).credentials(&[&inner.key.token]);
    let trusted = format!("ca_file = '{}'", certificate.file().display());
    let upstream = settings.iter().fold(upstream, |upstream, setting| match *setting {
        "trusted" => upstream.setting(&trusted),
        other => upstream.setting(other),
    });
    let outer = Setup::new().upstream(upstream).start();
    (inner, outer, certificate)
}

#[test]
fn a_provider_of_ones_own_authority_is_believed() {
    let (inner, outer, _certificate) = behind_tls(&["trusted"]);
    for call in [Call::chat("Hello"), Call::chat("Hello").streamed()] {
        let answer = outer.call(&call);
        assert_eq!((answer.status, answer.text()), (200, inner.call(&call).text()));
    }
}

#[test]
fn a_provider_is_spoken_to_in_http2() {
    let (inner, outer, _certificate) = behind_tls(&["trusted", "h2 = true"]);
    for call in [Call::chat("Hello"), Call::chat("Hello").streamed()] {
        let answer = outer.call(&call);
        assert_eq!((answer.status, answer.text()), (200, inner.call(&call).text()));
    }
}

#[test]
fn a_provider_of_an_unknown_authority_is_never_asked() {
    let (inner, outer, _certificate) = behind_tls(&[]);
    let answer = outer.call(&Call::chat("Hello"));
    assert_eq!(answer.refusal(), (502, "upstream_failed".to_owned()));
    assert!(inner.provider().log().is_empty());
}

/// Takes connections, notes what they ask for, and passes bytes both ways.
fn proxy_to(provider: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(client.try_clone().expect("cloned"));
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|read| read > 0) {}
            seen.lock().expect("unpoisoned").push(head.lines().next().unwrap_or_default().to_owned());
            let mut client = client;
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").expect("written");
            let upstream = TcpStream::connect(provider).expect("the provider is there");
            pass(reader, upstream.try_clone().expect("cloned"));
            pass(upstream, client);
        }
    });
    (address, asked)
}

fn pass(mut from: impl std::io::Read + Send + 'static, mut to: TcpStream) {
    thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
}

#[test]
fn a_provider_is_reached_through_an_http_proxy() {
    let provider = Provider::start();
    let target = provider.url().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let (proxy, asked) = proxy_to(target.parse().expect("an address"));
    let upstream = Upstream::openai("distant", provider.url()).setting(&format!("proxy = 'http://{proxy}'"));
    let gateway = Setup::new().upstream(upstream).start();
    assert_eq!(gateway.call(&Call::chat("Hello")).status, 200);
    assert_eq!(gateway.call(&Call::chat("Hello").streamed()).events().last().map(String::as_str), Some("[DONE]"));
    let asked = asked.lock().expect("unpoisoned").clone();
    assert_eq!(asked.first(), Some(&format!("CONNECT {target} HTTP/1.1")));
}

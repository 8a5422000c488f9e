//! 120 URLs and what becomes of them; names that show another address later; what the client does with answers.

use super::*;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What names have: each question takes the next answer, the last one stays.
struct Script(Mutex<VecDeque<Vec<IpAddr>>>);

#[async_trait]
impl Names for Script {
    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, String> {
        let mut answers = self.0.lock().expect("not poisoned");
        let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        next.ok_or_else(|| "there is no such name".to_owned())
    }
}

/// Names that never get an answer.
struct Silence;

#[async_trait]
impl Names for Silence {
    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, String> {
        std::future::pending().await
    }
}

fn script(answers: &[&[&str]]) -> Arc<Script> {
    let read = |list: &&[&str]| list.iter().map(|address| address.parse().expect("an address")).collect();
    Arc::new(Script(Mutex::new(answers.iter().map(read).collect())))
}

fn usual() -> Outgoing {
    Outgoing {
        allow_http: false,
        allow_private_addresses: Vec::new(),
        ports: vec![443, 8443],
        resolve_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(5),
    }
}

/// What a test of a closed network has: plain http, this machine, any port.
fn open_to_loopback() -> Outgoing {
    let loopback = vec![Network::parse("127.0.0.0/8").expect("a range")];
    Outgoing { allow_http: true, allow_private_addresses: loopback, ports: Vec::new(), ..usual() }
}

fn guard(settings: &Outgoing, names: Arc<dyn Names>) -> AddressGuard {
    AddressGuard::with_names(settings, names).expect("a client")
}

const ALLOWED: &str = "";
const URL: &str = "the URL ";
const NAME: &str = "the URL's host name has no address";

/// URLs that are checked as they stand, with how the refusal begins or what it holds. Names in them are public.
const AS_WRITTEN: [(&str, &str); 86] = [
    ("https://hooks.example.com", ALLOWED),
    ("https://hooks.example.com/", ALLOWED),
    ("https://hooks.example.com/a/b?c=d&e=f", ALLOWED),
    ("HTTPS://Hooks.Example.COM/Path", ALLOWED),
    ("https://hooks.example.com:443/", ALLOWED),
    ("https://hooks.example.com:8443/", ALLOWED),
    ("https://a_b.example.com/", ALLOWED),
    ("https://xn--bcher-kva.example.com/", ALLOWED),
    ("https://bücher.example.com/", ALLOWED),
    ("https://93.184.215.14/", ALLOWED),
    ("https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/", ALLOWED),
    ("https://hooks.example.com/?next=http://127.0.0.1/", ALLOWED),
    ("https://hooks.example.com/@user", ALLOWED),
    ("", "must begin with https://"),
    ("hooks.example.com", "must begin with https://"),
    ("//hooks.example.com/", "must begin with https://"),
    ("https:hooks.example.com", "must begin with https://"),
    ("https:/hooks.example.com", "must begin with https://"),
    ("http://hooks.example.com/", "must begin with https://"),
    ("ftp://hooks.example.com/", "must begin with https://"),
    ("file:///etc/passwd", "must begin with https://"),
    ("gopher://hooks.example.com/", "must begin with https://"),
    ("javascript://hooks.example.com/%0aalert(1)", "must begin with https://"),
    ("unix:///run/docker.sock", "must begin with https://"),
    ("https://user@hooks.example.com/", "user name"),
    ("https://user:password@hooks.example.com/", "user name"),
    ("https://hooks.example.com@127.0.0.1/", "user name"),
    ("https://127.0.0.1@hooks.example.com/", "user name"),
    ("https://hooks.example.com/#fragment", "fragment"),
    ("https://127.0.0.1#.example.com/", "fragment"),
    ("https://hooks.example.com\\@127.0.0.1/", "backslashes"),
    ("https:\\\\hooks.example.com", "backslashes"),
    ("https://hooks.example.com/a b", "spaces"),
    (" https://hooks.example.com/", "spaces"),
    ("https://hooks.example.com/\r\nHost: a", "spaces"),
    ("https://hooks.exa\tmple.com/", "spaces"),
    ("https://hooks.example.com/\0", "spaces"),
    ("https://hooks.example.com:80/", "must not name port 80"),
    ("https://hooks.example.com:22/", "must not name port 22"),
    ("https://hooks.example.com:6379/", "must not name port 6379"),
    ("https://hooks.example.com:0/", "port that is not a number"),
    ("https://hooks.example.com:/", "port that is not a number"),
    ("https://hooks.example.com:0443/", "port that is not a number"),
    ("https://hooks.example.com:99999/", URL),
    ("https://hooks.example.com:443:443/", URL),
    ("https://", URL),
    ("https:///path", "characters that names don't have"),
    ("https://?", URL),
    ("https://.example.com/", "empty or overlong part"),
    ("https://hooks..example.com/", "empty or overlong part"),
    ("https://hooks.example.com./", "empty or overlong part"),
    ("https://ho%6fks.example.com/", "characters that names don't have"),
    ("https://127.0.0.1%00.example.com/", URL),
    ("https://hooks。example。com/", "characters that names don't have"),
    ("https://hoo\u{ad}ks.example.com/", "characters that names don't have"),
    ("https://localhost/", "whole name"),
    ("https://intranet/", "whole name"),
    ("https://a.localhost/", "never public"),
    ("https://printer.local/", "never public"),
    ("https://metadata.google.internal/computeMetadata/v1/", "never public"),
    ("https://router.home.arpa/", "never public"),
    ("https://127.0.0.1/", "this machine"),
    ("https://127.255.255.254:8443/", "this machine"),
    ("https://0.0.0.0/", "this network"),
    ("https://10.0.0.1/", "a private network"),
    ("https://172.31.255.255/", "a private network"),
    ("https://192.168.1.1/", "a private network"),
    ("https://169.254.169.254/latest/meta-data/", "cloud metadata"),
    ("https://168.63.129.16/", "internal service"),
    ("https://100.100.100.200/", "carrier's private network"),
    ("https://192.0.0.192/", "reserved for protocols"),
    ("https://255.255.255.255/", "reserved"),
    ("https://2130706433/", "odd form"),
    ("https://0x7f000001/", "odd form"),
    ("https://0x7f.0.0.1/", "odd form"),
    ("https://0177.0.0.1/", "odd form"),
    ("https://127.1/", "odd form"),
    ("https://127.0.0.1./", "odd form"),
    ("https://１２７.0.0.1/", "odd form"),
    ("https://[::1]/", "this machine"),
    ("https://[::]/", "this network"),
    ("https://[::ffff:127.0.0.1]/", "this machine"),
    ("https://[::ffff:a9fe:a9fe]/", "cloud metadata"),
    ("https://[fe80::1%25eth0]/", URL),
    ("https://[fd00:ec2::254]/", "a private network"),
    ("https://[::1/", URL),
];

/// What a public name resolves to, and what becomes of its URL.
const AS_RESOLVED: [(&[&str], &str); 34] = [
    (&["93.184.215.14"], ALLOWED),
    (&["2606:2800:21f::1"], ALLOWED),
    (&["93.184.215.14", "2606:2800:21f::1"], ALLOWED),
    // What name servers make of public IPv4 addresses for networks without IPv4.
    (&["64:ff9b::5db8:d70e"], ALLOWED),
    (&["127.0.0.1"], "this machine"),
    (&["93.184.215.14", "127.0.0.1"], "this machine"),
    (&["93.184.215.14", "::1"], "this machine"),
    (&["0.1.2.3"], "this network"),
    (&["10.255.255.255"], "a private network"),
    (&["172.16.0.1"], "a private network"),
    (&["192.168.0.1"], "a private network"),
    (&["100.64.0.1"], "carrier's private network"),
    (&["169.254.169.254"], "cloud metadata"),
    (&["192.0.2.1"], "documentation"),
    (&["192.88.99.1"], "a relay"),
    (&["198.19.255.255"], "measurements"),
    (&["198.51.100.1"], "documentation"),
    (&["203.0.113.1"], "documentation"),
    (&["224.0.0.1"], "multicast"),
    (&["240.0.0.1"], "reserved"),
    (&["168.63.129.16"], "internal service"),
    (&["::ffff:10.0.0.1"], "a private network"),
    (&["::127.0.0.1"], "reserved"),
    (&["64:ff9b::7f00:1"], "this machine"),
    (&["64:ff9b:1::a00:1"], "reserved"),
    (&["2002:7f00:1::"], "6to4"),
    (&["2001::1"], "reserved for protocols"),
    (&["2001:db8::1"], "documentation"),
    (&["3fff:fff::1"], "documentation"),
    (&["fc00::1"], "a private network"),
    (&["fe80::1"], "local link"),
    (&["fec0::1"], "reserved"),
    (&["ff02::1"], "multicast"),
    (&[], NAME),
];

fn is_as_expected(result: &Result<Checked, Refused>, expected: &str) -> bool {
    match result {
        Ok(checked) => expected.is_empty() && !checked.addresses.is_empty(),
        Err(refused) => !expected.is_empty() && refused.to_string().contains(expected),
    }
}

#[tokio::test]
async fn a_hundred_and_twenty_urls() {
    const { assert!(AS_WRITTEN.len() + AS_RESOLVED.len() == 120) };
    let public = guard(&usual(), script(&[&["93.184.215.14"]]));
    for (url, expected) in AS_WRITTEN {
        let result = public.check(url).await;
        assert!(is_as_expected(&result, expected), "{url:?}: {result:?}, not {expected:?}");
    }
    for (addresses, expected) in AS_RESOLVED {
        let result = guard(&usual(), script(&[addresses])).check("https://hooks.example.com/").await;
        assert!(is_as_expected(&result, expected), "{addresses:?}: {result:?}, not {expected:?}");
    }
}

#[tokio::test]
async fn bounds_of_every_special_range_are_inside_and_their_neighbours_are_not() {
    for (range, first_outside) in [
        ("10.0.0.0", "11.0.0.0"),
        ("100.64.0.0", "100.128.0.0"),
        ("127.0.0.0", "128.0.0.0"),
        ("169.254.0.0", "169.255.0.0"),
        ("172.16.0.0", "172.32.0.0"),
        ("192.168.0.0", "192.169.0.0"),
        ("198.18.0.0", "198.20.0.0"),
        ("168.63.129.16", "168.63.129.17"),
        ("2001:db8::", "2001:db9::"),
        ("2002::", "2003::"),
        ("3fff::", "3fff:1000::"),
    ] {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let last_inside = match address(first_outside) {
            IpAddr::V4(outside) => IpAddr::V4((outside.to_bits() - 1).into()),
            IpAddr::V6(outside) => IpAddr::V6((outside.to_bits() - 1).into()),
        };
        assert!(ranges::not_public(address(range)).is_some(), "{range}");
        assert!(ranges::not_public(last_inside).is_some(), "{last_inside}");
        assert_eq!(ranges::not_public(address(first_outside)), None, "{first_outside}");
    }
}

#[tokio::test]
async fn urls_have_a_length_and_names_a_time() {
    let public = guard(&usual(), script(&[&["93.184.215.14"]]));
    let of_length = |length: usize| format!("https://hooks.example.com/{}", "a".repeat(length - 26));
    assert!(public.check(&of_length(URL_BYTES_MAX)).await.is_ok());
    assert!(matches!(public.check(&of_length(URL_BYTES_MAX + 1)).await, Err(Refused::Url(_))));
    let long = format!("https://{}.example.com/", "a".repeat(64));
    assert!(matches!(public.check(&long).await, Err(Refused::Url(_))));
    let impatient = Outgoing { resolve_timeout: Duration::from_millis(1), ..usual() };
    let silent = guard(&impatient, Arc::new(Silence)).check("https://hooks.example.com/").await;
    assert!(matches!(silent, Err(Refused::NoAddress(_))), "{silent:?}");
    let many: Vec<String> = (0..=ADDRESSES_MAX).map(|last| format!("93.184.215.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let crowded = guard(&usual(), script(&[&many])).check("https://hooks.example.com/").await;
    assert!(matches!(crowded, Err(Refused::NoAddress(_))), "{crowded:?}");
}

#[tokio::test]
async fn only_what_the_operator_names_is_reachable_beside_public_addresses() {
    let open = guard(&open_to_loopback(), script(&[&["127.0.0.1"]]));
    for url in ["http://127.0.0.1:8080/", "https://127.0.0.2/", "http://hooks.example.com:81/", "http://localhost/"] {
        assert!(open.check(url).await.is_ok(), "{url}");
    }
    for url in ["http://10.0.0.1/", "http://169.254.169.254/", "http://[::1]/", "http://0177.0.0.1/"] {
        assert!(open.check(url).await.is_err(), "{url}");
    }
}

/// Answers every connection with a text, and says what it received.
async fn receiver(answer: &'static str) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (received, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut taken = Vec::new();
            while !taken.ends_with(b"!") {
                let mut piece = [0; 1024];
                match stream.read(&mut piece).await {
                    Ok(0) | Err(_) => break,
                    Ok(length) => taken.extend_from_slice(&piece[..length]),
                }
            }
            let _ = received.send(String::from_utf8_lossy(&taken).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, requests)
}

fn post(url: &str) -> Message<'_> {
    Message { method: Method::POST, url, headers: HeaderMap::new(), body: Bytes::from_static(b"hello!") }
}

#[tokio::test]
async fn a_name_that_shows_another_address_later_leads_nowhere() {
    let (address, mut requests) = receiver("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let url = format!("http://hooks.example.com:{}/", address.port());
    let settings = Outgoing { allow_http: true, ports: Vec::new(), ..usual() };
    let rebound = guard(&settings, script(&[&["93.184.215.14"], &["127.0.0.1"]]));
    rebound.check(&url).await.expect("it was public when it was checked");
    let refused = rebound.send(post(&url), 9).await.expect_err("it leads to this machine now");
    assert!(refused.to_string().contains("127.0.0.1, which is not a public address"), "{refused}");
    let mixed = guard(&settings, script(&[&["93.184.215.14", "127.0.0.1"]]));
    let refused = mixed.send(post(&url), 9).await.expect_err("one of its addresses is this machine's");
    assert!(refused.to_string().contains("not a public address"), "{refused}");
    let literal = format!("http://{address}/");
    assert!(matches!(rebound.send(post(&literal), 9).await, Err(Unsent::Refused(Refused::Address(..)))));
    assert!(requests.try_recv().is_err(), "nothing may have been received");
}

#[tokio::test]
async fn redirects_are_answers_and_bodies_are_cut() {
    let (address, mut requests) =
        receiver("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 10\r\n\r\n0123456789")
            .await;
    let open = guard(&open_to_loopback(), script(&[&["127.0.0.1"]]));
    let url = format!("http://hooks.example.com:{}/path", address.port());
    let answer = open.send(post(&url), 4).await.expect("an answer");
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::FOUND, &b"0123"[..]));
    let request = requests.recv().await.expect("a request").to_ascii_lowercase();
    assert!(request.starts_with("post /path http/1.1\r\n") && request.ends_with("\r\n\r\nhello!"), "{request}");
    assert!(request.contains(&format!("host: hooks.example.com:{}\r\n", address.port())), "{request}");
}

#[tokio::test]
async fn failures_do_not_repeat_the_url() {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
    let open = guard(&open_to_loopback(), script(&[&["127.0.0.1"]]));
    let url = format!("http://127.0.0.1:{port}/?token=canary");
    let failed = open.send(post(&url), 9).await.expect_err("nobody listens");
    assert!(failed.to_string().starts_with("no connection: "), "{failed}");
    assert!(!failed.to_string().contains("canary") && !format!("{open:?}").contains("canary"), "{failed}");
}

//! Signs requests to Amazon Bedrock ("AWS Signature Version 4 for API requests", AWS IAM user guide).

use super::headers::percent_encoded;
use filters::time::EpochMs;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The name of Bedrock's runtime in signatures.
const SERVICE: &str = "bedrock";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What each kind of key ends with.
const TERMINATOR: &str = "aws4_request";

/// Signs with one access key for one region.
pub(super) struct Signer {
    access_key_id: String,
    secret: String,
    session_token: Option<HeaderValue>,
    region: String,
}

/// What is signed of a request.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// As in the `host` header.
    pub(super) host: &'a str,
    /// As it is sent.
    pub(super) path: &'a str,
    /// As it is sent, without the question mark; empty if there is none.
    pub(super) query: &'a str,
    /// The body, one piece after the other.
    pub(super) pieces: &'a [bytes::Bytes],
}

/// The headers that a signed request needs.
pub(super) struct Signature {
    pub(super) authorization: HeaderValue,
    /// `x-amz-date`.
    pub(super) date: HeaderValue,
    /// `x-amz-security-token`.
    pub(super) token: Option<HeaderValue>,
}

impl Signer {
    /// Takes `ID:SECRET` or `ID:SECRET:SESSION_TOKEN`; none if it is neither.
    pub(super) fn new(credential: &str, region: &str) -> Option<Self> {
        let (access_key_id, rest) = credential.split_once(':')?;
        let (secret, token) = rest.split_once(':').map_or((rest, None), |(secret, token)| (secret, Some(token)));
        let mut session_token = token.map(HeaderValue::from_str).transpose().ok()?;
        session_token.iter_mut().for_each(|token| token.set_sensitive(true));
        let (access_key_id, secret, region) = (access_key_id.to_owned(), secret.to_owned(), region.to_owned());
        Some(Self { access_key_id, secret, session_token, region })
    }

    /// The headers that make a request ours; none if what is signed can't be a header.
    pub(super) fn sign(&self, request: &Request<'_>, at: EpochMs) -> Option<Signature> {
        let mut body = Sha256::new();
        request.pieces.iter().for_each(|piece| body.update(piece));
        let body = hexadecimal(&body.finalize());
        self.sign_for(SERVICE, request, &body, &timestamp(at))
    }

    fn sign_for(&self, service: &str, request: &Request<'_>, body_hash: &str, time: &str) -> Option<Signature> {
        let (names, canonical) = self.canonical(request, body_hash, time)?;
        let day = time.get(..8)?;
        let scope = format!("{day}/{}/{service}/{TERMINATOR}", self.region);
        let hash = hexadecimal(&Sha256::digest(canonical.as_bytes()));
        let first = format!("AWS4{}", self.secret);
        let parts = [day, &self.region, service, TERMINATOR, &format!("{ALGORITHM}\n{time}\n{scope}\n{hash}")];
        let signature = parts.iter().try_fold(first.into_bytes(), |key, part| hmac(&key, part.as_bytes()))?;
        let signature = hexadecimal(&signature);
        let id = &self.access_key_id;
        let authorization =
            format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        let mut authorization = HeaderValue::from_str(&authorization).ok()?;
        authorization.set_sensitive(true);
        let date = HeaderValue::from_str(time).ok()?;
        Some(Signature { authorization, date, token: self.session_token.clone() })
    }

    /// The names of the headers that are signed, and the request in the form in which both sides hash it.
    fn canonical(&self, request: &Request<'_>, body_hash: &str, time: &str) -> Option<(&'static str, String)> {
        let Request { method, host, path, query, .. } = request;
        // The path is encoded once more, though it is sent encoded.
        let path = if path.is_empty() { "/".to_owned() } else { percent_encoded(path, b"/") };
        let query = canonical_query(query);
        let mut headers = format!("host:{host}\nx-amz-date:{time}\n");
        let mut names = "host;x-amz-date";
        if let Some(token) = &self.session_token {
            let _ = writeln!(headers, "x-amz-security-token:{}", token.to_str().ok()?);
            names = "host;x-amz-date;x-amz-security-token";
        }
        Some((names, format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{body_hash}")))
    }
}

/// Parameters in the order of their encoded names and values.
fn canonical_query(query: &str) -> String {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let encoded = |text: &str| percent_encoded(&percent_decoded(text), b"");
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn percent_decoded(text: &str) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (mut bytes, mut decoded) = (text.as_bytes(), Vec::with_capacity(text.len()));
    while let Some((first, rest)) = bytes.split_first() {
        let escaped = match rest {
            [high, low, ..] if *first == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        let (byte, length) = escaped.map_or((*first, 1), |(high, low)| ((high * 16 + low) as u8, 3));
        decoded.push(byte);
        bytes = &bytes[length..];
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hmac(key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    hmac.update(message);
    Some(hmac.finalize().into_bytes().to_vec())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A moment as `20150830T123600Z`.
fn timestamp(at: EpochMs) -> String {
    let seconds = at.0.div_euclid(1_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days are counted from the first of March of the year 0, so that leap days come last.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    /// 2015-08-30 12:36:00 UTC.
    const AT: EpochMs = EpochMs(1_440_938_160_000);

    fn signature(token: Option<&str>, (method, path, query): (&str, &str, &str)) -> (String, String) {
        let token = token.map(|token| format!(":{token}")).unwrap_or_default();
        let credential = format!("AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY{token}");
        let signer = Signer::new(&credential, "us-east-1").expect("a credential");
        let request = Request { method, host: "example.amazonaws.com", path, query, pieces: &[] };
        let signed = signer.sign_for("service", &request, EMPTY_HASH, &timestamp(AT)).expect("signed");
        let text = signed.authorization.to_str().expect("text").to_owned();
        let (before, signature) = text.rsplit_once("Signature=").expect("a signature");
        (before.to_owned(), signature.to_owned())
    }

    /// The cases of AWS's own test suite ("aws-sig-v4-test-suite") that sign the host and the date.
    #[test]
    fn the_published_cases_are_signed_as_published() {
        for (case, request, expected) in [
            ("get-vanilla", ("GET", "/", ""), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "get-vanilla-query-order-key-case",
                ("GET", "/", "Param2=value2&Param1=value1"),
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            ("post-vanilla", ("POST", "/", ""), "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            ("get-utf8", ("GET", "/ሴ", ""), "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        ] {
            let (before, signature) = signature(None, request);
            assert_eq!(signature, expected, "{case}");
            let scope = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, ";
            assert_eq!(before, format!("{scope}SignedHeaders=host;x-amz-date, "));
        }
    }

    /// "post-sts-header-before" of the same suite.
    #[test]
    fn a_session_token_is_signed() {
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let (before, signature) = signature(Some(token), ("POST", "/", ""));
        assert!(before.ends_with("SignedHeaders=host;x-amz-date;x-amz-security-token, "));
        assert_eq!(signature, "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead");
    }

    #[test]
    fn the_body_is_hashed_as_a_whole_and_the_service_is_bedrock() {
        let signer = Signer::new("AKIDEXAMPLE:secret", "eu-west-1").expect("a credential");
        let sign = |pieces: &[bytes::Bytes]| {
            let request = Request { method: "POST", host: "h", path: "/model/a%3A0/converse", query: "", pieces };
            signer.sign(&request, AT).expect("signed")
        };
        let text = |signed: Signature| signed.authorization.to_str().expect("text").to_owned();
        let whole = text(sign(&["{}".into()]));
        assert_eq!(text(sign(&["{".into(), "}".into()])), whole);
        assert_ne!(text(sign(&["{ }".into()])), whole);
        assert!(whole.contains("AKIDEXAMPLE/20150830/eu-west-1/bedrock/aws4_request"));
        let (_, canonical) = signer
            .canonical(
                &Request { method: "POST", host: "h", path: "/model/a%3A0:x", query: "b=%20&a", pieces: &[] },
                "x",
                "t",
            )
            .expect("canonical");
        assert!(canonical.starts_with("POST\n/model/a%253A0%3Ax\na=&b=%20\nhost:h\n"), "{canonical}");
    }

    #[test]
    fn moments_are_written_as_aws_has_them() {
        for (at, text) in [
            (0, "19700101T000000Z"),
            (951_782_399_999, "20000228T235959Z"),
            (951_782_400_000, "20000229T000000Z"),
            (1_709_251_199_000, "20240229T235959Z"),
            (1_798_761_599_000, "20261231T235959Z"),
        ] {
            assert_eq!(timestamp(EpochMs(at)), text);
        }
    }

    #[test]
    fn a_credential_has_two_or_three_parts() {
        assert!(Signer::new("AKID", "r").is_none());
        let of = |text: &str| Signer::new(text, "r").expect("a credential");
        assert_eq!(of("a:b").session_token, None);
        assert_eq!(of("a:b:c").session_token, Some(HeaderValue::from_static("c")));
    }
}

//! The chunks of a stream are alike but for the text in them: what one was found to be, the next is, as far as it has the same
//! bytes in the same places. Comparing them takes a small part of the time that looking for members does.

use super::string_bytes;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// The beginning of a random string by which OpenAI makes chunks differ in length.
static PADDING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"obfuscation\":\""));

/// A chunk without its text, and without its padding if it has some.
#[derive(Debug, Default)]
pub(super) struct Likeness {
    pieces: Vec<u8>,
    /// Where each piece ends.
    ends: Vec<usize>,
}

impl Likeness {
    /// Takes the likeness of a chunk whose text begins at `at`, behind its quote. Text and padding are all that a chunk like it
    /// may have other than this one.
    pub(super) fn take(&mut self, chunk: &[u8], at: usize) {
        self.pieces.clear();
        self.ends.clear();
        self.add(&chunk[..at]);
        let rest = after_string(&chunk[at..]);
        match PADDING.find(rest) {
            Some(padding) => {
                let (before, padding) = rest.split_at(padding + PADDING.needle().len());
                self.add(before);
                self.add(after_string(padding));
            }
            None => self.add(rest),
        }
    }

    fn add(&mut self, piece: &[u8]) {
        self.pieces.extend_from_slice(piece);
        self.ends.push(self.pieces.len());
    }

    /// Bytes of the text of a chunk like this one; none if it is not like this one.
    pub(super) fn text_bytes(&self, chunk: &[u8]) -> Option<u64> {
        let (&first, others) = self.ends.split_first()?;
        let rest = chunk.strip_prefix(&self.pieces[..first])?;
        let text = string_bytes(rest);
        let (mut rest, mut begin) = (rest, first);
        for &end in others {
            rest = after_string(rest).strip_prefix(&self.pieces[begin..end])?;
            begin = end;
        }
        rest.is_empty().then_some(text)
    }
}

/// What comes behind a string, from its closing quote on.
fn after_string(text: &[u8]) -> &[u8] {
    text.get(string_bytes(text) as usize..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like(chunk: &str) -> Likeness {
        let mut likeness = Likeness::default();
        likeness.take(chunk.as_bytes(), chunk.find("content\":\"").expect("a text") + 10);
        likeness
    }

    #[test]
    fn nothing_is_like_nothing() {
        assert_eq!(["", "{}"].map(|chunk| Likeness::default().text_bytes(chunk.as_bytes())), [None, None]);
    }

    #[test]
    fn a_chunk_with_another_text_is_alike_and_no_other_is() {
        let likeness = like(r#"{"id":7,"delta":{"content":"Hi"},"usage":null}"#);
        let text = |chunk: &str| likeness.text_bytes(chunk.as_bytes());
        assert_eq!(text(r#"{"id":7,"delta":{"content":"Hello"},"usage":null}"#), Some(5));
        assert_eq!(text(r#"{"id":7,"delta":{"content":""},"usage":null}"#), Some(0));
        assert_eq!(text(r#"{"id":7,"delta":{"content":"\"},\"usage\":null}"},"usage":null}"#), Some(19));
        for other in [
            r#"{"id":8,"delta":{"content":"Hi"},"usage":null}"#,
            r#"{"id":7,"delta":{"content":"Hi"},"usage":{}}"#,
            r#"{"id":7,"delta":{"content":"Hi","refusal":"No"},"usage":null}"#,
            r#"{"id":7,"delta":{"content":"Hi"},"usage":null} "#,
            r#"{"id":7,"delta":{"content":"Hi"},"usage":null"#,
            r#"{"id":7,"delta":{"content":"Hi"#,
            r#"{"id":7,"delta":{"content":"Hi\"#,
            r#"{"id":7,"delta":{"cont"#,
        ] {
            assert_eq!(text(other), None, "{other}");
        }
    }

    #[test]
    fn padding_may_differ() {
        let likeness = like(r#"{"delta":{"content":"Hi"},"obfuscation":"abc","usage":null}"#);
        let text = |chunk: &str| likeness.text_bytes(chunk.as_bytes());
        assert_eq!(text(r#"{"delta":{"content":"Hello"},"obfuscation":"0123456","usage":null}"#), Some(5));
        assert_eq!(text(r#"{"delta":{"content":"Hello"},"obfuscation":"0123456","usage":{}}"#), None);
        assert_eq!(text(r#"{"delta":{"content":"Hello"},"usage":null}"#), None);
    }
}

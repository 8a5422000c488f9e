//! Finds a few top-level members of a JSON answer while it passes, in constant memory and whatever the chunks.

use memchr::memchr2;

/// A member's value longer than this is not kept; no usage object is.
const VALUE_BYTES_MAX: usize = 16 * 1024;
/// A member's name longer than this is none of ours.
const NAME_BYTES_MAX: usize = 32;

/// Keeps the text of the top-level members `usage`, `service_tier` and `error`. Of duplicates the last wins.
#[derive(Debug, Default)]
pub struct AnswerScanner {
    depth: u32,
    string: Option<StringKind>,
    escaped: bool,
    expects_name: bool,
    name: Vec<u8>,
    /// The member whose value is being kept, and the value so far.
    wanted: Option<Member>,
    value: Vec<u8>,
    found: Found,
    bytes: u64,
}

/// What the string that is being read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StringKind {
    /// The name of a top-level member.
    Name,
    /// Anything else.
    Value,
}

/// The members found so far, as JSON text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// `usage`.
    pub usage: Option<Vec<u8>>,
    /// `service_tier`.
    pub service_tier: Option<Vec<u8>>,
    /// `error`.
    pub error: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum Member {
    Usage,
    ServiceTier,
    Error,
}

impl Member {
    fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"usage" => Some(Self::Usage),
            b"service_tier" => Some(Self::ServiceTier),
            b"error" => Some(Self::Error),
            _ => None,
        }
    }
}

impl AnswerScanner {
    /// Reads the next chunk.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        let mut at = 0;
        while at < chunk.len() {
            at = match self.string {
                Some(kind) => self.read_string(kind, chunk, at),
                None => self.read_structure(chunk, at),
            };
        }
    }

    /// Bytes read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was found.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    fn read_string(&mut self, kind: StringKind, chunk: &[u8], from: usize) -> usize {
        if self.escaped {
            self.escaped = false;
            self.keep(kind, &chunk[from..=from]);
            return from + 1;
        }
        let Some(offset) = memchr2(b'"', b'\\', &chunk[from..]) else {
            self.keep(kind, &chunk[from..]);
            return chunk.len();
        };
        let end = from + offset;
        if chunk[end] == b'\\' {
            self.escaped = true;
            self.keep(kind, &chunk[from..=end]);
            return end + 1;
        }
        self.string = None;
        // The closing quote is part of a value and not of a name.
        self.keep(kind, &chunk[from..end + usize::from(kind == StringKind::Value)]);
        end + 1
    }

    fn read_structure(&mut self, chunk: &[u8], at: usize) -> usize {
        let byte = chunk[at];
        match byte {
            b'"' if self.expects_name => {
                self.expects_name = false;
                self.name.clear();
                self.string = Some(StringKind::Name);
            }
            b'"' => {
                self.string = Some(StringKind::Value);
                self.keep(StringKind::Value, b"\"");
            }
            b'{' | b'[' => {
                self.keep(StringKind::Value, &[byte]);
                self.depth += 1;
                self.expects_name = self.depth == 1 && byte == b'{';
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.end_value();
                }
                self.keep(StringKind::Value, &[byte]);
            }
            b':' if self.depth == 1 => {
                self.wanted = Member::named(&self.name);
                self.value.clear();
            }
            b',' if self.depth == 1 => {
                self.end_value();
                self.expects_name = true;
            }
            _ => self.keep(StringKind::Value, &[byte]),
        }
        at + 1
    }

    fn keep(&mut self, kind: StringKind, bytes: &[u8]) {
        if kind == StringKind::Name {
            // Names of ours are short; what is cut off only must not become one of them.
            let room = NAME_BYTES_MAX.saturating_sub(self.name.len());
            self.name.extend_from_slice(&bytes[..bytes.len().min(room)]);
        } else if self.wanted.is_some() {
            self.value.extend_from_slice(bytes);
            if self.value.len() > VALUE_BYTES_MAX {
                self.wanted = None;
                self.value = Vec::new();
            }
        }
    }

    fn end_value(&mut self) {
        let Some(member) = self.wanted.take() else { return };
        let value = std::mem::take(&mut self.value);
        if value.trim_ascii() == b"null" {
            return;
        }
        match member {
            Member::Usage => self.found.usage = Some(value),
            Member::ServiceTier => self.found.service_tier = Some(value),
            Member::Error => self.found.error = Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str, step: usize) -> Found {
        let mut scanner = AnswerScanner::default();
        text.as_bytes().chunks(step).for_each(|chunk| scanner.feed(chunk));
        scanner.found().clone()
    }

    #[test]
    fn top_level_members_are_found_first_or_last_in_any_chunks() {
        let filler = "x\\\"},{\\\"usage\\\":1".repeat(100);
        for text in [
            format!(r#"{{"usage":{{"a":[1,{{"b":"}}"}}]}},"service_tier" : "flex","choices":["{filler}"]}}"#),
            format!(
                r#"  {{"choices":[{{"usage":7,"t":"{filler}"}}],"usage":{{"a":[1,{{"b":"}}"}}]}}, "service_tier": "flex"}}"#
            ),
        ] {
            for step in [1, 2, 3, 7, text.len()] {
                let found = found(&text, step);
                assert_eq!(found.usage.as_deref(), Some(br#"{"a":[1,{"b":"}"}]}"#.as_slice()), "{step}");
                assert_eq!(found.service_tier.expect("a tier").trim_ascii(), b"\"flex\"");
            }
        }
    }

    #[test]
    fn of_duplicates_the_last_wins_and_null_is_nothing() {
        assert_eq!(
            found(r#"{"usage":1,"usage":2,"usage":null,"error":null}"#, 9),
            Found { usage: Some(b"2".to_vec()), ..Found::default() }
        );
        assert_eq!(found(r#"[{"usage":1}]"#, 9), Found::default());
        assert_eq!(found("<html>\"usage\":1</html>", 9), Found::default());
    }

    #[test]
    fn a_value_that_is_too_long_is_not_kept() {
        let text = format!(r#"{{"error":"{}","usage":1}}"#, "x".repeat(VALUE_BYTES_MAX));
        assert_eq!(found(&text, 100), Found { usage: Some(b"1".to_vec()), ..Found::default() });
    }

    proptest! {
        #[test]
        fn the_scanner_agrees_with_serde_json(words in ".*", count in any::<u32>(), step in 1usize..50) {
            let value = serde_json::json!({"choices": [{"message": {"content": words, "usage": words}}], "usage": {"n": count, "w": words}, "z": words});
            let usage = found(&value.to_string(), step).usage;
            let usage = usage.map(|text| serde_json::from_slice::<serde_json::Value>(&text).expect("JSON"));
            prop_assert_eq!(usage.as_ref(), Some(&value["usage"]).filter(|usage| usage.to_string().len() <= VALUE_BYTES_MAX));
        }
    }
}

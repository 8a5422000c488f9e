//! The words of the simulated model: the same prompt always gets the same reply, and one word is one token.

use bytes::{BufMut, BytesMut};

/// A reply to anything but `count …` has 8 to 40 tokens.
const PROSE_TOKENS_MIN: u64 = 8;
const PROSE_TOKENS_MAX: u64 = 40;
/// A unary reply is built in memory: about 7 MB at this size, above every model's output limit.
const REPLY_TOKENS_MAX: u64 = 1_000_000;

/// Written as it stands in the JSON of the answer: to a scanner that is not careful it looks like usage.
const USAGE_LOOKALIKE: &str = r#"\"usage\":{\"prompt_tokens\":999999}"#;
const ARGUMENTS_OPENING: &str = r#"{\"input\":\""#;
const ARGUMENTS_CLOSING: &str = r#"\"}"#;

const WORDS: [&str; 32] = [
    "a",
    "gate",
    "on",
    "the",
    "road",
    "counts",
    "each",
    "cart",
    "that",
    "passes",
    "and",
    "takes",
    "its",
    "toll",
    "once",
    "before",
    "dawn",
    "keeper",
    "writes",
    "every",
    "coin",
    "in",
    "book",
    "so",
    "no",
    "traveller",
    "pays",
    "twice",
    "or",
    "slips",
    "by",
    "unseen",
];

/// What the simulated model makes of the last user message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prompt {
    /// A fingerprint of the text: it chooses the reply's words, length and id.
    pub(super) seed: u64,
    /// The text begins with `count `: the reply fills the output limit exactly.
    pub(super) counts: bool,
}

impl Prompt {
    pub(super) fn new(text: &str) -> Self {
        Self { counts: text.starts_with("count "), ..Self::of_bytes(text.as_bytes()) }
    }

    /// A prompt that is no text, and never counts.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        let fingerprint = u64::from(crc32fast::hash(bytes));
        Self { seed: mix(fingerprint << 32 | bytes.len() as u64), counts: false }
    }
}

/// One choice's worth of output, made piece by piece; a piece is one token.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) tokens: u64,
    /// The output limit ended it.
    pub(super) is_cut: bool,
    script: Script,
    imitates_usage: bool,
}

#[derive(Clone, Copy, Debug)]
enum Script {
    Count,
    Prose { seed: u64 },
    Arguments { seed: u64, tokens_wanted: u64 },
}

impl Reply {
    pub(super) fn text(prompt: Prompt, output_limit: u64, imitates_usage: bool) -> Self {
        let tokens_wanted = if prompt.counts { u64::MAX } else { tokens_wanted(prompt) };
        let script = if prompt.counts { Script::Count } else { Script::Prose { seed: prompt.seed } };
        Self::within(output_limit, tokens_wanted, script, imitates_usage)
    }

    /// The arguments of a tool call, `{"input":"…"}`.
    pub(super) fn arguments(prompt: Prompt, output_limit: u64) -> Self {
        let tokens_wanted = tokens_wanted(prompt);
        let script = Script::Arguments { seed: prompt.seed, tokens_wanted };
        Self::within(output_limit, tokens_wanted, script, false)
    }

    fn within(output_limit: u64, tokens_wanted: u64, script: Script, imitates_usage: bool) -> Self {
        let tokens = tokens_wanted.min(output_limit).min(REPLY_TOKENS_MAX);
        Self { tokens, is_cut: tokens < tokens_wanted, script, imitates_usage }
    }

    /// Appends the piece at `index`, escaped as the inside of a JSON string.
    pub(super) fn write_piece(&self, index: u64, buffer: &mut BytesMut) {
        match self.script {
            Script::Count | Script::Prose { .. } if index == 0 && self.imitates_usage => {
                buffer.put_slice(USAGE_LOOKALIKE.as_bytes());
            }
            Script::Count => {
                if index > 0 {
                    buffer.put_u8(b' ');
                }
                put_number(buffer, index + 1);
            }
            Script::Prose { seed } => put_word(buffer, seed, index),
            Script::Arguments { .. } if index == 0 => buffer.put_slice(ARGUMENTS_OPENING.as_bytes()),
            Script::Arguments { tokens_wanted, .. } if index + 1 == tokens_wanted => {
                buffer.put_slice(ARGUMENTS_CLOSING.as_bytes());
            }
            Script::Arguments { seed, .. } => put_word(buffer, seed, index - 1),
        }
    }

    pub(super) fn write_all(&self, buffer: &mut BytesMut) {
        for index in 0..self.tokens {
            self.write_piece(index, buffer);
        }
    }

    /// Appends only what stands inside the quotes of the `input` argument, where a protocol writes arguments as an object.
    pub(super) fn write_argument(&self, buffer: &mut BytesMut) {
        if let Script::Arguments { seed, tokens_wanted } = self.script {
            for word in 1..self.tokens.min(tokens_wanted - 1) {
                put_word(buffer, seed, word - 1);
            }
        }
    }
}

fn tokens_wanted(prompt: Prompt) -> u64 {
    PROSE_TOKENS_MIN + prompt.seed % (PROSE_TOKENS_MAX - PROSE_TOKENS_MIN + 1)
}

fn put_word(buffer: &mut BytesMut, seed: u64, index: u64) {
    if index > 0 {
        buffer.put_u8(b' ');
    }
    let choice = mix(seed ^ index) % WORDS.len() as u64;
    buffer.put_slice(WORDS[choice as usize].as_bytes());
}

/// Appends a number in decimal, without the formatting machinery: it is on the path of each event.
pub(super) fn put_number(buffer: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    buffer.put_slice(&digits[first..]);
}

/// Spreads close numbers far apart (the finaliser of SplitMix64).
pub(super) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply) -> String {
        let mut buffer = BytesMut::new();
        reply.write_all(&mut buffer);
        String::from_utf8(buffer.to_vec()).expect("words are ASCII")
    }

    #[test]
    fn count_fills_the_limit() {
        let reply = Reply::text(Prompt::new("count to ten"), 5, false);
        assert_eq!(written(&reply), "1 2 3 4 5");
        assert!(reply.is_cut);
    }

    #[test]
    fn prose_is_deterministic_and_one_word_a_token() {
        let reply = Reply::text(Prompt::new("hello"), 256, false);
        assert_eq!(written(&reply), written(&Reply::text(Prompt::new("hello"), 256, false)));
        assert_eq!(written(&reply).split(' ').count() as u64, reply.tokens);
        assert!((PROSE_TOKENS_MIN..=PROSE_TOKENS_MAX).contains(&reply.tokens));
        assert!(!reply.is_cut);
    }

    #[test]
    fn prose_is_cut_by_the_limit() {
        let reply = Reply::text(Prompt::new("hello"), 3, false);
        assert_eq!((reply.tokens, reply.is_cut), (3, true));
    }

    #[test]
    fn arguments_are_json_in_a_json_string() {
        let reply = Reply::arguments(Prompt::new("hello"), 256);
        let text: String = serde_json::from_str(&format!("\"{}\"", written(&reply))).expect("a JSON string");
        let arguments: serde_json::Value = serde_json::from_str(&text).expect("JSON in it");
        assert!(arguments["input"].is_string(), "{text}");
    }

    #[test]
    fn usage_lookalike_counts_as_one_token() {
        let reply = Reply::text(Prompt::new("count "), 3, true);
        assert_eq!(written(&reply), r#"\"usage\":{\"prompt_tokens\":999999} 2 3"#);
    }

    #[test]
    fn numbers_are_decimal() {
        let mut buffer = BytesMut::new();
        for number in [0, 9, 10, u64::MAX] {
            put_number(&mut buffer, number);
            buffer.put_u8(b' ');
        }
        assert_eq!(&buffer[..], b"0 9 10 18446744073709551615 ");
    }
}

//! What the meter must make of a record.
//!
//! The index gives totals and parts as providers name them; the meter counts kinds of which none is inside another. So a
//! part is compared with its kind, and a total with the sum of its kinds. Where a record's own figures can't be kinds that
//! are beside each other, that is noted, and as much is compared as can be true.

use super::record::Record;
use filters::dialect::Dialect;
use filters::usage::{Kind, Usage};

/// What is expected of the meter.
pub(crate) struct Expected {
    /// The figures; none if there are none.
    pub(crate) usage: Option<Figures>,
    /// What the answer's headers said, which the corpus does not keep.
    pub(crate) told: Option<Usage>,
    /// What is to be known of the comparison.
    pub(crate) notes: Vec<&'static str>,
}

/// Figures of the index, those that it has.
#[derive(Default)]
pub(crate) struct Figures {
    input_total: Option<u64>,
    output_total: Option<u64>,
    parts: Vec<(&'static [Kind], u64)>,
    /// How much less than its figure a part may be, since another part has the same tokens.
    slack: [u64; 2],
}

/// The dialect of a record, or why it is not compared.
pub(crate) fn dialect(record: &Record) -> Result<Dialect, String> {
    if let Some(reason) = &record.ambiguous {
        return Err(format!("ambiguous: {reason}"));
    }
    if record.format == "ndjson" {
        return Err(format!("no route of ours speaks {} in lines of JSON", record.api));
    }
    let dialect = match record.api.as_str() {
        "openai.chat" => Dialect::OpenaiChat,
        "openai.responses" => Dialect::OpenaiResponses,
        "openai.completions" => Dialect::OpenaiCompletions,
        "openai.embeddings" => Dialect::OpenaiEmbeddings,
        "openai.images" => Dialect::OpenaiImages,
        "openai.speech" => Dialect::OpenaiSpeech,
        "openai.transcription" => Dialect::OpenaiTranscription,
        "openai.moderations" => Dialect::OpenaiModerations,
        "anthropic.messages" => Dialect::Anthropic,
        "gemini.generateContent" => Dialect::GeminiGenerate,
        "gemini.embed" => Dialect::GeminiEmbed,
        "cohere.chat" => Dialect::CohereChat,
        "cohere.embed" => Dialect::CohereEmbed,
        "cohere.rerank" => Dialect::CohereRerank,
        "bedrock.converse" => Dialect::BedrockConverse,
        "bedrock.invoke" => Dialect::BedrockInvoke,
        "count_tokens" => Dialect::AnthropicCount,
        api => return Err(format!("no route of ours speaks {api}")),
    };
    Ok(dialect)
}

impl Expected {
    /// What is expected of this record.
    pub(crate) fn of(record: &Record) -> Self {
        let mut notes = Vec::new();
        if !record.has_usage {
            return Self { usage: None, told: None, notes };
        }
        let figures = Figures::of(record, &mut notes);
        // Bedrock says in headers what a body of these families does not, and a body says nothing of tokens then.
        let says_nothing = || {
            let names: [&[u8]; 5] = [b"TokenCount\"", b"token_count\"", b"\"usage\"", b"\"tokens\"", b"billed_units"];
            !names.iter().any(|name| contains(&record.body, name))
        };
        let told = (record.api == "bedrock.invoke" && record.format == "json" && says_nothing()).then(|| {
            notes.push("the figures stand in headers, which are told to the meter");
            Usage::of(record.figure("input").unwrap_or(0), record.figure("output").unwrap_or(0))
        });
        Self { usage: Some(figures), told, notes }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

impl Figures {
    fn of(record: &Record, notes: &mut Vec<&'static str>) -> Self {
        let get = |name: &str| record.figure(name);
        let mut figures =
            Self { input_total: get("input_total"), output_total: get("output_total"), ..Self::default() };
        if record.api.starts_with("cohere.") {
            // Cohere bills less than the model reads, and nothing for what it has cached.
            figures.input_total = get("billed_input").or(figures.input_total);
            figures.output_total = get("billed_output").or(figures.output_total);
            notes.extend(get("billed_input").map(|_| "what is billed counts"));
        } else {
            figures.part(&[Kind::CacheRead], get("cached_read"));
            figures.part(&[Kind::CacheWrite5m, Kind::CacheWrite1h], get("cache_write"));
            let (minutes, hour) = (get("cache_write_5m"), get("cache_write_1h"));
            if get("cache_write") == minutes.zip(hour).map(|(minutes, hour)| minutes + hour) {
                figures.part(&[Kind::CacheWrite5m], minutes);
            } else if minutes.is_some() {
                notes.push("more was written to the cache than the split, which is of the beginning, says");
            }
            figures.part(&[Kind::CacheWrite1h], hour);
        }
        for (kind, name) in [
            (&[Kind::AudioInput], "audio_in"),
            (&[Kind::ImageInput], "image_in"),
            (&[Kind::Reasoning], "reasoning"),
            (&[Kind::AudioOutput], "audio_out"),
            (&[Kind::ImageOutput], "image_out"),
            (&[Kind::WebSearch], "web_search_requests"),
            (&[Kind::SearchUnits], "search_units"),
        ] {
            figures.part(kind, get(name));
        }
        figures.part(&[Kind::AudioMilliseconds], record.milliseconds("seconds"));
        figures.judge(record, notes);
        figures
    }

    fn part(&mut self, kinds: &'static [Kind], figure: Option<u64>) {
        self.parts.extend(figure.map(|figure| (kinds, figure)));
    }

    fn sum(&self, is_of: fn(Kind) -> bool) -> u64 {
        // The whole cache write is named beside its two halves.
        let is_half = |kinds: &[Kind]| matches!(kinds, [Kind::CacheWrite5m | Kind::CacheWrite1h]);
        self.parts.iter().filter(|(kinds, _)| is_of(kinds[0]) && !is_half(kinds)).map(|(_, figure)| figure).sum()
    }

    /// Sees whether the parts fit into their totals.
    fn judge(&mut self, record: &Record, notes: &mut Vec<&'static str>) {
        let audio = record.figure("audio_in").unwrap_or(0);
        let (input, output) = (self.input_total.unwrap_or(0), self.output_total.unwrap_or(0));
        if audio > 0 && record.figure("total").is_some_and(|total| total == input + output + audio) {
            notes.push("its sum says that the sound stands beside the input");
            self.input_total = Some(input + audio);
        }
        let totals = [self.input_total, self.output_total];
        let sums = [self.sum(Kind::is_input), self.sum(Kind::is_output)];
        for (slack, (sum, total)) in self.slack.iter_mut().zip(sums.into_iter().zip(totals)) {
            if sum > total.unwrap_or(0) && total.is_some() {
                notes.push("its parts are more than their total: they overlap or contradict it");
                *slack = u64::MAX;
            }
        }
        if record.api == "gemini.generateContent" {
            // Cached pictures and sounds are counted as cached.
            self.slack[0] = self.slack[0].max(record.figure("cached_read").unwrap_or(0));
        }
    }

    /// What differs.
    pub(crate) fn compare(&self, usage: &Usage) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, expected, found) in
            [("input", self.input_total, usage.input_total()), ("output", self.output_total, usage.output_total())]
        {
            if expected.is_some_and(|expected| expected != found) {
                faults.push(format!("the {name} is {found} and not {expected:?} of {usage:?}"));
            }
        }
        for (kinds, expected) in &self.parts {
            let found: u64 = kinds.iter().map(|kind| usage.get(*kind)).sum();
            let may_overlap = kinds[0].is_input() && *kinds != [Kind::CacheRead]
                || self.slack[usize::from(kinds[0].is_output())] == u64::MAX;
            let slack = if may_overlap { self.slack[usize::from(kinds[0].is_output())] } else { 0 };
            if found > *expected || found < expected.saturating_sub(slack) {
                faults.push(format!("{kinds:?} is {found} and not {expected} of {usage:?}"));
            }
        }
        faults
    }
}

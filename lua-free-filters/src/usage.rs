//! What a call used, by kind, every kind beside the others and none inside another. Most are tokens; the others are what
//! providers bill by where they count no tokens. A meter reports tokens or those, never both for the same thing.

/// A kind of thing that is counted and priced. The kinds are disjoint: a cached token is not an `Input` token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Kind {
    /// Input text that was neither read from nor written to a cache.
    Input,
    /// Input read from the provider's cache.
    CacheRead,
    /// Input written to the provider's cache for five minutes (or where the provider has one lifetime only).
    CacheWrite5m,
    /// Input written to the provider's cache for an hour.
    CacheWrite1h,
    /// Input heard.
    AudioInput,
    /// Input seen, where the provider reports it apart.
    ImageInput,
    /// Output text.
    Output,
    /// Output thought but not shown, where the provider reports it.
    Reasoning,
    /// Output spoken.
    AudioOutput,
    /// Output drawn.
    ImageOutput,
    /// Searches that the provider ran, each billed by itself.
    WebSearch,
    /// Pictures made, each, where the provider reports no tokens for them.
    Images,
    /// Sound heard (or spoken, by a model that speaks), in milliseconds, where its length is billed. Providers say seconds; what
    /// is left of a millisecond counts whole.
    AudioMilliseconds,
    /// Characters of text that were spoken, where the text is billed.
    Characters,
    /// Searches and rankings as Cohere bills them (`billed_units.search_units`).
    SearchUnits,
}

impl Kind {
    /// Every kind, in the order in which records and tables keep them.
    pub const ALL: [Self; 15] = [
        Self::Input,
        Self::CacheRead,
        Self::CacheWrite5m,
        Self::CacheWrite1h,
        Self::AudioInput,
        Self::ImageInput,
        Self::Output,
        Self::Reasoning,
        Self::AudioOutput,
        Self::ImageOutput,
        Self::WebSearch,
        Self::Images,
        Self::AudioMilliseconds,
        Self::Characters,
        Self::SearchUnits,
    ];

    /// The kinds that are not tokens, in their order.
    pub const UNITS: [Self; 5] =
        [Self::WebSearch, Self::Images, Self::AudioMilliseconds, Self::Characters, Self::SearchUnits];

    /// The name in metrics and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CacheRead => "cache_read",
            Self::CacheWrite5m => "cache_write_5m",
            Self::CacheWrite1h => "cache_write_1h",
            Self::AudioInput => "audio_input",
            Self::ImageInput => "image_input",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
            Self::AudioOutput => "audio_output",
            Self::ImageOutput => "image_output",
            Self::WebSearch => "web_search",
            Self::Images => "images",
            Self::AudioMilliseconds => "audio_milliseconds",
            Self::Characters => "characters",
            Self::SearchUnits => "search_units",
        }
    }

    /// Whether it is counted in tokens, those of the input or those of the output.
    #[must_use]
    pub fn is_token(self) -> bool {
        self.is_input() || self.is_output()
    }

    /// Whether it is a token of the input.
    #[must_use]
    pub fn is_input(self) -> bool {
        self.side() == Some(Side::Input)
    }

    /// Whether it is a token of the output.
    #[must_use]
    pub fn is_output(self) -> bool {
        self.side() == Some(Side::Output)
    }

    fn side(self) -> Option<Side> {
        match self {
            Self::Input
            | Self::CacheRead
            | Self::CacheWrite5m
            | Self::CacheWrite1h
            | Self::AudioInput
            | Self::ImageInput => Some(Side::Input),
            Self::Output | Self::Reasoning | Self::AudioOutput | Self::ImageOutput => Some(Side::Output),
            Self::WebSearch | Self::Images | Self::AudioMilliseconds | Self::Characters | Self::SearchUnits => None,
        }
    }
}

/// Where a token was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Input,
    Output,
}

/// Counts by kind. Sums of kinds are the provider's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// One count per [`Kind`], in the order of [`Kind::ALL`].
    pub counts: [u64; Kind::ALL.len()],
}

impl Usage {
    /// A usage of plain input and output tokens only.
    #[must_use]
    pub fn of(input: u64, output: u64) -> Self {
        Self::default().with(Kind::Input, input).with(Kind::Output, output)
    }

    /// The count of one kind.
    #[must_use]
    pub fn get(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    /// The same usage with one kind's count replaced.
    #[must_use]
    pub fn with(mut self, kind: Kind, count: u64) -> Self {
        self.counts[kind as usize] = count;
        self
    }

    /// All input tokens, cached ones and written ones among them.
    #[must_use]
    pub fn input_total(&self) -> u64 {
        self.sum(Kind::is_input)
    }

    /// All output tokens, hidden ones among them.
    #[must_use]
    pub fn output_total(&self) -> u64 {
        self.sum(Kind::is_output)
    }

    /// Input and output together: what a token rate counts.
    #[must_use]
    pub fn tokens_total(&self) -> u64 {
        self.input_total().saturating_add(self.output_total())
    }

    /// What this usage has of each kind that the other has not.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        Kind::ALL.iter().fold(*self, |rest, kind| rest.with(*kind, self.get(*kind).saturating_sub(other.get(*kind))))
    }

    fn sum(&self, wanted: fn(Kind) -> bool) -> u64 {
        let counts = Kind::ALL.iter().filter(|kind| wanted(**kind)).map(|kind| self.get(*kind));
        counts.fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_indexed_in_their_order() {
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }

    #[test]
    fn totals_take_every_kind_once() {
        let usage = Usage { counts: [1; Kind::ALL.len()] };
        assert_eq!((usage.input_total(), usage.output_total(), usage.tokens_total()), (6, 4, 10));
    }

    #[test]
    fn what_is_no_token_is_a_unit() {
        let units: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !kind.is_token()).collect();
        assert_eq!(units, Kind::UNITS);
    }
}

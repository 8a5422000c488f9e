//! What differs between protocols: one enum, one match per question.

/// A protocol that clients and providers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dialect {
    /// OpenAI chat completions.
    OpenaiChat = 1,
    /// Anthropic messages.
    Anthropic = 2,
}

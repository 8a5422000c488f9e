//! What the type of a tool says about its cost.

use crate::dialect::Dialect;

/// Who runs a tool, and who describes it to the model. The most costly kind is the greatest.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tool {
    /// The client does both.
    #[default]
    Described,
    /// The client runs it; the provider describes it, in text of its own.
    Known,
    /// The provider runs it and feeds the model what it finds; a search has a price in the catalogue.
    Server,
    /// The provider runs it at a price that the catalogue does not have.
    Unpriced,
}

impl Tool {
    /// The tool of a `type`, as in "Server tools" and "Client tools" of Anthropic's and `tools` of OpenAI's reference.
    pub(super) fn of_type(kind: &str, dialect: Dialect) -> Self {
        const KNOWN: [&str; 4] = ["bash_", "text_editor_", "computer_", "memory_"];
        const SERVER: [&str; 2] = ["web_search_2", "web_fetch_2"];
        let begins_as = |names: &[&str]| names.iter().any(|name| kind.starts_with(name));
        match kind {
            "function" | "custom" => Self::Described,
            "web_search" | "web_search_preview" | "web_search_preview_2025_03_11"
                if dialect == Dialect::OpenaiResponses =>
            {
                Self::Server
            }
            "computer" | "local_shell" | "apply_patch" if dialect == Dialect::OpenaiResponses => Self::Known,
            _ if begins_as(&SERVER) => Self::Server,
            _ if begins_as(&KNOWN) => Self::Known,
            _ => Self::Unpriced,
        }
    }
}

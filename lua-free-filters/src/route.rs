//! The routes that clients have: one table. `target` finds a path in it.

mod target;

pub use target::Target;

use crate::dialect::{Dialect, Protocol};
use crate::scope::Scope;

/// What a client asks for. The number of each is its place in [`TABLE`] and its byte in records: new ones are added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the table says what each of them is")]
pub enum Route {
    ChatCompletions = 1,
    Messages,
    Models,
    Key,
    Responses,
    Completions,
    Embeddings,
    ImageGenerations,
    ImageEdits,
    ImageVariations,
    Speech,
    Transcriptions,
    Translations,
    Moderations,
    CountTokens,
    GenerateContent,
    StreamGenerateContent,
    GeminiCountTokens,
    EmbedContent,
    BatchEmbedContents,
    CohereChat,
    CohereEmbed,
    CohereRerank,
    Converse,
    ConverseStream,
    Invoke,
    InvokeStream,
    Model,
    GeminiModels,
    GeminiModel,
    Response,
    ResponseCancel,
    ResponseInputItems,
    Files,
    File,
    FileContent,
    AnthropicFiles,
    AnthropicFile,
    AnthropicFileContent,
    Unmetered,
    Realtime,
    Control,
    CreditsEstimate,
    Passthrough,
}

/// What is done with a request of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handling {
    /// It tells a key about itself: no provider, no money.
    Inspect,
    /// It is a call of a model, paid for and metered, unless its dialect is free.
    Call,
    /// It is about something that a provider stores.
    Object,
    /// It becomes a session in which a model is called again and again.
    Session,
    /// It spends money without saying so in its answer.
    Unmetered,
    /// It is about organisations, keys or money: the control plane answers, and looks at its credential.
    Control,
    /// It is the affair of those who have a credential at the provider themselves.
    Passthrough,
}

/// Where a path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    /// `/v1`, `/api/v1`.
    V1,
    /// `/v1` where the request says `anthropic-version`.
    V1Anthropic,
    /// `/v1beta`, and `/v1` where the path is Gemini's.
    V1beta,
    /// `/v2`.
    V2,
    /// Nothing: Bedrock's paths.
    Bare,
}

impl Root {
    /// The path below the root.
    fn below(self, path: &str) -> Option<&str> {
        let path = path.strip_prefix("/api").unwrap_or(path);
        match self {
            Self::V1 | Self::V1Anthropic => path.strip_prefix("/v1"),
            Self::V1beta => path.strip_prefix("/v1beta").or_else(|| path.strip_prefix("/v1")),
            Self::V2 => path.strip_prefix("/v2"),
            Self::Bare => Some(path),
        }
    }
}

/// A row of the table.
struct Row {
    route: Route,
    /// The name in metrics, tables and logs.
    name: &'static str,
    methods: &'static [http::Method],
    root: Root,
    /// The path below the root, `{}` for the name of a model or of an object. A row that ends in `/**` has all below it.
    path: &'static str,
    dialect: Dialect,
    handling: Handling,
}

const GET: &[http::Method] = &[http::Method::GET];
const POST: &[http::Method] = &[http::Method::POST];
const GET_POST: &[http::Method] = &[http::Method::GET, http::Method::POST];
const GET_DELETE: &[http::Method] = &[http::Method::GET, http::Method::DELETE];
const ANY: &[http::Method] =
    &[http::Method::GET, http::Method::POST, http::Method::PATCH, http::Method::PUT, http::Method::DELETE];

const fn row(route: Route, name: &'static str, methods: &'static [http::Method], at: (Root, &'static str)) -> Row {
    let (root, path) = at;
    Row { route, name, methods, root, path, dialect: Dialect::OpenaiChat, handling: Handling::Call }
}

impl Row {
    const fn speaks(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    const fn handled(self, handling: Handling) -> Self {
        Self { handling, ..self }
    }
}

use Handling::{Control, Inspect, Object, Passthrough, Session, Unmetered};
use Root::{Bare, V1, V1Anthropic, V1beta, V2};

/// Every route, in the order of their numbers.
#[rustfmt::skip]
static TABLE: [Row; 44] = [
    row(Route::ChatCompletions, "chat_completions", POST, (V1, "/chat/completions")),
    row(Route::Messages, "messages", POST, (V1, "/messages")).speaks(Dialect::Anthropic),
    row(Route::Models, "models", GET, (V1, "/models")).handled(Inspect),
    row(Route::Key, "key", GET, (V1, "/key")).handled(Inspect),
    row(Route::Responses, "responses", POST, (V1, "/responses")).speaks(Dialect::OpenaiResponses),
    row(Route::Completions, "completions", POST, (V1, "/completions")).speaks(Dialect::OpenaiCompletions),
    row(Route::Embeddings, "embeddings", POST, (V1, "/embeddings")).speaks(Dialect::OpenaiEmbeddings),
    row(Route::ImageGenerations, "image_generations", POST, (V1, "/images/generations")).speaks(Dialect::OpenaiImages),
    row(Route::ImageEdits, "image_edits", POST, (V1, "/images/edits")).speaks(Dialect::OpenaiImages),
    row(Route::ImageVariations, "image_variations", POST, (V1, "/images/variations")).speaks(Dialect::OpenaiImages),
    row(Route::Speech, "speech", POST, (V1, "/audio/speech")).speaks(Dialect::OpenaiSpeech),
    row(Route::Transcriptions, "transcriptions", POST, (V1, "/audio/transcriptions")).speaks(Dialect::OpenaiTranscription),
    row(Route::Translations, "translations", POST, (V1, "/audio/translations")).speaks(Dialect::OpenaiTranscription),
    row(Route::Moderations, "moderations", POST, (V1, "/moderations")).speaks(Dialect::OpenaiModerations),
    row(Route::CountTokens, "count_tokens", POST, (V1, "/messages/count_tokens")).speaks(Dialect::AnthropicCount),
    row(Route::GenerateContent, "generate_content", POST, (V1beta, "/models/{}:generateContent")).speaks(Dialect::GeminiGenerate),
    row(Route::StreamGenerateContent, "stream_generate_content", POST, (V1beta, "/models/{}:streamGenerateContent")).speaks(Dialect::GeminiGenerate),
    row(Route::GeminiCountTokens, "gemini_count_tokens", POST, (V1beta, "/models/{}:countTokens")).speaks(Dialect::GeminiCount),
    row(Route::EmbedContent, "embed_content", POST, (V1beta, "/models/{}:embedContent")).speaks(Dialect::GeminiEmbed),
    row(Route::BatchEmbedContents, "batch_embed_contents", POST, (V1beta, "/models/{}:batchEmbedContents")).speaks(Dialect::GeminiEmbed),
    row(Route::CohereChat, "cohere_chat", POST, (V2, "/chat")).speaks(Dialect::CohereChat),
    row(Route::CohereEmbed, "cohere_embed", POST, (V2, "/embed")).speaks(Dialect::CohereEmbed),
    row(Route::CohereRerank, "cohere_rerank", POST, (V2, "/rerank")).speaks(Dialect::CohereRerank),
    row(Route::Converse, "converse", POST, (Bare, "/model/{}/converse")).speaks(Dialect::BedrockConverse),
    row(Route::ConverseStream, "converse_stream", POST, (Bare, "/model/{}/converse-stream")).speaks(Dialect::BedrockConverse),
    row(Route::Invoke, "invoke", POST, (Bare, "/model/{}/invoke")).speaks(Dialect::BedrockInvoke),
    row(Route::InvokeStream, "invoke_stream", POST, (Bare, "/model/{}/invoke-with-response-stream")).speaks(Dialect::BedrockInvoke),
    row(Route::Model, "model", GET, (V1, "/models/{}")).handled(Inspect),
    row(Route::GeminiModels, "gemini_models", GET, (V1beta, "/models")).speaks(Dialect::GeminiGenerate).handled(Inspect),
    row(Route::GeminiModel, "gemini_model", GET, (V1beta, "/models/{}")).speaks(Dialect::GeminiGenerate).handled(Inspect),
    row(Route::Response, "response", GET_DELETE, (V1, "/responses/{}")).speaks(Dialect::OpenaiResponses).handled(Object),
    row(Route::ResponseCancel, "response_cancel", POST, (V1, "/responses/{}/cancel")).speaks(Dialect::OpenaiResponses).handled(Object),
    row(Route::ResponseInputItems, "response_input_items", GET, (V1, "/responses/{}/input_items")).speaks(Dialect::OpenaiResponses).handled(Object),
    row(Route::Files, "files", GET_POST, (V1, "/files")).handled(Object),
    row(Route::File, "file", GET_DELETE, (V1, "/files/{}")).handled(Object),
    row(Route::FileContent, "file_content", GET, (V1, "/files/{}/content")).handled(Object),
    row(Route::AnthropicFiles, "anthropic_files", GET_POST, (V1Anthropic, "/files")).speaks(Dialect::Anthropic).handled(Object),
    row(Route::AnthropicFile, "anthropic_file", GET_DELETE, (V1Anthropic, "/files/{}")).speaks(Dialect::Anthropic).handled(Object),
    row(Route::AnthropicFileContent, "anthropic_file_content", GET, (V1Anthropic, "/files/{}/content")).speaks(Dialect::Anthropic).handled(Object),
    row(Route::Unmetered, "unmetered", ANY, (V1, "/**")).handled(Unmetered),
    row(Route::Realtime, "realtime", GET, (V1, "/realtime")).speaks(Dialect::OpenaiRealtime).handled(Session),
    row(Route::Control, "control", ANY, (Bare, "/**")).handled(Control),
    row(Route::CreditsEstimate, "credits_estimate", POST, (V1, "/credits/estimate")).handled(Inspect),
    row(Route::Passthrough, "passthrough", ANY, (Bare, "/**")).handled(Passthrough),
];

impl Row {
    fn at(&self, path: &str) -> Option<Target> {
        self.below(self.root.below(path)?)
    }

    fn below(&self, below: &str) -> Option<Target> {
        let name = match self.path.split_once("{}") {
            None => (below == self.path).then_some(None)?,
            Some((before, after)) => {
                let name = below.strip_prefix(before)?.strip_suffix(after)?;
                // A name is one part of the path, and `:` ends a model's in Gemini's paths.
                let ends = name.contains('/') || (self.root == V1beta && name.contains(':'));
                (!ends && !name.is_empty()).then_some(Some(Box::from(name)))?
            }
        };
        Some(Target { route: self.route, name, provider: None })
    }
}

impl Route {
    /// Every route.
    pub const ALL: [Self; 44] = {
        let mut all = [Self::ChatCompletions; 44];
        let mut place = 0;
        while place < all.len() {
            all[place] = TABLE[place].route;
            place += 1;
        }
        all
    };

    fn row(self) -> &'static Row {
        &TABLE[self as usize - 1]
    }

    /// The name in metrics, tables and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The route of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.route)
    }

    /// Its path as documents have it, `{model}` or `{id}` for a name in it.
    #[must_use]
    pub fn endpoint(self) -> String {
        let row = self.row();
        let root = match row.root {
            Root::V1 | Root::V1Anthropic => "/v1",
            Root::V1beta => "/v1beta",
            Root::V2 => "/v2",
            Root::Bare => "",
        };
        let name = if row.handling == Handling::Object { "{id}" } else { "{model}" };
        format!("{root}{}", row.path.replace("{}", name))
    }

    /// The methods that the route answers.
    #[must_use]
    pub fn methods(self) -> &'static [http::Method] {
        self.row().methods
    }

    /// What is done with its requests.
    #[must_use]
    pub fn handling(self) -> Handling {
        self.row().handling
    }

    /// The language of its requests and answers.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        self.row().dialect
    }

    /// The family of its protocol.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        self.dialect().protocol()
    }

    /// Whether the path itself says that the answer is to be a stream.
    #[must_use]
    pub fn is_streamed(self) -> bool {
        matches!(self, Self::StreamGenerateContent | Self::ConverseStream | Self::InvokeStream)
    }

    /// Whether the request's body is a form.
    #[must_use]
    pub fn is_form(self) -> bool {
        matches!(self, Self::ImageEdits | Self::ImageVariations | Self::Transcriptions | Self::Translations)
    }

    /// The scopes of which a key needs one; none: any key.
    #[must_use]
    pub fn scopes(self) -> &'static [Scope] {
        match self.handling() {
            Handling::Call | Handling::Object | Handling::Session | Handling::Unmetered | Handling::Passthrough => {
                &[Scope::ModelInvoke]
            }
            Handling::Control => &[],
            Handling::Inspect if self == Self::Key => &[],
            Handling::Inspect => &[Scope::ModelInvoke, Scope::InferenceRead],
        }
    }

    /// The route that a record's byte names.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|route| *route as u8 == byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_paths_without_names() {
        let endpoints = [Route::ChatCompletions, Route::GenerateContent, Route::Invoke, Route::ResponseCancel];
        let endpoints = endpoints.map(Route::endpoint);
        assert_eq!(endpoints[..2], ["/v1/chat/completions", "/v1beta/models/{model}:generateContent"]);
        assert_eq!(endpoints[2..], ["/model/{model}/invoke", "/v1/responses/{id}/cancel"]);
    }

    #[test]
    fn the_table_is_in_the_order_of_its_numbers() {
        for (route, row) in Route::ALL.into_iter().zip(&TABLE) {
            assert_eq!((row.route, route as usize), (route, row.route as usize));
            assert_eq!(Route::from_byte(route as u8), Some(route));
            assert_eq!(route.row().route, route);
            assert_eq!(Route::named(route.name()), Some(route));
        }
    }
}

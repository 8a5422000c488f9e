//! What a call would have set aside, without setting it aside.

use crate::admit;
use crate::catalogue::Catalogue;
use crate::denied::Denied;
use crate::key::Key;
use crate::money::NanoUsd;
use crate::request_head::{self, RequestHead};
use crate::reserve::{self, Allowances};
use crate::resolve;
use crate::route::{Route, Target};
use crate::time::EpochMs;
use serde::Deserialize;
use std::sync::Arc;

/// Routes whose bodies a question may have, in the order in which they are tried where it names none.
const ROUTES: [Route; 13] = [
    Route::ChatCompletions,
    Route::Messages,
    Route::GenerateContent,
    Route::CohereChat,
    Route::Converse,
    Route::Responses,
    Route::Completions,
    Route::Embeddings,
    Route::CohereEmbed,
    Route::ImageGenerations,
    Route::Speech,
    Route::Moderations,
    Route::CohereRerank,
];

/// What is asked: the body of a call, or a model and numbers of tokens.
#[derive(Debug, Deserialize)]
struct Question {
    model: String,
    endpoint: Option<String>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

/// What a call would have set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The model's name in the catalogue.
    pub model: Arc<str>,
    /// What is set aside: a bound where a strict limit holds, otherwise an estimate. None if nothing bounds the call, and a strict
    /// limit holds: then it is refused.
    pub cost: Option<NanoUsd>,
    /// What the call can't cost more than, if something bounds it.
    pub bound: Option<NanoUsd>,
    /// Whether a strict limit holds.
    pub is_strict: bool,
    /// Input tokens, as they are estimated.
    pub input_tokens: u64,
    /// Output tokens of all answers, as they are set aside.
    pub output_tokens: u64,
    /// The head of the call, for the client's own bound.
    pub head: Box<RequestHead>,
}

/// Who asks, and what there is.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The key that would call.
    pub key: &'a Key,
    /// The models.
    pub catalogue: &'a Catalogue,
    /// The operator's word on output limits.
    pub allowances: &'a Allowances,
    /// The present: prices are those of this moment.
    pub now: EpochMs,
}

impl Asked<'_> {
    /// Answers the question that a body is.
    pub fn estimate(&self, body: &[u8]) -> Result<Estimate, Denied> {
        let question: Question = serde_json::from_slice(body)
            .map_err(|error| Denied::InvalidRequest(format!("The request body is not as it should be: {error}.")))?;
        let target = self.target(&question)?;
        let is_of_tokens = question.input_tokens.is_some() || question.output_tokens.is_some();
        let head = match is_of_tokens {
            true => request_head::scan(body, target.route.dialect()),
            false => request_head::read(body, None, &target),
        }?;
        let named = if head.model.is_empty() { &question.model } else { &head.model };
        let (model, mut choices) = resolve::choose(self.key, self.catalogue, (named, &target), self.now)?;
        choices.iter_mut().for_each(|choice| choice.price = choice.price.for_picture(&head.picture));
        let is_strict = admit::is_strict(self.key, &model, self.now);
        if is_of_tokens {
            let (input, output) = (question.input_tokens.unwrap_or(0), question.output_tokens.unwrap_or(0));
            let cost = reserve::cost_of_tokens(&head, &model, &choices, (input, output));
            return Ok(Estimate {
                model: Arc::clone(&model.id),
                cost: Some(cost),
                bound: None,
                is_strict,
                input_tokens: input,
                output_tokens: output,
                head: Box::new(head),
            });
        }
        let need = reserve::need(&head, &model, &choices, self.allowances);
        Ok(Estimate {
            model: Arc::clone(&model.id),
            cost: if is_strict { need.bound } else { Some(need.estimate) },
            bound: need.bound,
            is_strict,
            input_tokens: need.input_tokens,
            output_tokens: need.output_allowance,
            head: Box::new(head),
        })
    }

    /// The route that is meant: the one that is named, or the first by which the key may call the model.
    fn target(&self, question: &Question) -> Result<Target, Denied> {
        let choose = |target: &Target| resolve::choose(self.key, self.catalogue, (&question.model, target), self.now);
        let Some(endpoint) = &question.endpoint else {
            let mut first_refusal = None;
            for route in ROUTES {
                match choose(&Target::of(route)) {
                    Ok(_) => return Ok(Target::of(route)),
                    Err(refused) => _ = first_refusal.get_or_insert(refused),
                }
            }
            return Err(first_refusal.unwrap_or(Denied::NotFound));
        };
        let target = Target::at(endpoint, false).filter(|target| ROUTES.contains(&target.route));
        target.map(|target| Target::of(target.route)).ok_or_else(|| {
            let sentence = "`endpoint` is not the path of a call whose body is JSON, such as /v1/chat/completions.";
            Denied::InvalidRequest(sentence.to_owned())
        })
    }
}

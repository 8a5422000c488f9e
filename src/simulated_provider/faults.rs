//! Faults by name: the list `name[=value], …` in the header `x-simulate`, after a `+` in the model's name, or for every
//! call in `Options::fault`.

use http::StatusCode;

const HUGE_EVENT_BYTES: u64 = 100_000_000;

/// How one call departs from a healthy answer. Later lists win over earlier ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) instead: Option<Instead>,
    pub(super) retry_after_s: Option<u64>,
    pub(super) script: ScriptFaults,
    pub(super) bill: BillFaults,
    pub(super) wire: WireFaults,
    pub(super) pace: Pace,
}

/// What the client gets in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Instead {
    Status(StatusCode),
    /// Status 200 with the protocol's error as a JSON body, though a stream was asked for.
    ErrorBody,
    Garbage,
    Html,
    Empty,
    /// Not even a header, for ever.
    Silence,
}

/// What is wrong with the events. A unary answer is one event; it fails as [`Instead::ErrorBody`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ScriptFaults {
    pub(super) error_event_after: Option<u64>,
    pub(super) huge_event_bytes: Option<u64>,
    /// The protocol's final event is left out.
    pub(super) no_done: bool,
    pub(super) usage_in_text: bool,
    /// The final event tells of a failure, with its usage (only OpenAI's responses have such an event).
    pub(super) fails: bool,
    /// The least size of a picture.
    pub(super) image_bytes: u64,
    /// How often a background response is asked after before it is complete.
    pub(super) polls: Option<u64>,
}

/// What is odd about the usage. Cached tokens are within the input; sounds and pictures come on top.
#[derive(Clone, Debug, Default)]
pub(super) struct BillFaults {
    pub(super) no_usage: bool,
    /// In place of what the request has.
    pub(super) input_tokens: Option<u64>,
    pub(super) cached_tokens: u64,
    pub(super) cache_write_tokens: u64,
    pub(super) cache_write_1h_tokens: u64,
    pub(super) audio_input_tokens: u64,
    pub(super) image_input_tokens: u64,
    pub(super) tool_prompt_tokens: u64,
    pub(super) reasoning_tokens: u64,
    pub(super) audio_output_tokens: u64,
    pub(super) image_output_tokens: u64,
    pub(super) over_tokens: u64,
    pub(super) searches: u64,
    pub(super) seconds: Option<u64>,
    /// The tier served, whichever was asked for.
    pub(super) tier: Option<String>,
}

/// What happens to the body's bytes on their way out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WireFaults {
    pub(super) cut: Option<Cut>,
    pub(super) hang_after_events: Option<u64>,
    pub(super) one_byte_chunks: bool,
    /// One byte each 50 ms.
    pub(super) drip: bool,
    pub(super) gzip: bool,
    pub(super) lying_length: bool,
}

/// The connection ends after so many bytes of the body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) after_bytes: u64,
    pub(super) how: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ending {
    /// RST: the peer sees "connection reset".
    Reset,
    /// FIN: the peer sees an end of file.
    Close,
}

/// How long the model thinks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    pub(super) first_token_ms: u64,
    pub(super) token_ms: u64,
}

impl Faults {
    /// Adds a list to what is already set; the error is a sentence for the caller.
    pub(super) fn add(&mut self, list: &str) -> Result<(), String> {
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (item, None),
            };
            self.set(name, value)?;
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        if self.bill.set(name, value)? {
            return Ok(());
        }
        let number = || required_number(name, value);
        match name {
            "status" => self.instead = Some(Instead::Status(status(number()?)?)),
            "error-body" => self.instead = Some(Instead::ErrorBody),
            "garbage" => self.instead = Some(Instead::Garbage),
            "html" => self.instead = Some(Instead::Html),
            "empty" => self.instead = Some(Instead::Empty),
            "hang-before-header" => self.instead = Some(Instead::Silence),
            "retry-after" => self.retry_after_s = Some(number()?),
            "error-event" => self.script.error_event_after = Some(0),
            "error-event-after" => self.script.error_event_after = Some(number()?),
            "huge-event" if value.is_none() => self.script.huge_event_bytes = Some(HUGE_EVENT_BYTES),
            "huge-event" => self.script.huge_event_bytes = Some(number()?),
            "no-done" => self.script.no_done = true,
            "usage-in-text" => self.script.usage_in_text = true,
            "failed" => self.script.fails = true,
            "image-bytes" => self.script.image_bytes = number()?,
            "polls" => self.script.polls = Some(number()?),
            "reset-after" => self.wire.cut = Some(Cut { after_bytes: number()?, how: Ending::Reset }),
            "close-after" => self.wire.cut = Some(Cut { after_bytes: number()?, how: Ending::Close }),
            "hang-after-header" => self.wire.hang_after_events = Some(0),
            "hang-after" => self.wire.hang_after_events = Some(number()?),
            "one-byte-chunks" => self.wire.one_byte_chunks = true,
            "drip" => self.wire.drip = true,
            "gzip" => self.wire.gzip = true,
            "lying-length" => self.wire.lying_length = true,
            "first-token-ms" => self.pace.first_token_ms = number()?,
            "token-ms" => self.pace.token_ms = number()?,
            // Only marks the call's record, so that a test finds its own calls.
            "log-only" => {}
            _ => return Err(format!("The simulated provider knows no fault `{name}`.")),
        }
        Ok(())
    }
}

impl BillFaults {
    /// Sets one of its own; false if it has no such.
    fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool, String> {
        let number = || required_number(name, value);
        match name {
            "no-usage" => self.no_usage = true,
            "input" => self.input_tokens = Some(number()?),
            "cached" => self.cached_tokens = number()?,
            "cache-write" => self.cache_write_tokens = number()?,
            "cache-write-1h" => self.cache_write_1h_tokens = number()?,
            "audio-in" => self.audio_input_tokens = number()?,
            "image-in" => self.image_input_tokens = number()?,
            "tool-prompt" => self.tool_prompt_tokens = number()?,
            "reasoning" => self.reasoning_tokens = number()?,
            "audio-out" => self.audio_output_tokens = number()?,
            "image-out" => self.image_output_tokens = number()?,
            "over" => self.over_tokens = number()?,
            "searches" => self.searches = number()?,
            "seconds" => self.seconds = Some(number()?),
            "tier" => self.tier = value.map(str::to_owned),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn required_number(name: &str, value: Option<&str>) -> Result<u64, String> {
    value
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| format!("The fault `{name}` needs a whole number: `{name}=N`."))
}

fn status(number: u64) -> Result<StatusCode, String> {
    u16::try_from(number)
        .ok()
        .filter(|number| (200..600).contains(number))
        .and_then(|number| StatusCode::from_u16(number).ok())
        .ok_or_else(|| "The fault `status` needs a number from 200 to 599.".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(list: &str) -> Faults {
        let mut faults = Faults::default();
        faults.add(list).expect("a list that is right");
        faults
    }

    #[test]
    fn list_is_read() {
        let faults = faults("status=503, retry-after=2 ,reset-after=10,log-only,");
        assert_eq!(faults.instead, Some(Instead::Status(StatusCode::SERVICE_UNAVAILABLE)));
        assert_eq!(faults.retry_after_s, Some(2));
        assert_eq!(faults.wire.cut, Some(Cut { after_bytes: 10, how: Ending::Reset }));
    }

    #[test]
    fn later_list_wins() {
        let mut faults = faults("token-ms=5,first-token-ms=7");
        faults.add("token-ms=0").expect("a list that is right");
        assert_eq!((faults.pace.first_token_ms, faults.pace.token_ms), (7, 0));
    }

    #[test]
    fn huge_event_has_a_default() {
        assert_eq!(faults("huge-event").script.huge_event_bytes, Some(HUGE_EVENT_BYTES));
        assert_eq!(faults("huge-event=9").script.huge_event_bytes, Some(9));
    }

    #[test]
    fn wrong_list_is_refused_by_name() {
        for (list, named) in
            [("stauts=503", "stauts"), ("status=99", "status"), ("cached", "cached"), ("over=-1", "over")]
        {
            let refusal = Faults::default().add(list).expect_err("a list that is wrong");
            assert!(refusal.contains(named), "{list}: {refusal}");
        }
    }
}

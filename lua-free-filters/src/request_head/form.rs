//! Requests that are forms (RFC 7578, `multipart/form-data`): images to be edited, sounds to be written down.
//!
//! Parsers of forms disagree about whatever is odd, and the gateway must read what the provider will read. So a form is read
//! strictly: what two parsers could read in two ways is refused.

use super::sound;
use super::weight::Weight;
use super::{RequestHead, default_or_refused};
use crate::attribution::Attribution;
use crate::denied::Denied;
use crate::dialect::Dialect;
use crate::objects::{ObjectKind, Reference};
use crate::price::Picture;
use std::ops::Range;

/// Parts of one form.
const PARTS_MAX: usize = 256;
/// The headers of one part.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The longest boundary (RFC 2046, "Multipart Media Type").
const BOUNDARY_BYTES_MAX: usize = 70;

/// The parts that may stand once only.
const GOVERNED: [&str; 9] =
    ["model", "stream", "n", "size", "quality", "partial_images", "response_format", "file", "prompt"];

fn refused<T>(sentence: &str) -> Result<T, Denied> {
    Err(Denied::InvalidRequest(sentence.to_owned()))
}

/// Where a form's edits are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Form {
    boundary: Box<str>,
}

impl Form {
    /// A part before all others.
    pub(super) fn part(&self, name: &str, value: &str) -> String {
        format!("--{}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n", self.boundary)
    }
}

/// A part as it stands in the body.
struct Part<'a> {
    name: &'a str,
    /// The type of a file; an empty one where the part is a file that says none.
    file_type: Option<&'a str>,
    value: Range<usize>,
}

/// What the parts say that are not files.
#[derive(Default)]
struct Said {
    model: Option<String>,
    model_at: Option<Range<usize>>,
    streamed: bool,
    choices: Option<u64>,
    picture: Picture,
    references: Vec<Reference>,
    attribution: Option<Box<Attribution>>,
}

/// Reads the head of a request that is a form.
pub(super) fn read(body: &[u8], content_type: &str, dialect: Dialect) -> Result<RequestHead, Denied> {
    let boundary = boundary(content_type)?;
    let (mut said, mut weight) = (Said::default(), Weight::default());
    let mut seen = [false; GOVERNED.len()];
    for part in parts(body, boundary)? {
        if let Some(place) = GOVERNED.iter().position(|name| *name == part.name)
            && std::mem::replace(&mut seen[place], true)
        {
            return Err(Denied::DuplicateField(GOVERNED[place]));
        }
        let value = &body[part.value.clone()];
        weight.text_bytes += part.name.len() as u64;
        match (dialect, part.file_type) {
            (Dialect::OpenaiTranscription, file_type) if file_type.is_some() || part.name == "file" => {
                weight.hear(sound::length(value));
            }
            (_, Some(file_type)) => weight.attach(file_type),
            (_, None) => {
                weight.text_bytes += value.len() as u64;
                said.note(&part, value, &mut weight)?;
            }
        }
    }
    let Said { model, model_at, streamed, choices, picture, references, attribution } = said;
    let model = model.map_or_else(|| default_or_refused(dialect), Ok)?;
    Ok(RequestHead {
        streamed,
        choices: choices.unwrap_or(1).max(1),
        picture,
        references,
        attribution,
        model_at,
        form: Some(Form { boundary: boundary.into() }),
        ..RequestHead::new(dialect, model, weight)
    })
}

impl Said {
    /// Notes a part that is text.
    fn note(&mut self, part: &Part<'_>, value: &[u8], weight: &mut Weight) -> Result<(), Denied> {
        let Ok(text) = std::str::from_utf8(value) else {
            return Err(Denied::InvalidRequest(format!("The part `{}` of the form is not UTF-8.", part.name)));
        };
        let number = || match text.trim().parse::<u64>() {
            Ok(number) => Ok(Some(number)),
            Err(_) if text.trim().is_empty() => Ok(None),
            Err(_) => Err(Denied::InvalidRequest(format!("The part `{}` of the form is not a number.", part.name))),
        };
        match part.name {
            "model" => (self.model, self.model_at) = (Some(text.to_owned()), Some(part.value.clone())),
            "stream" => {
                self.streamed = match text.trim() {
                    "true" | "True" | "1" => true,
                    "false" | "False" | "0" | "" => false,
                    _ => return refused("The part `stream` of the form is neither `true` nor `false`."),
                }
            }
            "n" => self.choices = number()?,
            "size" => self.picture.size = Some(text.into()),
            "quality" => self.picture.quality = Some(text.into()),
            "user" => self.attribution = Attribution::to_user(text),
            // No provider is to get it, and it must not be overlooked.
            "max_credits" | "max_cost_usd" => {
                return refused("`max_credits` and `max_cost_usd` are read in bodies of JSON alone. Leave them out.");
            }
            "partial_images" => weight.partial_images = number()?.unwrap_or(0),
            // The provider fetches it, however long it is.
            "url" | "file_url" => weight.refer_to_anything_unbounded(),
            // Such as `file_id` and `image[file_id]`.
            name if name.trim_end_matches(']').ends_with("file_id") => {
                weight.refer_to_anything_unbounded();
                self.references.push(Reference { field: "file_id", kind: ObjectKind::File, id: text.trim().into() });
            }
            _ => {}
        }
        Ok(())
    }
}

/// The boundary that a `Content-Type` names.
fn boundary(content_type: &str) -> Result<&str, Denied> {
    const ASKED: &str = "Send the body as `multipart/form-data` with a `boundary`.";
    let Some((kind, parameters)) = content_type.split_once(';') else { return refused(ASKED) };
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return refused(ASKED);
    }
    let mut found = None;
    for parameter in parameters.split(';') {
        if let Some((name, value)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("boundary")
            && found.replace(value.trim()).is_some()
        {
            return refused("The `Content-Type` names two boundaries. Send one.");
        }
    }
    let found = found.unwrap_or_default();
    let bare = found.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(found);
    // The characters of RFC 2046, without the space, and with what clients use beside them.
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?*&%#!$^`{|}~@".contains(&byte);
    if bare.is_empty() || bare.len() > BOUNDARY_BYTES_MAX || !bare.bytes().all(is_fit) {
        return refused(ASKED);
    }
    Ok(bare)
}

/// The parts of a body. The boundary must stand where it ends a part, and nowhere else.
fn parts<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>, Denied> {
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut begun = None;
    for at in memchr::memmem::find_iter(body, delimiter.as_bytes()) {
        let after = at + delimiter.len();
        let is_first = begun.is_none();
        let stands_alone = if is_first { at == 0 } else { body[..at].ends_with(b"\r\n") };
        if !stands_alone {
            return refused("The boundary of the form stands within a part, or before the first. Choose another one.");
        }
        if let Some(start) = begun {
            // Two boundaries may share one line break; then there is no part between them.
            let end = at - 2;
            if start > end {
                return refused("A part of the form has no headers.");
            }
            parts.push(part(body, start..end)?);
        }
        if parts.len() > PARTS_MAX {
            return Err(Denied::InvalidRequest(format!("The form has more than {PARTS_MAX} parts.")));
        }
        let rest = &body[after..];
        if rest.starts_with(b"\r\n") {
            begun = Some(after + 2);
        } else if matches!(rest, b"--" | b"--\r\n") && !is_first {
            return Ok(parts);
        } else {
            return refused("A boundary of the form is followed by something else than the end of its line.");
        }
    }
    refused(
        "The form has no end. Send the body as `multipart/form-data`, with the boundary that the `Content-Type` names.",
    )
}

/// One part: its headers, an empty line, its value.
fn part(body: &[u8], range: Range<usize>) -> Result<Part<'_>, Denied> {
    let bytes = &body[range.clone()];
    let head_end = match bytes.starts_with(b"\r\n") {
        true => return refused("A part of the form has no headers."),
        false => memchr::memmem::find(&bytes[..bytes.len().min(HEAD_BYTES_MAX)], b"\r\n\r\n"),
    };
    let Some(head_end) = head_end else { return refused("The headers of a part of the form have no end.") };
    let Ok(head) = std::str::from_utf8(&bytes[..head_end]) else {
        return refused("The headers of a part of the form are not UTF-8.");
    };
    let (mut disposition, mut file_type) = (None, None);
    for line in head.split("\r\n") {
        let Some((name, value)) = line.split_once(':') else { return refused("A header of the form has no `:`.") };
        let is_odd = name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if is_odd || value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return refused("A header of the form is not well-formed.");
        }
        let value = value.trim();
        let is_fresh = match name.to_ascii_lowercase().as_str() {
            "content-disposition" => disposition.replace(value).is_none(),
            "content-type" => file_type.replace(value).is_none(),
            "content-transfer-encoding" if !matches!(value, "binary" | "8bit" | "7bit") => {
                return refused("A part of the form is encoded. Send its bytes as they are.");
            }
            _ => true,
        };
        if !is_fresh {
            return refused("A part of the form has a header twice.");
        }
    }
    let Some(Disposition { name, is_file }) = disposition.and_then(Disposition::read) else {
        return refused("A part of the form has no `Content-Disposition: form-data` with a plain `name`.");
    };
    if is_file && GOVERNED.contains(&name) && name != "file" {
        return Err(Denied::InvalidRequest(format!("The part `{name}` of the form is a file. Send its value alone.")));
    }
    let file_type = is_file.then(|| file_type.unwrap_or_default());
    Ok(Part { name, file_type, value: range.start + head_end + 4..range.end })
}

/// What `Content-Disposition` says.
struct Disposition<'a> {
    name: &'a str,
    is_file: bool,
}

impl<'a> Disposition<'a> {
    /// Nothing where parsers could read two different things.
    fn read(value: &'a str) -> Option<Self> {
        let mut rest = strip_word(value, "form-data")?.trim_start();
        let (mut name, mut is_file, mut is_named) = (None, false, false);
        while let Some(parameter) = rest.strip_prefix(';') {
            let (key, after) = parameter.split_once('=')?;
            let value;
            (value, rest) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(';').unwrap_or(after.len())),
            };
            rest = rest.trim_start();
            // Some parsers take the quote behind it for a part of the value.
            if value.ends_with('\\') {
                return None;
            }
            match key.trim().to_ascii_lowercase().as_str() {
                "name" if is_plain(value) => name.replace(value).is_none().then_some(())?,
                "filename" if !is_named => (is_named, is_file) = (true, true),
                "filename*" => is_file = true,
                _ => return None,
            }
        }
        rest.is_empty().then_some(Self { name: name?, is_file })
    }
}

/// Whether all parsers read a name alike, and none of them takes it for a governed field's. Brackets are for lists and objects.
fn is_plain(name: &str) -> bool {
    let (first, brackets) = name.split_at(name.find('[').unwrap_or(name.len()));
    let is_odd = name.trim() != name || name.contains(['\\', '%', '"']);
    !is_odd && (brackets.is_empty() || !GOVERNED.contains(&first))
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = text.split_at_checked(word.len())?;
    first.eq_ignore_ascii_case(word).then_some(rest)
}

#[cfg(test)]
mod tests;

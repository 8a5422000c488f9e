//! Uploads as forms send them: `multipart/form-data` taken apart, the whole body at hand.

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Map, Value};

/// A part that is a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Upload {
    /// The form's name of it.
    pub(super) field: String,
    pub(super) filename: String,
    pub(super) content_type: String,
    pub(super) bytes: Bytes,
}

/// A form: its texts, and its files.
#[derive(Clone, Debug, Default)]
pub(super) struct Form {
    pub(super) texts: Map<String, Value>,
    pub(super) uploads: Vec<Upload>,
}

/// The boundary of a form's body; none if it is no form.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let parameters = content_type.strip_prefix("multipart/form-data")?;
    let boundary = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("boundary="))?;
    Some(boundary.trim_matches('"'))
}

/// Reads a form; the error is a sentence for the caller.
pub(super) fn read(body: &Bytes, boundary: &str) -> Result<Form, String> {
    let broken = || "The request is no form: its parts can't be told apart.".to_owned();
    let delimiter = format!("--{boundary}");
    let mut form = Form::default();
    let mut starts = memmem::find_iter(body, &delimiter).map(|at| (at, at + delimiter.len()));
    let mut begun = starts.next().ok_or_else(broken)?.1;
    for (end, next) in starts {
        // A part begins after the delimiter's line and ends before the next one's line break.
        let part = body.get(begun + 2..end.saturating_sub(2)).ok_or_else(broken)?;
        let head_end = memmem::find(part, b"\r\n\r\n").ok_or_else(broken)?;
        let head = String::from_utf8_lossy(&part[..head_end]).into_owned();
        form.add(&head, body.slice_ref(&part[head_end + 4..]));
        begun = next;
    }
    if body.get(begun..begun + 2) == Some(b"--") { Ok(form) } else { Err(broken()) }
}

impl Form {
    fn add(&mut self, head: &str, bytes: Bytes) {
        let Some(field) = parameter(head, "name") else { return };
        if let Some(filename) = parameter(head, "filename") {
            let content_type = header(head, "content-type").unwrap_or("application/octet-stream").to_owned();
            self.uploads.push(Upload { field: field.to_owned(), filename: filename.to_owned(), content_type, bytes });
            return;
        }
        let text = Value::from(String::from_utf8_lossy(&bytes).into_owned());
        match self.texts.get_mut(field) {
            // `include[]` twice is a list.
            Some(Value::Array(list)) => list.push(text),
            Some(first) => *first = Value::Array(vec![first.take(), text]),
            None => {
                self.texts.insert(field.to_owned(), text);
            }
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A parameter of the part's disposition.
fn parameter<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let disposition = header(head, "content-disposition")?;
    let values = disposition.split(';').filter_map(|pair| pair.trim().split_once('='));
    values.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_is_taken_apart() {
        let body = Bytes::from_static(
            b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b\r\n\
              content-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\ncontent-type: audio/wav\r\n\r\n\
              x\r\ny\r\n--b--\r\n",
        );
        let form = read(&body, boundary("multipart/form-data; boundary=\"b\"").expect("a form")).expect("a whole form");
        assert_eq!(form.texts["model"], "whisper-1");
        let [upload] = &form.uploads[..] else { panic!("one file") };
        assert_eq!((upload.filename.as_str(), upload.content_type.as_str()), ("a.wav", "audio/wav"));
        assert_eq!(&upload.bytes[..], b"x\r\ny");
    }

    #[test]
    fn half_a_form_is_refused() {
        assert_eq!(boundary("application/json"), None);
        for body in [&b""[..], b"--b", b"--b\r\nname", b"--b\r\n\r\n--b--", b"--b\r\ncontent-disposition: x\r\n\r\n1"] {
            assert!(read(&Bytes::copy_from_slice(body), "b").is_err(), "{body:?}");
        }
    }
}

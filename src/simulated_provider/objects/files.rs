//! Files: forms for OpenAI and Anthropic, an upload in two steps for Gemini.

use super::super::multipart;
use super::super::openai_chat::CREATED;
use super::{Kind, Object, Reply};
use bytes::Bytes;
use filters::dialect::Protocol;
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

const CREATED_AT: &str = "2026-08-06T06:40:00Z";

/// Gemini's first step: where to send the bytes.
pub(super) fn begin(id: &str, parts: &Parts) -> Option<Reply> {
    let command = parts.headers.get("x-goog-upload-command")?;
    if command != "start" {
        return None;
    }
    let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let place = HeaderValue::try_from(format!("http://{host}/upload/v1beta/files?upload_id={id}")).ok()?;
    let headers = vec![
        (HeaderName::from_static("x-goog-upload-url"), place),
        (HeaderName::from_static("x-goog-upload-status"), HeaderValue::from_static("active")),
    ];
    Some(Reply { headers, ..Reply::json(&json!({})) })
}

/// Reads an upload; the error is a sentence for the caller.
pub(super) fn read(kind: &Kind, id: String, parts: &Parts, body: &Bytes) -> Result<Object, String> {
    let content_type = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.protocol == Protocol::Gemini {
        let value = gemini(&id, content_type, body.len());
        let object = Object::new(kind.collection, id, value);
        return Ok(Object { content: body.clone(), content_type: content_type.to_owned(), ..object });
    }
    let boundary = multipart::boundary(content_type).ok_or("Files are uploaded as multipart/form-data.")?;
    let form = multipart::read(body, boundary)?;
    let upload = form.uploads.into_iter().find(|upload| upload.field == "file");
    let upload = upload.ok_or("Missing required parameter: 'file'.")?;
    let (bytes, filename) = (upload.bytes.len(), upload.filename);
    let value = match kind.protocol {
        Protocol::Anthropic => json!({"type": "file", "id": id, "size_bytes": bytes, "created_at": CREATED_AT,
            "filename": filename, "mime_type": upload.content_type, "downloadable": true}),
        _ => {
            let purpose = form.texts.get("purpose").ok_or("Missing required parameter: 'purpose'.")?;
            json!({"id": id, "object": "file", "bytes": bytes, "created_at": CREATED, "expires_at": null,
                "filename": filename, "purpose": purpose, "status": "processed", "status_details": null})
        }
    };
    let object = Object::new(kind.collection, id, value);
    Ok(Object { content: upload.bytes, content_type: "application/octet-stream".to_owned(), ..object })
}

fn gemini(id: &str, content_type: &str, bytes: usize) -> Value {
    json!({"name": format!("files/{id}"), "uri": format!("https://files.invalid/v1beta/files/{id}"),
        "mimeType": content_type, "sizeBytes": bytes.to_string(), "createTime": CREATED_AT, "updateTime": CREATED_AT,
        "state": "ACTIVE", "source": "UPLOADED"})
}

/// What says that a file has arrived.
pub(super) fn reply(kind: &Kind, file: &Object) -> Reply {
    match kind.protocol {
        Protocol::Gemini => {
            let status = (HeaderName::from_static("x-goog-upload-status"), HeaderValue::from_static("final"));
            Reply { headers: vec![status], ..Reply::json(&json!({"file": file.value})) }
        }
        _ => Reply::json(&file.value),
    }
}

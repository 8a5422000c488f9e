//! Answers as text: whatever object a server shows, in the order of its fields.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use std::fmt;

/// Where the content of a field begins.
const NAME_WIDTH: usize = 20;

/// The fields of an object, as they are written: no number goes by way of a float.
pub(super) struct Fields<'a>(Vec<(String, &'a RawValue)>);

/// What a field has.
enum Content<'a> {
    Text(String),
    Object(Fields<'a>),
    Objects(Vec<Fields<'a>>),
}

impl<'a> Content<'a> {
    fn of(value: &'a RawValue) -> Self {
        let json = value.get();
        if let Ok(fields) = serde_json::from_str(json) {
            return Self::Object(fields);
        }
        match serde_json::from_str::<Vec<&'a RawValue>>(json) {
            Err(_) => Self::Text(text(json)),
            Ok(values) => {
                let objects: Result<Vec<Fields<'a>>, _> =
                    values.iter().map(|value| serde_json::from_str(value.get())).collect();
                match objects {
                    Ok(objects) if !objects.is_empty() => Self::Objects(objects),
                    Ok(_) | Err(_) => Self::Text(join(values.iter().map(|value| text(value.get())))),
                }
            }
        }
    }
}

impl Fields<'_> {
    /// A line a field, what is within it further in.
    pub(super) fn describe(&self) -> String {
        self.lines("").join("\n")
    }

    /// The fields of these names.
    pub(super) fn cells(&self, columns: &[&str]) -> Vec<String> {
        let cell = |column: &&str| {
            let field = self.0.iter().find(|(name, _)| name == column);
            field.map_or_else(|| "-".to_owned(), |(_, value)| inline(value))
        };
        columns.iter().map(cell).collect()
    }

    fn lines(&self, indent: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, value) in &self.0 {
            let name = plain(name);
            match Content::of(value) {
                Content::Text(text) => lines.push(format!("{indent}{name:NAME_WIDTH$}  {text}")),
                Content::Object(fields) => {
                    lines.push(format!("{indent}{name}"));
                    lines.extend(fields.lines(&format!("{indent}  ")));
                }
                Content::Objects(objects) => {
                    lines.push(format!("{indent}{name}"));
                    lines.extend(objects.iter().map(|fields| format!("{indent}  {}", fields.sentence())));
                }
            }
        }
        lines
    }

    /// All that there is, in one line.
    fn sentence(&self) -> String {
        let said = self.0.iter().filter(|(_, value)| value.get() != "null");
        join(said.map(|(name, value)| format!("{} {}", plain(name), inline(value))))
    }
}

fn inline(value: &RawValue) -> String {
    match Content::of(value) {
        Content::Text(text) => text,
        Content::Object(fields) => fields.sentence(),
        Content::Objects(objects) => objects.iter().map(Fields::sentence).collect::<Vec<_>>().join("; "),
    }
}

/// Text without its quotes; anything else as it is written.
fn text(json: &str) -> String {
    match serde_json::from_str::<String>(json) {
        Ok(text) if text.is_empty() => "-".to_owned(),
        Ok(text) => plain(&text),
        Err(_) if json == "null" => "-".to_owned(),
        Err(_) => plain(json),
    }
}

fn join(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
}

/// Without what would command a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_there_is_is_shown_in_its_order() {
        let json = r#"{"name":"b","id":9007199254740993,"usd":"0.10","none":null,"list":["x","y"],"empty":[],
            "limits":[{"kind":"spend","zone":null,"amount":5}],"within":{"a":true}}"#;
        let fields: Fields<'_> = serde_json::from_str(json).expect("an object");
        let lines = fields.describe();
        let words: Vec<Vec<&str>> = lines.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["name", "b"]);
        assert_eq!(words[1], ["id", "9007199254740993"]);
        assert_eq!(words[2], ["usd", "0.10"]);
        assert_eq!(words[3], ["none", "-"]);
        assert_eq!(words[4], ["list", "x,", "y"]);
        assert_eq!(words[5], ["empty", "-"]);
        assert_eq!(words[6..8], [vec!["limits"], vec!["kind", "spend,", "amount", "5"]]);
        assert_eq!(words[8..], [vec!["within"], vec!["a", "true"]]);
        assert_eq!(fields.cells(&["id", "limits", "other"]), ["9007199254740993", "kind spend, amount 5", "-"]);
    }

    #[test]
    fn nothing_commands_the_terminal() {
        let fields: Fields<'_> = serde_json::from_str(r#"{"a\u001b[2J":"b\u001b]0;c\u0007"}"#).expect("an object");
        assert!(!fields.describe().chars().any(char::is_control));
    }
}

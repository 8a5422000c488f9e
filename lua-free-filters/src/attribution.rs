//! For whom and for what a call is, in its client's own words: the end user that the body names, and the tags of the header
//! `x-tollgate-tags`. Both are for the books alone: nothing is decided by them.

use crate::denied::Denied;
use std::sync::Arc;

/// So much is kept of an end user's name. OpenAI takes 64 characters (`safety_identifier`), Anthropic 256 (`metadata.user_id`).
pub const USER_BYTES_MAX: usize = 256;
/// Most tags of a call.
pub const TAGS_MAX: usize = 8;
/// The longest tag.
pub const TAG_BYTES_MAX: usize = 64;
/// What stands for a character that no table of users can show.
const UNPRINTABLE: char = '\u{fffd}';

/// For whom and for what a call is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attribution {
    /// Who uses the client's product: at most [`USER_BYTES_MAX`] bytes without control characters, never empty.
    pub user: Option<Arc<str>>,
    /// At most [`TAGS_MAX`] different ones, each a word or `name=value` of 1 to [`TAG_BYTES_MAX`] printable ASCII characters, without
    /// spaces and commas.
    pub tags: Vec<Arc<str>>,
}

impl Attribution {
    /// To an end user, if a name is left when it is made fit for the books.
    #[must_use]
    pub fn to_user(name: &str) -> Option<Box<Self>> {
        let kept = &name[..name.floor_char_boundary(USER_BYTES_MAX)];
        let has_control = kept.chars().any(char::is_control);
        let fit: Arc<str> = if has_control { printable(kept).into() } else { kept.trim().into() };
        (!fit.is_empty()).then(|| Box::new(Self { user: Some(fit), tags: Vec::new() }))
    }

    /// The same with tags.
    #[must_use]
    pub fn with_tags(attribution: Option<Box<Self>>, tags: Vec<Arc<str>>) -> Option<Box<Self>> {
        if tags.is_empty() {
            return attribution;
        }
        let user = attribution.and_then(|attribution| attribution.user);
        Some(Box::new(Self { user, tags }))
    }
}

/// Without control characters, of which some engines store none, and cut again, as what replaces them is longer.
fn printable(name: &str) -> String {
    let replaced: String = name.chars().map(|letter| if letter.is_control() { UNPRINTABLE } else { letter }).collect();
    replaced[..replaced.floor_char_boundary(USER_BYTES_MAX)].trim().to_owned()
}

/// Adds the tags of a header's value, which are separated by commas. One that stands twice counts once.
pub fn add_tags(tags: &mut Vec<Arc<str>>, value: &[u8]) -> Result<(), Denied> {
    let refused = |problem: String| Err(Denied::InvalidRequest(format!("`x-tollgate-tags` {problem}")));
    for tag in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty()) {
        let Some(tag) = str::from_utf8(tag).ok().filter(|tag| is_tag(tag)) else {
            return refused(format!(
                "has a tag that is neither a word nor `name=value` of printable ASCII characters without spaces, or that is \
                 longer than {TAG_BYTES_MAX} bytes. Send such as `team=search,nightly`."
            ));
        };
        if tags.iter().any(|known| **known == *tag) {
            continue;
        }
        if tags.len() == TAGS_MAX {
            return refused(format!("has more than {TAGS_MAX} tags. Send fewer."));
        }
        tags.push(tag.into());
    }
    Ok(())
}

fn is_tag(tag: &str) -> bool {
    let is_plain = tag.len() <= TAG_BYTES_MAX && tag.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain && tag.split_once('=').is_none_or(|(name, value)| !name.is_empty() && !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_kept_as_far_as_it_can_be_stored_and_shown() {
        let kept = |name: &str| Attribution::to_user(name).and_then(|attribution| attribution.user);
        assert_eq!(kept("  ada ").as_deref(), Some("ada"));
        assert_eq!(kept("a\0b\n").as_deref(), Some("a\u{fffd}b\u{fffd}"));
        assert_eq!((kept(""), kept(" ")), (None, None));
        for long in ["é".repeat(200), "\0".repeat(256), "x".repeat(300)] {
            let kept = kept(&long).expect("a name");
            assert!((254..=USER_BYTES_MAX).contains(&kept.len()), "{}", kept.len());
        }
    }

    #[test]
    fn tags_are_words_and_pairs_and_few() {
        let read = |value: &str| {
            let mut tags = Vec::new();
            add_tags(&mut tags, value.as_bytes()).map(|()| tags.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(read("team=search, nightly ,,nightly").expect("two"), ["team=search", "nightly"]);
        assert_eq!(read("").expect("none"), [""; 0]);
        assert_eq!(read(&"x".repeat(TAG_BYTES_MAX)).expect("one").len(), 1);
        let eight: Vec<String> = (0..TAGS_MAX).map(|number| number.to_string()).collect();
        assert_eq!(read(&eight.join(",")).expect("eight").len(), TAGS_MAX);
        let nine = format!("{},more", eight.join(","));
        let long = "x".repeat(TAG_BYTES_MAX + 1);
        for wrong in ["two words", "=value", "name=", "caf\u{e9}", "a\tb", &nine, &long] {
            assert!(matches!(read(wrong), Err(Denied::InvalidRequest(_))), "{wrong}");
        }
    }
}

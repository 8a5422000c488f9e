//! Time zones as people type them.

use filters::window::Zone;

/// Zones that are offered in place of one that does not exist.
const ZONES_OFFERED: usize = 3;

/// Reads a zone, or says which ones may have been meant.
pub(super) fn read(text: &str) -> Result<Zone, String> {
    text.parse().map_err(|problem| {
        let near = near_zones(text);
        let offer = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) };
        format!("{problem}{offer}")
    })
}

/// The zones whose names are most like a text: a few slips away from it, or a place of that name.
fn near_zones(text: &str) -> Vec<String> {
    let wanted = text.to_ascii_lowercase();
    let place = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let distance = |name: &String| {
        let name = name.to_ascii_lowercase();
        slips(&name, &wanted).min(slips(&place(&name), &place(&wanted)) + 1)
    };
    let mut near: Vec<(usize, String)> = Zone::names().into_iter().map(|name| (distance(&name), name)).collect();
    near.retain(|(slips, _)| *slips <= 3.min(wanted.len() / 3));
    near.sort();
    near.into_iter().take(ZONES_OFFERED).map(|(_, name)| name).collect()
}

/// How many letters must be added, dropped or replaced to make one text of another (Levenshtein).
fn slips(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, other) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_right_is_answered_with_the_right_one() {
        for (typed, meant) in [
            ("Europe/Berln", "Europe/Berlin"),
            ("berlin", "Europe/Berlin"),
            ("America/NewYork", "America/New_York"),
            ("Asia/Kolkatta", "Asia/Kolkata"),
            ("Europe/New_York", "America/New_York"),
        ] {
            let problem = read(typed).expect_err(typed);
            assert!(problem.contains("did you mean") && problem.contains(meant), "{problem}");
        }
        assert!(!read("Mars/Olympus_Mons").expect_err("no zone").contains("did you mean"));
        assert_eq!(read("europe/berlin").expect("a zone").name(), "Europe/Berlin");
    }

    #[test]
    fn slips_are_counted() {
        for (one, other, count) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("flaw", "lawn", 2)] {
            assert_eq!((slips(one, other), slips(other, one)), (count, count), "{one} {other}");
        }
    }
}

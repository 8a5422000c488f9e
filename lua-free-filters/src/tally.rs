//! The running count of one answer: what the provider reported so far, and what was relayed in case it reports nothing.

use crate::price::Tier;
use crate::usage::{Kind, Usage};

/// What is known of an answer so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The provider's figures; the last non-null ones win.
    pub reported: Option<Reported>,
    /// Bytes of output text that were relayed.
    pub text_bytes: u64,
    /// Events that carried output.
    pub output_events: u64,
    /// Pictures that an answer holds.
    pub pictures: u64,
    /// The tier that the provider says it served.
    pub tier: Option<Tier>,
}

/// Figures of a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// The counts.
    pub usage: Usage,
    /// Whether they are the final ones, or those of a beginning.
    pub is_final: bool,
}

impl Tally {
    /// Notes figures of the provider.
    pub fn report(&mut self, usage: Usage, is_final: bool) {
        self.reported = Some(Reported { usage, is_final });
    }

    /// Notes an event with output.
    pub fn relay_text(&mut self, bytes: u64) {
        self.text_bytes += bytes;
        self.output_events += u64::from(bytes > 0);
    }

    /// Output tokens of what was relayed: a token for four bytes, at least one an event.
    #[must_use]
    pub fn output_estimate(&self) -> u64 {
        self.text_bytes.div_ceil(4).max(self.output_events)
    }

    /// Output tokens as far as is known: those reported, or those of what was relayed if they are more.
    #[must_use]
    pub fn output_so_far(&self) -> u64 {
        let reported = self.reported.map_or(0, |reported| reported.usage.output_total());
        reported.max(self.output_estimate())
    }

    /// What to charge, and whether it is an estimate. A provider's final figures win; figures of a beginning are completed
    /// by what was relayed, though never by more than `output_max`, the most that the request allows; without any, the input
    /// is as estimated at admission. Pictures without figures are counted, which is no estimate.
    #[must_use]
    pub fn usage(&self, input_estimate: u64, output_max: u64) -> (Usage, bool) {
        let output_estimate = self.output_estimate().min(output_max);
        match self.reported {
            Some(Reported { usage, is_final: true }) => (usage, false),
            Some(Reported { usage, is_final: false }) => {
                let seen = usage.get(Kind::Output);
                (usage.with(Kind::Output, seen.max(output_estimate)), true)
            }
            None => {
                let usage = Usage::of(input_estimate, output_estimate).with(Kind::Images, self.pictures);
                (usage, self.pictures == 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_figures_win_over_what_was_relayed() {
        let mut tally = Tally { text_bytes: 400, ..Tally::default() };
        tally.report(Usage::of(3, 1), false);
        assert_eq!(tally.usage(9, 1_000), (Usage::of(3, 100), true));
        assert_eq!(tally.usage(9, 50), (Usage::of(3, 50), true));
        tally.report(Usage::of(3, 0), true);
        assert_eq!(tally.usage(9, 1_000), (Usage::of(3, 0), false));
    }

    #[test]
    fn without_figures_the_relayed_output_is_charged() {
        let mut tally = Tally::default();
        assert_eq!(tally.usage(9, 1_000), (Usage::of(9, 0), true));
        (0..5).for_each(|_| tally.relay_text(2));
        tally.relay_text(0);
        assert_eq!(tally.usage(9, 1_000), (Usage::of(9, 5), true));
        let tally = Tally { pictures: 2, ..Tally::default() };
        assert_eq!(tally.usage(9, 1_000), (Usage::of(9, 0).with(Kind::Images, 2), false));
    }
}

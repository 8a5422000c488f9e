//! Ranks by Zipf's law with the exponent 1: the rank `r` comes with a probability in proportion to `1 / r`. By rejection
//! inversion (Hörmann, Derflinger: "Rejection-inversion to generate variates from monotone discrete distributions"), so that ten
//! million ranks need no table.

use crate::random::Random;

pub(crate) struct Zipf {
    ranks: f64,
    /// The integral of `1 / x` from 1.5 and from a half on to the last rank's end.
    low: f64,
    high: f64,
}

impl Zipf {
    pub(crate) fn new(ranks: u64) -> Self {
        let ranks = ranks as f64;
        Self { ranks, low: 1.5f64.ln() - 1.0, high: (ranks + 0.5).ln() }
    }

    /// A rank, from 1 on.
    pub(crate) fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.high + random.fraction() * (self.low - self.high);
            let place = area.exp();
            let rank = place.round().clamp(1.0, self.ranks);
            if area >= (rank + 0.5).ln() - 1.0 / rank {
                return rank as u64;
            }
        }
    }

    /// How often a rank comes.
    pub(crate) fn share(&self, rank: u64) -> f64 {
        // The harmonic number, by Euler's constant.
        1.0 / (rank as f64 * (self.ranks.ln() + 0.577_215_664_9))
    }
}

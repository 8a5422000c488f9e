//! Money in JSON: an exact decimal number of dollars, never by way of a float.

use filters::money::NanoUsd;
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// An amount that `serde_json` writes as a decimal number: `12.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usd(pub NanoUsd);

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.to_string()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nano_dollar_is_written() {
        for (nanos, text) in
            [(0, "0"), (1, "0.000000001"), (-2_500_000_000, "-2.5"), (9_007_199_254_740_993, "9007199.254740993")]
        {
            let written = serde_json::to_string(&[Usd(NanoUsd(nanos))]);
            assert_eq!(written.expect("JSON"), format!("[{text}]"));
        }
    }
}

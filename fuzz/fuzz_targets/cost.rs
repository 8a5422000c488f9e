//! The arithmetic of costs: never negative, never less for more, and never above the bound that was set aside.

#![no_main]

use filters::price::{CacheWrite, LongContext, Possible, Price, Tier};
use filters::usage::{Kind, Usage};
use libfuzzer_sys::fuzz_target;

/// The dearest rate and the highest count: what the configuration and the readers of usage let through.
const RATE_MAX: u64 = 1 << 50;
const COUNT_MAX: u64 = 1 << 53;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let mut next = |below: u64| {
        let (number, after) = fuzz::number(rest);
        rest = after;
        number % below
    };
    let rates = |next: &mut dyn FnMut(u64) -> u64| std::array::from_fn(|_| next(RATE_MAX) as i64);
    let long = LongContext { above_tokens: next(COUNT_MAX), rates: rates(&mut next) };
    let price = Price {
        standard: rates(&mut next),
        flex: Some(rates(&mut next)),
        long_context: (next(2) == 1).then_some(long),
        ..Price::default()
    };
    let usage = Usage { counts: std::array::from_fn(|_| next(COUNT_MAX)) };
    let tier = Tier::ALL[next(4) as usize];
    let cost = price.cost(&usage, tier);
    assert!(cost.0 >= 0);
    if price.long_context.is_none() {
        for kind in Kind::ALL {
            assert!(price.cost(&usage.with(kind, usage.get(kind) + 1), tier) >= cost);
        }
    }
    let possible = Possible {
        tier,
        cache_write: CacheWrite::Hour,
        audio_input: true,
        image_input: true,
        audio_output: true,
        image_output: true,
    };
    let dearest = price.dearest(usage.input_total(), &possible);
    assert!(dearest.cost(usage.input_total(), usage.output_total(), &usage) >= cost);
});

//! What written prices come to, to the nano-dollar.

use super::*;
use filters::money::NanoUsd;
use filters::price::{Price, Rates};
use filters::time::EpochMs;
use filters::usage::{Kind, Usage};

fn price(text: &str) -> Price {
    let config = parse(PROVIDER, &model(&format!("from = '2026-08-01'\n{text}"))).expect("sound");
    config.catalogue.find("n").expect("the model").candidates[0].prices[0].price.clone()
}

fn rate(rates: &Rates, kind: Kind) -> i64 {
    rates[kind as usize]
}

#[test]
fn kinds_that_are_not_listed_cost_what_they_are_part_of() {
    let rates = price("input = '2'\noutput = '8'").standard;
    for kind in [Kind::CacheRead, Kind::CacheWrite5m, Kind::CacheWrite1h, Kind::AudioInput, Kind::ImageInput] {
        assert_eq!(rate(&rates, kind), 2_000_000_000, "{kind:?}");
    }
    for kind in [Kind::Reasoning, Kind::AudioOutput, Kind::ImageOutput] {
        assert_eq!(rate(&rates, kind), 8_000_000_000, "{kind:?}");
    }
    assert_eq!(rate(&rates, Kind::WebSearch), 0);
    let rates = price("input = '2'\noutput = '8'\ncache_write = '2.5'").standard;
    assert_eq!(rate(&rates, Kind::CacheWrite1h), 2_500_000_000);
}

#[test]
fn listed_prices_are_exact() {
    let listed =
        price("input = '0.15'\noutput = '0.6'\ncache_read = '0.075'\naudio_output = '20'\nweb_search = '0.01'");
    assert_eq!(rate(&listed.standard, Kind::CacheRead), 75_000_000);
    assert_eq!(rate(&listed.standard, Kind::AudioOutput), 20_000_000_000);
    let searches = Usage::default().with(Kind::WebSearch, 3);
    assert_eq!(listed.cost(&searches, Tier::Standard), NanoUsd(30_000_000));
}

#[test]
fn a_tier_scales_what_it_does_not_list() {
    let tiers = price(
        "input = '1.25'\noutput = '10'\ncache_read = '0.125'\nreasoning = '12'\nweb_search = '0.01'
input_flex = '0.625'\noutput_flex = '5'\ninput_priority = '2.5'\noutput_priority = '20'",
    );
    let flex = tiers.flex.expect("flex");
    assert_eq!((rate(&flex, Kind::Input), rate(&flex, Kind::Output)), (625_000_000, 5_000_000_000));
    assert_eq!((rate(&flex, Kind::CacheRead), rate(&flex, Kind::Reasoning)), (62_500_000, 6_000_000_000));
    assert_eq!(rate(&flex, Kind::WebSearch), 10_000_000_000_000);
    assert_eq!(rate(&tiers.priority.expect("priority"), Kind::CacheRead), 250_000_000);
    // A third of ten nano-dollars is rounded up.
    let odd = price(
        "input = '0.00000003'\noutput = '1'\ncache_read = '0.00000001'\ninput_flex = '0.00000001'\noutput_flex = '1'",
    );
    assert_eq!(rate(&odd.flex.expect("flex"), Kind::CacheRead), 4);
}

#[test]
fn a_long_call_has_its_own_prices() {
    let long = price(
        "input = '0.1'\noutput = '0.5'\ncache_read = '0.01'\ncache_write = '0.125'\ncache_write_1h = '0.2'
long_context_above_tokens = 100\nlong_input = '0.5'\nlong_output = '1'\nlong_cache_write = '0.625'",
    );
    let long = long.long_context.expect("long");
    assert_eq!(long.above_tokens, 100);
    // The cache's discount is not assumed; the hour keeps its proportion to input.
    assert_eq!(rate(&long.rates, Kind::CacheRead), 500_000_000);
    assert_eq!(rate(&long.rates, Kind::CacheWrite5m), 625_000_000);
    assert_eq!(rate(&long.rates, Kind::CacheWrite1h), 1_000_000_000);
    let dear = price(
        "input = '1'\noutput = '1'\nlong_context_above_tokens = 100\nlong_input = '2'\nlong_output = '3'
long_cache_write = '9'",
    );
    let dear = dear.long_context.expect("long").rates;
    assert_eq!((rate(&dear, Kind::CacheWrite1h), rate(&dear, Kind::Reasoning)), (9_000_000_000, 3_000_000_000));
}

#[test]
fn versions_are_in_force_from_their_days() {
    let version = |day: &str, input: &str| format!("from = '{day}'\ninput = '{input}'\noutput = '1'\n");
    let both = format!("{}[[models.prices]]\n{}", version("2026-08-02", "2"), version("2026-08-01", "1"));
    let config = parse(PROVIDER, &model(&both)).expect("sound");
    let candidate = &config.catalogue.find("m").expect("the model").candidates[0];
    let input_on = |day: i64| {
        let version = candidate.price_at(EpochMs(day * 86_400_000));
        version.map(|version| rate(&version.price.standard, Kind::Input))
    };
    assert_eq!(input_on(20_665), None);
    assert_eq!(input_on(20_666), Some(1_000_000_000));
    assert_eq!(input_on(20_667), Some(2_000_000_000));
}

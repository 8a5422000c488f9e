//! What the decisions cost by themselves: reading a request's head, admitting and settling a call, metering a stream.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use filters::denied::{LimitSource, Owner};
use filters::dialect::Dialect;
use filters::id::QuotaId;
use filters::lease::Terms;
use filters::meter::Meter;
use filters::money::NanoUsd;
use filters::quota::{Chain, Concurrency, Counted, Rate, Spend, Take};
use filters::request_head;
use filters::time::EpochMs;
use filters::window::{Unit, Window};
use std::hint::black_box;
use std::sync::Arc;

const NOW: EpochMs = EpochMs(1_800_000_000_000);

fn body(bytes: usize) -> Vec<u8> {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(bytes / 45 + 1);
    let text = &text[..bytes];
    format!(r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"{text}"}}],"max_tokens":256}}"#)
        .into_bytes()
}

fn head_scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head scan");
    for (name, bytes) in [("1 KB", 1_000), ("100 KB", 100_000)] {
        let body = body(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group
            .bench_function(name, |bencher| bencher.iter(|| request_head::scan(black_box(&body), Dialect::OpenaiChat)));
    }
    group.finish();
}

fn admit(criterion: &mut Criterion) {
    let spend = |number, source| {
        let terms = Terms::elastic(NanoUsd::MAX);
        Arc::new(Spend::new(QuotaId(number), source, Window::Total, terms, (NanoUsd::ZERO, NOW)))
    };
    let rate = |source, counted| Arc::new(Rate::new(source, counted, Unit::Minute, i64::MAX));
    let one = Arc::new(Chain { spend: vec![spend(1, LimitSource::Spend(Owner::Key))], ..Chain::default() });
    let all = Arc::new(Chain {
        rates: vec![
            rate(LimitSource::Requests(Owner::Key, Unit::Minute), Counted::Requests),
            rate(LimitSource::Tokens(Owner::Key, Unit::Minute), Counted::Tokens),
        ],
        concurrency: vec![Arc::new(Concurrency::new(
            QuotaId(9),
            LimitSource::Concurrency(Owner::Key),
            Terms::elastic(NanoUsd::MAX),
        ))],
        spend: vec![spend(1, LimitSource::Spend(Owner::Key)), spend(2, LimitSource::OrganisationBalance)],
    });
    let sources = [Owner::Key, Owner::Project, Owner::Organisation].map(LimitSource::Spend);
    let three = Arc::new(Chain { spend: sources.map(|source| spend(3, source)).to_vec(), ..Chain::default() });
    let mut group = criterion.benchmark_group("reserve and settle");
    for (name, chain, minute) in [("one quota", one, 1), ("three quotas", three, 1), ("five quotas", all, 60_000)] {
        let take = Take { model: "m", estimate: NanoUsd(100), bound: Some(NanoUsd(100)), tokens: 300 };
        let mut calls = 0_i64;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // Another minute now and then, so that no rate runs full.
                calls += 1;
                let now = NOW.plus(calls / 1_000_000 * minute);
                if let Ok(reservation) = chain.reserve(&take, now) {
                    reservation.settle(NanoUsd(70), 200);
                }
            });
        });
    }
    group.finish();
}

fn meter(criterion: &mut Criterion) {
    let event = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}],"usage":null}"#;
    let chunk = Bytes::from(format!("{event}\n\n"));
    let mut group = criterion.benchmark_group("meter");
    group.throughput(Throughput::Bytes(chunk.len() as u64));
    let mut meter = Meter::of_events(Dialect::OpenaiChat, true);
    group.bench_function("one event of a stream", |bencher| bencher.iter(|| meter.feed(black_box(chunk.clone()))));
    let answer = Bytes::from(body(1_000));
    group.throughput(Throughput::Bytes(answer.len() as u64));
    group.bench_function("a whole answer of 1 KB", |bencher| {
        bencher.iter(|| {
            let mut meter = Meter::of_answer(Dialect::OpenaiChat);
            meter.feed(black_box(answer.clone()));
            meter.finish()
        });
    });
    group.finish();
}

criterion_group!(benches, head_scan, admit, meter);
criterion_main!(benches);

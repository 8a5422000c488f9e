//! Names, labels and buckets of the series that are counted as things happen; `snapshot` has those set at each scrape.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Ours is tens of microseconds; a second means that something is broken.
const OVERHEAD_BUCKETS: [f64; 16] =
    [10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
/// A cached answer takes tens of milliseconds, a reasoning model minutes.
const UPSTREAM_BUCKETS: [f64; 16] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Fast models stream a token a millisecond; a minute of silence is the idle deadline's business.
const TOKEN_GAP_BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0];

/// Every series, registered.
pub(super) struct Families {
    pub(super) registry: Registry,
    pub(super) requests: IntCounterVec,
    pub(super) in_flight: IntGauge,
    pub(super) refusals: IntCounterVec,
    pub(super) tokens: IntCounterVec,
    pub(super) units: IntCounterVec,
    pub(super) spend: IntCounterVec,
    pub(super) overhead: Histogram,
    pub(super) upstream: HistogramVec,
    pub(super) first_token: HistogramVec,
    pub(super) token_gap: HistogramVec,
    pub(super) failovers: IntCounterVec,
    pub(super) estimated: IntCounterVec,
    pub(super) unpriced: IntCounter,
    pub(super) bound_exceeded: IntCounterVec,
    pub(super) cooling: IntGaugeVec,
    pub(super) benched: IntGaugeVec,
    pub(super) unnoted: IntCounterVec,
    pub(super) unnoted_full: IntCounter,
    pub(super) reloads_ok: IntCounter,
    pub(super) reloads_failed: IntCounter,
}

impl Families {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let list = List(&registry);
        let build = list.gauges("tollgate_build_info", "Always 1; what runs.", &["version", "commit", "rustc"]);
        let built = [env!("CARGO_PKG_VERSION"), env!("TOLLGATE_COMMIT"), env!("TOLLGATE_RUSTC")];
        build.with_label_values(&built).set(1);
        let reloads = list.counters("tollgate_config_reloads_total", "Reloads of the configuration.", &["result"]);
        let unnoted = list.counters(
            "tollgate_requests_unnoted_total",
            "Free and refused requests of known keys that were not noted.",
            &["reason"],
        );
        Self {
            requests: list.counters(
                "tollgate_requests_total",
                "Calls that ended, refused ones included. provider and model are empty where none was chosen.",
                &["route", "provider", "model", "status_class", "error_type"],
            ),
            in_flight: list.gauge("tollgate_requests_in_flight", "Calls open at this moment."),
            refusals: list.counters("tollgate_refusals_total", "Refusals by the code that clients saw.", &["reason"]),
            tokens: list.counters("tollgate_tokens_total", "Tokens used.", &["provider", "model", "kind"]),
            units: list.counters(
                "tollgate_units_total",
                "What was used beside tokens: web_search, images, audio_milliseconds, characters, search_units.",
                &["provider", "model", "kind"],
            ),
            spend: list.counters("tollgate_spend_nano_usd_total", "Charges in nano-USD.", &["provider", "model"]),
            overhead: list.histogram("tollgate_overhead_seconds", "What Tollgate adds to a call.", &OVERHEAD_BUCKETS),
            upstream: list.histograms("tollgate_upstream_seconds", "Time spent at the provider.", &UPSTREAM_BUCKETS),
            first_token: list.histograms(
                "tollgate_time_to_first_token_seconds",
                "From the call's arrival to the first token for the client.",
                &UPSTREAM_BUCKETS,
            ),
            token_gap: list.histograms("tollgate_token_gap_seconds", "Time between tokens.", &TOKEN_GAP_BUCKETS),
            failovers: list.counters("tollgate_failovers_total", "Attempts that moved on.", &["provider", "reason"]),
            estimated: list.counters(
                "tollgate_calls_estimated_total",
                "Calls that were charged by estimate because the provider's figures were not seen.",
                &["provider", "reason"],
            ),
            unpriced: list.counter("tollgate_calls_unpriced_total", "Calls of models that have no price."),
            bound_exceeded: list.counters(
                "tollgate_calls_bound_exceeded_total",
                "Billed beyond the reserve.",
                &["provider"],
            ),
            cooling: list.gauges("tollgate_provider_cooling", "1 while it is left alone.", &["provider"]),
            benched: list.gauges(
                "tollgate_credential_benched",
                "1 while the provider refuses our credential of that number.",
                &["provider", "credential"],
            ),
            unnoted_full: unnoted.with_label_values(&["full"]),
            unnoted,
            reloads_ok: reloads.with_label_values(&["ok"]),
            reloads_failed: reloads.with_label_values(&["failed"]),
            registry,
        }
    }

    /// For series that are filled at each scrape.
    pub(super) fn list(&self) -> List<'_> {
        List(&self.registry)
    }
}

/// Makes series and registers them.
pub(super) struct List<'a>(&'a Registry);

impl List<'_> {
    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn histograms(&self, name: &str, help: &str, buckets: &[f64]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &["provider"]))
    }

    /// Names, labels and buckets are constants of these files, so that any test which makes a [`super::Metrics`] proves them.
    pub(super) fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let series = made.expect("a constant name with constant labels and ascending buckets");
        self.0.register(Box::new(series.clone())).expect("a name that is registered once");
        series
    }
}

//! The control plane's listeners: one table with every URL.
//!
//! The control listener will carry the admin API; the metrics listener is for Prometheus and the orchestrator's probes.

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the listeners tell about the process.
pub struct Vitals {
    /// Whether the gateway takes new calls.
    pub ready: AtomicBool,
    /// The text of `/metrics`.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
}

/// The control listener's table.
fn control_routes(vitals: Arc<Vitals>) -> Router {
    probes(vitals)
}

/// The metrics listener's table.
fn metrics_routes(vitals: Arc<Vitals>) -> Router {
    let metrics = Arc::clone(&vitals);
    probes(vitals).route(
        "/metrics",
        get(move || async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], (metrics.metrics)()) }),
    )
}

fn probes(vitals: Arc<Vitals>) -> Router {
    let ready = move || async move {
        let is_ready = vitals.ready.load(Ordering::Acquire);
        let answer =
            if is_ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") };
        answer.into_response()
    };
    Router::new().route("/livez", get(|| async { "alive\n" })).route("/readyz", get(ready))
}

/// Serves both listeners until the process ends; the error is that an address can't be listened on.
pub async fn serve(control: SocketAddr, metrics: SocketAddr, vitals: Arc<Vitals>) -> std::io::Result<()> {
    let control = tokio::net::TcpListener::bind(control).await?;
    let metrics = tokio::net::TcpListener::bind(metrics).await?;
    let control_routes = control_routes(Arc::clone(&vitals));
    tokio::spawn(async move { axum::serve(control, control_routes).await });
    tokio::spawn(async move { axum::serve(metrics, metrics_routes(vitals)).await });
    Ok(())
}

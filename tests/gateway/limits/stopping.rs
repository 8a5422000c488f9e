//! SIGTERM: what runs comes to its end and onto the books, nothing new is let in, and the process ends by itself.

use crate::support::{Call, DEADLINE, Gateway, Scripted, Setup, Upstream, Wire, eventually};
use rustix::process::Signal;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

const CHUNK: &str = r#"{"choices":[{"index":0,"delta":{"content":"eight letters"}}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;

/// A provider whose streams stop after their first event until the test lets them go on.
fn waiting() -> (Scripted, Sender<()>) {
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let provider = Scripted::start(move |exchange| {
        exchange.begin_stream();
        exchange.event(CHUNK);
        // The test may be over.
        let _ = gate.lock().expect("nobody panics with it").recv();
        exchange.event(USAGE);
        exchange.event("[DONE]");
        exchange.end_stream();
    });
    (provider, go)
}

#[test]
fn running_streams_end_well_and_the_process_ends_by_itself() {
    let (provider, go) = waiting();
    let setup = Setup::new().upstream(Upstream::openai("scripted", provider.url()));
    let gateway = setup.limit("drain_timeout_ms = 15_000").start();
    let mut streams: Vec<_> = (0..8).map(|_| gateway.open(&Call::chat("Hello").streamed())).collect();
    for stream in &mut streams {
        stream.head();
        stream.event().expect("an event").expect("not the end");
    }
    gateway.signal(Signal::TERM);
    eventually("it is not ready any more", || (gateway.readiness() != Some(200)).then_some(()));
    eventually("it takes no new connections", || TcpStream::connect(gateway.address).is_err().then_some(()));
    (0..8).for_each(|_| go.send(()).expect("the provider waits"));
    for mut stream in streams {
        let events = stream.events().expect("a clean end");
        assert_eq!(events.last().map(String::as_str), Some("data: [DONE]"), "{events:?}");
    }
    assert!(gateway.wait().success());
    let rows = gateway.books_of(8);
    assert!(rows.iter().all(|row| row.outcome == "complete" && row.charge_nano == 37_000), "{rows:#?}");
    assert!(gateway.audit().status.success());
}

#[test]
fn calls_are_served_until_the_listener_closes() {
    let gateway = Setup::new().limit("drain_delay_ms = 1_000").start();
    let mut kept = gateway.connect();
    let call = Call::chat("Hello").request(&gateway.key.token).bytes();
    assert_eq!(kept.exchange(&call).status, 200);
    gateway.signal(Signal::TERM);
    eventually("it says that it is not ready", || (gateway.readiness() == Some(503)).then_some(()));
    // Load balancers need a moment to see that: whoever comes meanwhile is served, and told not to come again.
    let answer = gateway.exchange(&Call::chat("Hello").request(&gateway.key.token));
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    let answer = kept.exchange(&call);
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(gateway.wait().success());
    gateway.books_of(3);
}

#[test]
fn a_request_that_comes_too_late_is_told_so_and_the_call_before_it_goes_on() {
    let (provider, go) = waiting();
    let setup = Setup::new().upstream(Upstream::openai("scripted", provider.url()));
    let gateway = setup.limit("drain_timeout_ms = 15_000").start();
    let mut wire = gateway.open(&Call::chat("Hello").streamed());
    wire.head();
    wire.event().expect("an event").expect("not the end");
    gateway.signal(Signal::TERM);
    eventually("it takes no new connections", || TcpStream::connect(gateway.address).is_err().then_some(()));
    // Said while the call before it runs, so that it is there when that ends.
    wire.send(&Call::chat("Hello").request(&gateway.key.token).bytes());
    go.send(()).expect("the provider waits");
    let events = wire.events().expect("a clean end");
    assert_eq!(events.last().map(String::as_str), Some("data: [DONE]"), "{events:?}");
    let answer = wire.answer();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &"shutting_down".into()));
    assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("1"), Some("close")));
    assert_eq!(wire.rest(), "");
    assert!(gateway.wait().success());
    assert_eq!(gateway.books_of(1).len(), 1);
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn sigterm_under_load_loses_no_call() {
    let gateway = Setup::new().limit("drain_timeout_ms = 15_000").start();
    let call = Call::chat("count up").with("max_tokens", 20).streamed().simulate("token-ms=5");
    let answered: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..12).map(|_| scope.spawn(|| call_until_refused(&gateway, &call))).collect();
        eventually("there is load", || (gateway.provider().log().len() >= 24).then_some(()));
        gateway.signal(Signal::TERM);
        clients.into_iter().map(|client| client.join().expect("it does not panic")).sum()
    });
    assert!(gateway.wait().success());
    let rows = gateway.books_of(answered);
    assert!(rows.iter().all(|row| row.outcome == "complete" && row.output_tokens == 20), "{rows:#?}");
    assert!(gateway.audit().status.success());
}

/// Makes calls until the gateway takes no more. Counts them; one that was begun must come to a good end.
fn call_until_refused(gateway: &Gateway, call: &Call) -> usize {
    let request = call.request(&gateway.key.token).bytes();
    for count in 0.. {
        let Ok(mut wire) = Wire::try_connect(gateway.address) else { return count };
        if wire.try_send(&request).is_err() {
            return count;
        }
        let Ok(head) = wire.try_head() else { return count };
        if head.status == 503 {
            // The connection was taken a moment before the end, and the request came a moment after.
            return count;
        }
        assert_eq!(head.status, 200);
        let events = wire.events().expect("a stream that has begun ends well");
        assert_eq!(events.last().map(String::as_str), Some("data: [DONE]"));
    }
    unreachable!("the gateway stops")
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let gateway = Gateway::start();
    let mut kept = gateway.connect();
    assert_eq!(kept.exchange(&Call::chat("Hello").request(&gateway.key.token).bytes()).status, 200);
    let silent = gateway.connect();
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    assert!(gateway.wait().success());
    assert!(begun.elapsed() < DEADLINE / 4, "{:?}", begun.elapsed());
    assert_eq!(kept.rest(), "");
    drop(silent);
}

#[test]
fn interrupting_it_stops_it_just_so() {
    let gateway = Gateway::start();
    gateway.signal(Signal::INT);
    assert!(gateway.wait().success());
}

#[test]
fn a_stream_that_does_not_end_is_given_up_in_time_and_settled_at_the_next_start() {
    let (provider, _go) = waiting();
    let setup = Setup::new().upstream(Upstream::openai("scripted", provider.url()));
    let gateway = setup.limit("drain_timeout_ms = 400").start();
    let mut stream = gateway.open(&Call::chat("Hello").streamed());
    let head = stream.head();
    stream.event().expect("an event").expect("not the end");
    gateway.signal(Signal::TERM);
    gateway.wait();
    assert!(stream.events().is_err(), "nobody may take it for whole");
    gateway.restart();
    let row = gateway.row(head.request_id());
    assert!(row.is_estimated && row.charge_nano > 0 && row.charge_nano <= row.reserved_nano, "{row:?}");
    assert_eq!(gateway.key_money(&gateway.key, "reserved"), 0);
    assert!(gateway.audit().status.success());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (provider, _go) = waiting();
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    let mut stream = gateway.open(&Call::chat("Hello").streamed());
    stream.head();
    gateway.signal(Signal::TERM);
    eventually("it takes no new connections", || TcpStream::connect(gateway.address).is_err().then_some(()));
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(130));
}

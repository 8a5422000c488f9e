//! The composition root: the only file that sees every part, and how the process starts and stops.

mod books;
mod own;
mod public_control;
mod reload;
mod scrape;
mod stop;

use crate::address_guard::AddressGuard;
use crate::certificates::Certificates;
use crate::config::Config;
use crate::control::{self, Control, Vitals};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::proxy::{Activity, Dialer, Door, Gateway, OwnAccounts, REQUESTS_PER_CONNECTION, Runtime};
use crate::store::Store;
use crate::store::credentials::{CredentialNotes, credential_notes};
use crate::store::journal::Shipper;
use crate::store::key_cache::KeyCache;
use crate::store::objects::ObjectBook;
use crate::store::redis::rates::SharedRates;
use crate::store::requests::{self, NoteWriter};
use crate::{cli, clock, simulated_provider, webhooks};
use arc_swap::ArcSwap;
use pingora::apps::HttpServerOptions;
use pingora::listeners::ListenerConfig;
use pingora::listeners::tls::TlsSettings;
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::server::{RunArgs, Server};
use pingora::services::listening::Service;
use public_control::PublicControl;
use scrape::Scrape;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use stop::Stop;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The runtime of everything but the data plane: store, shipper, listeners of the control plane. It lives as long as the
/// process, because connections of the store belong to it.
static BACKGROUND: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()
        .expect("a process that can't start threads can't do anything else either")
});

/// What is said when the gateway is ready.
pub enum Announcement {
    /// A line in the log.
    Log,
    /// This text on the standard output.
    Print(String),
}

/// Waits for a future of the control plane.
pub fn block_on<F: Future>(future: F) -> F::Output {
    BACKGROUND.block_on(future)
}

/// Runs a command of the records.
#[must_use]
pub fn run_records(command: cli::Command) -> ExitCode {
    let surroundings = cli::Surroundings { now: clock::now(), out: &mut std::io::stdout() };
    match BACKGROUND.block_on(cli::run(command, surroundings)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}

/// Starts the simulated provider in this process.
pub fn start_simulated_provider(options: simulated_provider::Options) -> std::io::Result<SocketAddr> {
    let (address, _) = BACKGROUND.block_on(simulated_provider::start(options))?;
    Ok(address)
}

/// Runs the simulated provider alone.
#[must_use]
pub fn simulate_provider(options: simulated_provider::Options) -> ExitCode {
    match BACKGROUND.block_on(simulated_provider::start(options)) {
        Ok((address, task)) => {
            println!("{{\"url\":\"http://{address}\"}}");
            // It ends when it is killed.
            let _ = BACKGROUND.block_on(task);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the simulated provider can't listen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the gateway until it is told to stop. `file` is watched for changes, if the configuration came from one.
#[must_use]
pub fn serve(config: Config, file: Option<PathBuf>, announcement: Announcement) -> ExitCode {
    let started = Log::start(&config.log).map_err(|error| format!("the log: {error}").into());
    let outcome = started.and_then(|log| {
        let outcome = run(config, file, announcement, &log);
        log.end();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("tollgate can't start: {problem}");
            ExitCode::FAILURE
        }
    }
}

type Problem = Box<dyn std::error::Error>;

fn run(config: Config, file: Option<PathBuf>, announcement: Announcement, log: &Log) -> Result<(), Problem> {
    let parts = BACKGROUND.block_on(Parts::open(&config, log))?;
    let server = server(&config, &parts)?;
    let limits = config.gateway.limits.clone();
    let listeners = (config.gateway.listen.clone(), config.control.listen, config.metrics.listen);
    let started = parts.start_background(config, file);
    started.map_err(|error| format!("the control or metrics listener: {error}"))?;
    let vitals = Arc::clone(&parts.vitals);
    BACKGROUND.spawn(async move {
        until_listening(&listeners.0).await;
        vitals.ready.store(true, Ordering::Release);
        announce(&announcement, &listeners);
    });
    let stop = Stop { parts: Arc::new(parts), drain_delay: limits.drain_delay, drain_timeout: limits.drain_timeout };
    server.run(RunArgs { shutdown_signal: Box::new(stop) });
    Ok(())
}

/// Waits until the gateway takes connections, so that nobody is told that it is ready before it is.
async fn until_listening(gateway: &[SocketAddr]) {
    for address in gateway {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn announce(announcement: &Announcement, (gateway, control, metrics): &(Vec<SocketAddr>, SocketAddr, SocketAddr)) {
    match announcement {
        Announcement::Log => tracing::info!(?gateway, %control, %metrics, "tollgate is ready"),
        Announcement::Print(text) => println!("{text}"),
    }
}

/// Everything that is put together at the start.
struct Parts {
    gateway: Arc<Gateway>,
    store: Store,
    keys: KeyCache,
    rates: Option<SharedRates>,
    vitals: Arc<Vitals>,
    control: Arc<Control>,
    log: Log,
    certificates: Option<Arc<Certificates>>,
    /// Those who write into the books, until they are started.
    writers: Mutex<Option<(Shipper, NoteWriter, CredentialNotes, webhooks::Sender)>>,
    writing: Mutex<Vec<JoinHandle<bool>>>,
    stopping: watch::Sender<bool>,
}

impl Parts {
    /// Opens the books, closes what a killed process left open, ships it, and only then takes keys in.
    async fn open(config: &Config, log: &Log) -> Result<Self, Problem> {
        let store = Store::of(&config.books).await?.with_ledger_settings(books::ledger_settings(config));
        books::remember_prices(&store, config).await?;
        let (journal, shipper) = books::open_journal(&store, config).await?;
        let keys = KeyCache::new(store.clone(), journal.node(), books::key_cache_settings(config)).await?;
        let rates = books::share_with_nodes(config, &store, &keys).await?;
        let metrics = Arc::new(Metrics::default());
        let (notes, note_writer) = requests::notes(store.clone(), config.ledger.requests_keep_days);
        let guard = AddressGuard::new(&config.outgoing)?;
        let control = books::open_control(&store, config, guard.clone()).await?;
        let (own_notes, own_note_writer) = credential_notes(store.clone());
        let sender = webhooks::Sender::new(store.clone(), guard.clone(), &config.outgoing, &config.webhooks);
        let gateway = Arc::new(Gateway {
            runtime: ArcSwap::from_pointee(Runtime::new(config, &metrics)?),
            keys: Arc::new(keys.clone()),
            pepper: store.pepper().clone(),
            objects: Arc::new(ObjectBook::new(store.clone(), Arc::clone(&journal))),
            journal: Arc::clone(&journal) as _,
            notes,
            authority: Arc::new(keys.leases().clone()),
            rates: rates.clone().map(|rates| Arc::new(rates) as _),
            metrics,
            control: Arc::new(PublicControl(control::service(Arc::clone(&control)))),
            own: OwnAccounts::new(guard, own_notes),
            dialer: Dialer::new(None)?,
            activity: Arc::new(Activity::default()),
            options: server_options(config),
            call_salt: call_salt()?,
        });
        let providers = Arc::downgrade(&gateway);
        control.attach(providers);
        let certificates = config.gateway.tls.as_ref().map(Certificates::load).transpose()?.map(Arc::new);
        let scrape = Scrape {
            gateway: Arc::clone(&gateway),
            journal: journal.counts(),
            keys: keys.clone(),
            store: store.clone(),
            rates: rates.clone(),
            unnoted: note_writer.counts(),
            webhooks: sender.counts(),
            log: log.clone(),
        };
        let render = move || scrape.gateway.metrics.render(&scrape.snapshot());
        let vitals = Arc::new(Vitals { ready: AtomicBool::new(false), metrics: Box::new(render) });
        let (stopping, _) = watch::channel(false);
        Ok(Self {
            gateway,
            store,
            keys,
            rates,
            vitals,
            control,
            log: log.clone(),
            certificates,
            writers: Mutex::new(Some((shipper, note_writer, own_note_writer, sender))),
            writing: Mutex::default(),
            stopping,
        })
    }

    /// Starts what runs beside the data plane.
    fn start_background(&self, config: Config, file: Option<PathBuf>) -> std::io::Result<()> {
        let listeners = control::Listeners { control: config.control.listen, metrics: config.metrics.listen };
        BACKGROUND.block_on(control::serve(listeners, Arc::clone(&self.vitals), Arc::clone(&self.control)))?;
        let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((mut shipper, note_writer, own_note_writer, sender)) = writers {
            let stopping = self.stopping.subscribe();
            let shipping = BACKGROUND.spawn(async move {
                shipper.run(stopping).await;
                let shipped = shipper.ship_all().await;
                if let Err(error) = &shipped {
                    tracing::error!(%error, "calls stay in the journal until the next start");
                }
                shipped.is_ok()
            });
            let stopping = self.stopping.subscribe();
            let noting = BACKGROUND.spawn(async move {
                note_writer.run(stopping).await;
                true
            });
            let stopping = self.stopping.subscribe();
            let telling = BACKGROUND.spawn(async move {
                sender.run(stopping).await;
                true
            });
            BACKGROUND.spawn(own_note_writer.run(self.stopping.subscribe()));
            *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = vec![shipping, noting, telling];
        }
        let (keys, stopping) = (self.keys.clone(), self.stopping.subscribe());
        BACKGROUND.spawn(async move { keys.run(stopping).await });
        BACKGROUND.spawn(books::bookkeeper(&self.store, &config).run(self.stopping.subscribe()));
        if let Some(rates) = self.rates.clone() {
            let stopping = self.stopping.subscribe();
            BACKGROUND.spawn(async move { rates.run(stopping).await });
        }
        BACKGROUND.spawn(own::rewrap(self.store.clone()));
        BACKGROUND.spawn(refresh_addresses(Arc::clone(&self.gateway)));
        BACKGROUND.spawn(Arc::clone(&self.gateway).take_up_responses());
        if let Some(file) = file {
            self.watch_configuration(config, file)?;
        }
        Ok(())
    }

    /// Puts everything that has ended on the books.
    async fn finish(&self) {
        // The error says that nothing listens any more, which is what is wanted.
        let _ = self.stopping.send(true);
        let writing = std::mem::take(&mut *self.writing.lock().unwrap_or_else(PoisonError::into_inner));
        let mut is_all_written = true;
        for writer in writing {
            let written = writer.await;
            if written.is_err() {
                tracing::error!("a writer of the books panicked; calls stay in the journal until the next start");
            }
            is_all_written &= written.unwrap_or(false);
        }
        self.keys.finish().await;
        if is_all_written && let Err(cause) = self.keys.leases().stop().await {
            tracing::warn!(%cause, "what this node holds could not be given back; it is at its next start");
        }
        self.log.end();
    }
}

fn server(config: &Config, parts: &Parts) -> Result<Server, Problem> {
    let conf = ServerConf {
        threads: config.gateway.threads,
        // The process ends itself when its last call is on the books; this only bounds the wait.
        grace_period_seconds: Some(config.gateway.limits.drain_timeout.as_secs() + 1),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(Opt::default(), conf);
    server.bootstrap();
    let mut service = Service::new("gateway".to_owned(), Door::new(Arc::clone(&parts.gateway)));
    for address in &config.gateway.listen {
        service.add_listener(ListenerConfig::tcp(address.to_string()).l4_buffer(listener_buffers()));
    }
    if let (Some(tls), Some(certificates)) = (&config.gateway.tls, &parts.certificates) {
        for address in &tls.listen {
            let mut settings = TlsSettings::intermediate("", "")?;
            settings.set_cert_resolver(Arc::clone(certificates) as _);
            settings.enable_h2();
            service.add_listener(ListenerConfig::tcp(address.to_string()).tls(settings).l4_buffer(listener_buffers()));
        }
    }
    server.add_service(service);
    Ok(server)
}

/// The head and the body of a small answer fit in one write buffer, and so leave in one send.
fn listener_buffers() -> L4BufferSettings {
    L4BufferSettings::default().write(4096)
}

fn server_options(config: &Config) -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.h2c = config.gateway.h2c;
    options.keepalive_request_limit = Some(REQUESTS_PER_CONNECTION);
    options.h2_idle_timeout = Some(config.gateway.limits.h2_idle_timeout);
    options
}

fn call_salt() -> Result<[u8; 5], getrandom::Error> {
    let mut salt = [0; 5];
    getrandom::fill(&mut salt)?;
    Ok(salt)
}

/// How often providers' names are resolved anew.
const ADDRESS_REFRESH: Duration = Duration::from_secs(30);

async fn refresh_addresses(gateway: Arc<Gateway>) {
    loop {
        tokio::time::sleep(ADDRESS_REFRESH).await;
        gateway.own.close_old();
        for provider in gateway.runtime.load_full().providers() {
            // A resolver that hangs must not keep the others from being asked.
            let refreshed = tokio::task::spawn_blocking(move || {
                provider.close_old_connections();
                provider.find_addresses();
            });
            let _ = refreshed.await;
        }
    }
}

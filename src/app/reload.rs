//! A changed configuration, taken over while calls go on: all of it, or nothing.

use super::{BACKGROUND, Parts, books};
use crate::certificates::Certificates;
use crate::config::Config;
use crate::config::reload::{Reloaded, Watcher};
use crate::proxy::{Gateway, Runtime};
use crate::store::Store;
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

impl Parts {
    /// Has the configuration read anew when a file changes or SIGHUP comes.
    pub(super) fn watch_configuration(&self, config: Config, file: PathBuf) -> std::io::Result<()> {
        let watcher = Watcher::new(&file, Arc::new(ArcSwap::from_pointee(config)));
        let (store, gateway, certificates) = (self.store.clone(), Arc::clone(&self.gateway), self.certificates.clone());
        let (trigger, triggers) = std::sync::mpsc::channel();
        let apply = move |reloaded| apply_reload(reloaded, &store, &gateway, certificates.as_deref());
        std::thread::Builder::new().name("configuration".to_owned()).spawn(move || watcher.run(&triggers, apply))?;
        BACKGROUND.spawn(async move {
            let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
            while hangup.recv().await.is_some() && trigger.send(()).is_ok() {}
        });
        Ok(())
    }
}

fn apply_reload(reloaded: Reloaded, store: &Store, gateway: &Gateway, certificates: Option<&Certificates>) {
    let applied = match reloaded {
        Reloaded::Published(config) => BACKGROUND
            .block_on(books::take_up(store, &config))
            .map_err(|error| error.to_string())
            .and_then(|()| replace_runtime(&config, gateway, certificates)),
        Reloaded::Refused(errors) => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    };
    gateway.metrics.config_reloaded(applied.is_ok());
    match applied {
        Ok(()) => tracing::info!("the new configuration is in force"),
        Err(problem) => tracing::error!(problem, "the old configuration stays in force"),
    }
}

fn replace_runtime(config: &Config, gateway: &Gateway, certificates: Option<&Certificates>) -> Result<(), String> {
    let runtime = Runtime::new(config, &gateway.metrics)?;
    if let (Some(certificates), Some(tls)) = (certificates, &config.gateway.tls) {
        certificates.reload(tls)?;
    }
    gateway.runtime.store(Arc::new(runtime));
    Ok(())
}

//! Hot reload: when a file changes or somebody asks, all files are read anew; all of the new configuration is
//! published, or none of it.

use super::place::Document;
use super::reading::{Reading, environment};
use super::{Config, ConfigError, StorePlace, Tls, WatchedFile};
use arc_swap::ArcSwap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How often files are looked at. A change must have come to rest: it is in force within twice this.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// What came of a reload, for the log and the metric.
#[derive(Debug)]
pub enum Reloaded {
    /// The new configuration is in force.
    Published(Arc<Config>),
    /// The old configuration stays in force, for these reasons.
    Refused(Vec<ConfigError>),
}

/// Watches the files of a configuration and replaces it when they change.
pub struct Watcher {
    file: PathBuf,
    current: Arc<ArcSwap<Config>>,
    environment: fn(&str) -> Option<String>,
    /// The files as they were read.
    read: Vec<WatchedFile>,
    /// The same files as they were when they were last looked at.
    seen: Vec<WatchedFile>,
}

impl Watcher {
    /// Watches the files of `current`, which was loaded from `file`.
    #[must_use]
    pub fn new(file: &Path, current: Arc<ArcSwap<Config>>) -> Self {
        let read = current.load().files.clone();
        Self { file: file.to_path_buf(), current, environment, seen: read.clone(), read }
    }

    /// Reloads on every message and on every change of a file, until nobody can send messages any more. Blocks: give
    /// it a thread.
    pub fn run(mut self, triggers: &Receiver<()>, mut report: impl FnMut(Reloaded)) {
        loop {
            match triggers.recv_timeout(POLL_INTERVAL) {
                Ok(()) => report(self.reload()),
                Err(RecvTimeoutError::Timeout) if self.has_changed() => report(self.reload()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether the files are not as they were read, and have been like this for two looks: a file that is being
    /// written may be sound TOML half-way, with half of the providers.
    fn has_changed(&mut self) -> bool {
        let now: Vec<WatchedFile> = self.read.iter().map(|file| WatchedFile::now(file.path())).collect();
        let is_at_rest = now == self.seen;
        self.seen = now;
        is_at_rest && self.seen != self.read
    }

    /// Reads all files now and publishes the result if it is sound.
    pub fn reload(&mut self) -> Reloaded {
        let reading = Reading::of_file(&self.file, &self.environment);
        self.read.clone_from(&reading.files);
        self.seen = reading.files;
        let loaded = reading.result.and_then(|config| self.refuse_fixed_changes(config));
        match loaded {
            Ok(config) => {
                let config = Arc::new(config);
                self.current.store(Arc::clone(&config));
                Reloaded::Published(config)
            }
            Err(errors) => Reloaded::Refused(errors),
        }
    }

    fn refuse_fixed_changes(&self, config: Config) -> Result<Config, Vec<ConfigError>> {
        let changed = fixed_changes(&self.current.load(), &config);
        if changed.is_empty() {
            return Ok(config);
        }
        let name = self.file.display().to_string();
        // Only the lines are taken from it, so it does no harm if the file has changed again.
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let document = Document::parse(&name, &text);
        for key in changed {
            document.report_at(key, "can't change while the gateway runs: restart it");
        }
        Err(document.into_errors())
    }
}

/// The settings that differ although they are only read at start.
fn fixed_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let tls_listen = |config: &Config| config.gateway.tls.as_ref().map(|Tls { listen, .. }| listen.clone());
    // Other master keys are taken up while the gateway runs.
    let books = StorePlace { master_keys: new.books.master_keys.clone(), ..old.books.clone() };
    let fixed = [
        ("data_dir", old.books.data_dir != new.books.data_dir),
        ("store", books != new.books && old.books.data_dir == new.books.data_dir),
        ("gateway.listen", old.gateway.listen != new.gateway.listen),
        ("gateway.tls.listen", tls_listen(old) != tls_listen(new)),
        ("gateway.h2c", old.gateway.h2c != new.gateway.h2c),
        ("gateway.threads", old.gateway.threads != new.gateway.threads),
        ("control", old.control != new.control),
        ("metrics.listen", old.metrics != new.metrics),
        ("journal", old.journal != new.journal),
        ("cluster", old.cluster != new.cluster),
        ("outgoing", old.outgoing != new.outgoing),
        ("webhooks", old.webhooks != new.webhooks),
    ];
    fixed.into_iter().filter(|(_, has_changed)| *has_changed).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Instant;

    const MAIN: &str = "
[log]
calls = true
[providers.a]
protocol = 'openai'
base_url = 'http://127.0.0.1:1/v1'
credentials = [{ file = 'a.key' }]
";

    /// A directory with a sound configuration, and a watcher of it.
    struct Scene {
        directory: tempfile::TempDir,
        current: Arc<ArcSwap<Config>>,
        watcher: Watcher,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let file = directory.path().join("tollgate.toml");
            std::fs::write(&file, MAIN).expect("written");
            std::fs::write(directory.path().join("models.toml"), "models = []").expect("written");
            std::fs::write(directory.path().join("a.key"), "first").expect("written");
            let current = Arc::new(ArcSwap::from_pointee(Config::load(&file).expect("sound")));
            let watcher = Watcher::new(&file, Arc::clone(&current));
            Self { directory, current, watcher }
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.directory.path().join(name), text).expect("written");
        }

        fn secret(&self) -> String {
            self.current.load().providers[0].credentials[0].secret.reveal().to_owned()
        }
    }

    fn messages(reloaded: Reloaded) -> Vec<String> {
        match reloaded {
            Reloaded::Published(_) => Vec::new(),
            Reloaded::Refused(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_change_is_published_once_it_is_at_rest() {
        let mut scene = Scene::new();
        assert!(!scene.watcher.has_changed());
        scene.write("a.key", "second");
        assert!(!scene.watcher.has_changed(), "it may still be being written");
        assert!(scene.watcher.has_changed());
        assert!(matches!(scene.watcher.reload(), Reloaded::Published(_)));
        assert_eq!(scene.secret(), "second");
        assert!(!scene.watcher.has_changed());
    }

    #[test]
    fn a_mistake_in_any_file_changes_nothing() {
        let mut scene = Scene::new();
        scene.write("a.key", "second");
        scene.write("tollgate.toml", &MAIN.replace("calls = true", "calls = false"));
        scene.write("models.toml", "models = 3");
        let found = messages(scene.watcher.reload());
        assert!(found.len() == 1 && found[0].contains("models.toml:1: models: must be a list"), "{found:?}");
        assert_eq!(scene.secret(), "first");
        assert!(scene.current.load().log.calls);

        scene.write("models.toml", "models = []");
        assert!(messages(scene.watcher.reload()).is_empty());
        assert_eq!(scene.secret(), "second");
        assert!(!scene.current.load().log.calls);
    }

    #[test]
    fn a_missing_file_is_watched_until_it_is_there() {
        let mut scene = Scene::new();
        scene.write("tollgate.toml", &MAIN.replace("a.key", "b.key"));
        let found = messages(scene.watcher.reload());
        assert!(found.len() == 1 && found[0].contains("b.key can't be read"), "{found:?}");
        assert!(!scene.watcher.has_changed());
        scene.write("b.key", "other");
        scene.watcher.has_changed();
        assert!(scene.watcher.has_changed());
        assert!(messages(scene.watcher.reload()).is_empty());
        assert_eq!(scene.secret(), "other");
    }

    #[test]
    fn what_is_read_only_at_start_cannot_change() {
        let mut scene = Scene::new();
        let fixed = "data_dir = 'elsewhere'\n[gateway]\nlisten = ['127.0.0.1:1']\n[journal]\nsync_ms = 7\n";
        scene.write("tollgate.toml", &format!("{fixed}{MAIN}"));
        let found = messages(scene.watcher.reload());
        let places: Vec<&str> = found.iter().filter_map(|message| message.split("tollgate.toml").nth(1)).collect();
        let expected = [
            ":1: data_dir: can't change while the gateway runs: restart it",
            ":3: gateway.listen: can't change while the gateway runs: restart it",
            ":4: journal: can't change while the gateway runs: restart it",
        ];
        assert_eq!(places, expected);
        assert!(scene.current.load().books.data_dir.ends_with("data"));
    }

    #[test]
    fn the_watcher_reloads_when_asked_and_by_itself_and_ends() {
        let Scene { directory, current, watcher } = Scene::new();
        let (trigger, triggers) = mpsc::channel();
        let (reporter, reports) = mpsc::channel();
        let thread = std::thread::spawn(move || watcher.run(&triggers, |reloaded| drop(reporter.send(reloaded))));
        let deadline = Duration::from_secs(20);
        trigger.send(()).expect("the watcher runs");
        assert!(matches!(reports.recv_timeout(deadline), Ok(Reloaded::Published(_))));

        let changed = Instant::now();
        std::fs::write(directory.path().join("a.key"), "second").expect("written");
        assert!(matches!(reports.recv_timeout(deadline), Ok(Reloaded::Published(_))), "{:?}", changed.elapsed());
        assert_eq!(current.load().providers[0].credentials[0].secret.reveal(), "second");
        drop(trigger);
        thread.join().expect("it ends");
    }
}

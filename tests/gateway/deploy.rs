//! What runs nodes: the files of `conf/deploy` agree with each other, with the configuration, and with what a gateway answers.

use crate::support::{Gateway, Request, Wire, run};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What shipping and ending may take after the last call.
const SHIPPING_SECONDS: u64 = 5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn deploy(file: &str) -> String {
    text(&format!("conf/deploy/{file}"))
}

/// All manifests of the cluster, comments left out.
fn manifests() -> String {
    let kustomization = deploy("kustomization.yaml");
    let files = kustomization.lines().filter_map(|line| line.trim().strip_prefix("- kubernetes/"));
    let all: Vec<String> = files.map(|file| without_comments(&deploy(&format!("kubernetes/{file}")))).collect();
    assert_eq!(all.len(), std::fs::read_dir(root().join("conf/deploy/kubernetes")).expect("a folder").count());
    all.join("---\n")
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Every value that stands behind `KEY:` in YAML, block or flow, and behind `KEY =` in TOML.
fn values(text: &str, key: &str) -> Vec<String> {
    let begins =
        |at: &usize| !text[..*at].ends_with(|letter: char| letter.is_alphanumeric() || "_-./".contains(letter));
    let behind = text.match_indices(key).map(|(at, _)| at).filter(begins).map(|at| &text[at + key.len()..]);
    let written = behind.filter_map(|rest| rest.strip_prefix(':').or_else(|| rest.strip_prefix(" =")));
    written.map(|rest| rest.split(['\n', ',', '}']).next().unwrap_or_default().trim().replace('"', "")).collect()
}

fn value(text: &str, key: &str) -> String {
    let found = values(text, key);
    assert_eq!(found.len(), 1, "{key}: {found:?}");
    found.into_iter().next().expect("one")
}

/// A number, with `_` between its digits or a unit behind it.
fn number(text: &str) -> u64 {
    let digits: String = text.chars().filter(|letter| *letter != '_').take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The manifest of an object.
fn manifest(kind: &str, name: &str) -> String {
    let wanted = (format!("kind: {kind}\n"), format!("\n  name: {name}\n"));
    let all = manifests();
    let found = all.split("---\n").find(|object| object.contains(&wanted.0) && object.contains(&wanted.1));
    found.unwrap_or_else(|| panic!("no {kind} {name}")).to_owned()
}

/// What stands below a line, as far as it is indented further.
fn below(text: &str, line: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines().skip_while(|candidate| candidate.trim() != line);
    let depth = indent(lines.next().unwrap_or_else(|| panic!("no line {line}")));
    lines.take_while(|line| line.trim().is_empty() || indent(line) > depth).map(|line| format!("{line}\n")).collect()
}

/// The port of an address.
fn port(address: &str) -> u64 {
    number(address.trim_matches(['[', ']']).rsplit_once(':').expect("an address with a port").1)
}

fn ports() -> (u64, u64) {
    let toml = deploy("tollgate.toml");
    let listen = values(&toml, "listen");
    assert_eq!(listen.len(), 2, "the gateway and its metrics: {listen:?}");
    (port(&listen[0]), port(&listen[1]))
}

fn nodes() -> Vec<String> {
    let compose = deploy("compose.yml");
    let names = compose.lines().filter_map(|line| line.strip_prefix("  node-")?.strip_suffix(':'));
    let distinct: BTreeSet<String> = names.map(|number| format!("node-{number}")).collect();
    distinct.into_iter().collect()
}

#[test]
fn the_configuration_of_a_node_is_one_that_the_gateway_takes() {
    let toml = deploy("tollgate.toml");
    let catalogue = root().join("conf/models.toml");
    let store =
        ("{ env = \"TOLLGATE_STORE_URL\" }", "{ value = \"postgres://tollgate:secret@postgres:5432/tollgate\" }");
    let given = toml.replace(store.0, store.1);
    assert_ne!(given, toml, "no password is in the configuration");
    let here = given.replace("/usr/share/tollgate/models.toml", catalogue.to_str().expect("a plain name"));
    assert_ne!(here, given, "the catalogue is where the image has it");
    let directory = tempfile::tempdir().expect("a directory");
    let keys = directory.path().join("master-keys");
    std::fs::write(&keys, "5a".repeat(32)).expect("it can be written");
    let here = here.replace("/run/secrets/master-keys", keys.to_str().expect("a plain name"));
    let file: PathBuf = directory.path().join("tollgate.toml");
    std::fs::write(&file, here).expect("it can be written");
    let checked = run(&["check", "--config", file.to_str().expect("a plain name")]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn whoever_stops_a_node_waits_for_its_calls() {
    let toml = deploy("tollgate.toml");
    let [delay_ms, timeout_ms] = ["drain_delay_ms", "drain_timeout_ms"].map(|key| number(&value(&toml, key)));
    let least = (delay_ms + timeout_ms) / 1_000 + SHIPPING_SECONDS;
    let set = manifest("StatefulSet", "tollgate");
    let unit = deploy("tollgate.service").replace('=', ": ");
    for (who, seconds) in [
        ("Kubernetes", value(&set, "terminationGracePeriodSeconds")),
        ("compose", value(&deploy("compose.yml"), "stop_grace_period")),
        ("systemd", value(&unit, "TimeoutStopSec")),
    ] {
        assert!(number(&seconds) >= least, "{who}: {seconds} of {least} s");
    }
    let probe = below(&set, "readinessProbe:");
    let [period, threshold, timeout] =
        ["periodSeconds", "failureThreshold", "timeoutSeconds"].map(|key| number(&value(&probe, key)));
    assert!((period * threshold + timeout) * 1_000 < delay_ms, "a node that stops is found out in time");
    let balancer = deploy("balancer.conf");
    let idle = balancer.split("keepalive_timeout ").nth(1).expect("how long connections are kept");
    assert!(number(idle) * 1_000 < delay_ms, "the balancer closes idle connections first");
}

#[test]
fn ports_and_probes_are_those_that_a_node_has() {
    let (gateway_port, metrics_port) = ports();
    let set = manifest("StatefulSet", "tollgate");
    assert_eq!(values(&set, "containerPort"), [gateway_port.to_string(), metrics_port.to_string()]);
    assert!(deploy("Dockerfile").contains(&format!("\nEXPOSE {gateway_port} {metrics_port}\n")));
    let (balancer, prometheus) = (deploy("balancer.conf"), deploy("prometheus.yml"));
    let nodes = nodes();
    assert_eq!(value(&set, "replicas"), nodes.len().to_string());
    assert_eq!(value(&deploy("tollgate.toml"), "nodes_max"), nodes.len().to_string());
    for node in &nodes {
        assert!(balancer.contains(&format!("server {node}:{gateway_port} ")), "{node}");
        assert!(prometheus.contains(&format!("\"{node}:{metrics_port}\"")), "{node}");
    }
    assert_eq!(value(&manifest("Service", "tollgate-nodes"), "port"), metrics_port.to_string());
    let probes = ["startupProbe:", "livenessProbe:", "readinessProbe:"].map(|probe| below(&set, probe));
    assert!(probes.iter().all(|probe| value(probe, "port") == "metrics"));
    let paths = probes.map(|probe| value(&probe, "path"));
    assert_eq!(paths, ["/livez", "/livez", "/readyz"]);
    let running = Gateway::start();
    for path in paths {
        assert_eq!(Wire::connect(running.metrics).exchange(&Request::get(&path).bytes()).status, 200, "{path}");
    }
}

#[test]
fn a_journal_has_a_volume_of_its_own_with_room() {
    let toml = deploy("tollgate.toml");
    let (data, bytes_max) = (value(&toml, "data_dir"), number(&value(&toml, "bytes_max")));
    let set = manifest("StatefulSet", "tollgate");
    let size = value(&below(&set, "volumeClaimTemplates:"), "storage");
    assert!(size.ends_with("Gi") && number(&size) << 30 > bytes_max, "{size} for {bytes_max} bytes");
    assert!(set.contains(&format!("{{ name: data, mountPath: {data} }}")));
    let compose = deploy("compose.yml");
    for node in nodes() {
        assert_eq!(compose.matches(&format!("\"{node}:{data}\"")).count(), 1, "{node}");
    }
    assert!(deploy("Dockerfile").contains(&format!("\nVOLUME {data}\n")));
    assert!(
        deploy("tollgate.service").contains(&format!("\nStateDirectory={}\n", data.trim_start_matches("/var/lib/")))
    );
}

#[test]
fn every_credential_can_be_given_to_a_node() {
    let (toml, compose) = (deploy("tollgate.toml"), deploy("compose.yml"));
    let credentials = values(&toml, "{ env").into_iter().map(|name| name.trim_end_matches([' ', ']']).to_owned());
    let wanted: BTreeSet<String> = credentials.map(|name| name.trim_end_matches([' ', '}', ']']).to_owned()).collect();
    assert!(wanted.len() > 10, "{wanted:?}");
    let given = below(&compose, "environment: &environment");
    let missing: Vec<_> = wanted.iter().filter(|name| values(&given, name).is_empty()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let set = manifest("StatefulSet", "tollgate");
    assert!(set.contains("- secretRef: { name: providers, optional: true }"), "all of a secret's names are variables");
    for store in [&set, &given] {
        assert!(store.contains("TOLLGATE_STORE_URL") && store.contains("@postgres:5432/tollgate"), "{store}");
    }
    let pepper = value(&toml, "pepper_file");
    assert_eq!(pepper, "/run/secrets/pepper", "where compose puts the secret of this name");
    assert!(set.contains("mountPath: /run/secrets,") && set.contains("items: [{ key: pepper, path: pepper },"));
    assert!(compose.contains("secrets: [pepper, master-keys]"));
    assert!(set.contains("{ key: master-keys, path: master-keys }") && toml.contains("/run/secrets/master-keys"));
    assert!(deploy("tollgate.service").contains(&format!("\nBindReadOnlyPaths=-/etc/tollgate/pepper:{pepper}\n")));
}

#[test]
fn the_balancer_takes_its_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().to_str().expect("a plain name");
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let places: String = kinds.iter().map(|kind| format!("    {kind}_temp_path {place}/{kind};\n")).collect();
    let given = nodes().iter().fold(deploy("balancer.conf"), |text, node| text.replace(node.as_str(), "127.0.0.1"));
    let here = given.replace("http {\n", &format!("http {{\n{places}"));
    assert_ne!(here, given);
    let file = directory.path().join("balancer.conf");
    std::fs::write(&file, format!("pid {place}/pid;\n{here}")).expect("it can be written");
    let errors = directory.path().join("errors");
    let checked = std::process::Command::new("nginx").arg("-t").arg("-e").arg(errors).arg("-c").arg(file).output();
    match checked {
        Ok(checked) => assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr)),
        Err(problem) => println!("not checked, as nginx can't be run: {problem}"),
    }
}

#[test]
fn nothing_is_root_or_more_than_it_must_be() {
    let all = manifests();
    let workloads = all.matches("\n  template:").count();
    assert_eq!(workloads, 4);
    let every = [
        "runAsNonRoot: true",
        "seccompProfile: { type: RuntimeDefault }",
        "allowPrivilegeEscalation: false",
        "capabilities: { drop: [ALL] }",
        "automountServiceAccountToken: false",
    ];
    for line in every {
        assert_eq!(all.matches(line).count(), workloads, "{line}");
    }
    let dockerfile = deploy("Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().expect("what runs");
    assert!(last.lines().next().is_some_and(|image| image.contains("distroless") && image.ends_with(":nonroot")));
    assert!(last.contains("\nUSER nonroot\n") && !last.contains("\nRUN "), "there is no shell in it");
}

#[test]
fn the_image_is_made_of_what_is_here() {
    let dockerfile = deploy("Dockerfile");
    let manifest_text = text("Cargo.toml");
    let rust =
        manifest_text.split("rust-version = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a version");
    assert!(dockerfile.contains(&format!("FROM rust:{rust}-")), "the compiler is the one that is tested");
    let copied = dockerfile.lines().filter(|line| line.starts_with("COPY --from=build"));
    let from_checkout = copied.flat_map(str::split_whitespace).filter_map(|word| word.strip_prefix("/build/"));
    let made = ["target/release/tollgate", "data"];
    let files: Vec<&str> = from_checkout.filter(|path| !made.contains(path)).collect();
    assert!(files.len() >= 4, "{files:?}");
    let ignore = deploy("Dockerfile.dockerignore");
    let taken: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for file in files.iter().chain(&["Cargo.lock", "build.rs", "src", "benches", "lua-free-filters"]) {
        assert!(root().join(file).exists(), "{file}");
        assert!(taken.iter().any(|place| Path::new(file).starts_with(place)), "{file} is left out");
    }
    let release = format!("tollgate:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&manifest("StatefulSet", "tollgate"), "image"), release);
    let compose = deploy("compose.yml");
    assert_eq!(values(&compose, "image")[0], release);
    let (of_compose, of_cluster) = (values(&compose, "image"), values(&manifests(), "image"));
    let differing: Vec<_> = of_cluster.iter().filter(|image| !of_compose.contains(image)).collect();
    assert!(differing.is_empty(), "{differing:?}");
    assert!(text("CHANGELOG.md").contains(&format!("\n## [{}]", env!("CARGO_PKG_VERSION"))));
}

//! The configuration as its users meet it: the shipped files, each mistake and its place.

mod exact_prices;
mod shipped_prices;

use super::place::Document;
use super::reading::Reading;
use super::*;

const SHIPPED: &str = include_str!("../../conf/tollgate.toml");
const SHIPPED_MODELS: &str = include_str!("../../conf/models.toml");

const PROVIDER: &str = "
[providers.a]
protocol = 'openai'
base_url = 'https://host/v1'
credentials = [{ value = 'secret' }]
";

fn with_credentials(name: &str) -> Option<String> {
    matches!(name, "OPENAI_API_KEY" | "ANTHROPIC_API_KEY").then(|| format!("sk-{name}"))
}

fn without_credentials(_: &str) -> Option<String> {
    None
}

fn parse(main: &str, models: &str) -> Result<Config, Vec<String>> {
    let environment = |name: &str| (name == "EMPTY").then(String::new);
    let reading = Reading::of_texts(("c.toml", main), ("m.toml", models), &environment);
    reading.result.map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn mistakes(main: &str, models: &str) -> Vec<String> {
    parse(main, models).map(|config| config.summary()).expect_err("it has mistakes")
}

/// The only mistake in a main file of which line 1 is `text`, followed by a sound provider.
fn mistake(text: &str) -> String {
    let found = mistakes(&format!("{text}\n{PROVIDER}"), "models = []");
    assert_eq!(found.len(), 1, "{text}: {found:?}");
    found[0].clone()
}

/// The only mistake in a main file whose sound provider has `text` as its line 6.
fn provider_mistake(text: &str) -> String {
    let found = mistakes(&format!("{PROVIDER}{text}"), "models = []");
    assert_eq!(found.len(), 1, "{text}: {found:?}");
    found[0].clone()
}

/// A models file of one model, its price from line 9.
fn model(price: &str) -> String {
    format!(
        "[[models]]
id = 'm'
aliases = ['n']
context_tokens = 1000
output_tokens_max = 100
output_limit_field = 'max_tokens'
candidates = [{{ provider = 'a', model = 'x' }}]
[[models.prices]]
{price}"
    )
}

// The shipped files.

#[test]
fn the_shipped_files_are_sound() {
    let shipped = |environment| {
        Reading::of_texts(("conf/tollgate.toml", SHIPPED), ("conf/models.toml", SHIPPED_MODELS), environment).result
    };
    let config = shipped(&with_credentials).expect("sound with credentials");
    let others = "gemini, azure, bedrock, mistral, cohere, deepseek, xai, groq, openrouter, together, fireworks, perplexity, \
                  vllm, ollama";
    let left_out =
        |served: &str, names: &str| format!("{served} of them served; left out for want of a credential: {names}");
    assert_eq!(config.summary(), left_out("2 providers, 468 models, 101", others));
    assert_eq!(config.providers[0].credentials[0].secret.reveal(), "sk-OPENAI_API_KEY");
    assert_eq!(config.books.data_dir, Path::new("conf/data"));

    let config = shipped(&without_credentials).expect("sound without credentials");
    assert_eq!(config.summary(), left_out("0 providers, 468 models, 0", &format!("openai, anthropic, {others}")));
}

#[test]
fn the_shipped_values_are_the_defaults() {
    let shipped = parse(SHIPPED, "models = []").expect("sound");
    let empty = parse("", "models = []").expect("sound");
    assert_eq!(shipped.books, empty.books);
    assert_eq!(shipped.gateway, empty.gateway);
    assert_eq!((shipped.control, shipped.metrics), (empty.control, empty.metrics));
    assert_eq!((shipped.keys, shipped.journal), (empty.keys, empty.journal));
    assert_eq!((shipped.quotas, shipped.log), (empty.quotas, empty.log));

    let environment = &with_credentials;
    let config = Reading::of_texts(("c.toml", SHIPPED), ("m.toml", "models = []"), environment).result.expect("sound");
    let [written, defaulted] = &config.providers[..] else { panic!("two providers") };
    let as_openai = Provider {
        name: written.name.clone(),
        protocol: written.protocol,
        apis: Arc::clone(&written.apis),
        base_url: written.base_url.clone(),
        credentials: written.credentials.clone(),
        credential: written.credential.clone(),
        ..defaulted.clone()
    };
    assert_eq!(*written, as_openai);
}

#[test]
fn every_setting_is_documented() {
    // A setting that is off has a # right before it; a remark has a space after it.
    let is_off = |line: &str| line.starts_with(|first: char| first.is_ascii_lowercase() || first == '[');
    let all_on: Vec<&str> =
        SHIPPED.lines().map(|line| line.strip_prefix('#').filter(|rest| is_off(rest)).unwrap_or(line)).collect();
    assert_eq!(undocumented_keys(&all_on.join("\n")), Vec::<String>::new());
    let found = mistakes(&all_on.join("\n"), "models = []");
    assert!(found.iter().all(|mistake| !mistake.contains("unknown key")), "{found:?}");
}

#[test]
fn every_setting_of_a_model_is_documented() {
    let remarks: String = SHIPPED_MODELS.lines().take_while(|line| line.starts_with('#')).collect();
    let document = Document::parse("m.toml", "[[models]]\nprices = [{}]\ncandidates = [{}]\n");
    document.read(|root| models::read_catalogue(root, &providers::Providers::default(), 0));
    for key in document.absent_keys() {
        let name = key.rsplit('.').next().unwrap_or_default();
        let is_word = |word: &str| word == name;
        let mut words = remarks.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        assert!(words.any(is_word), "{key} is not documented");
    }
}

#[test]
fn the_files_on_disk_are_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tollgate.toml");
    assert!(check(&file).expect_err("no file").contains("tollgate.toml can't be read"));

    std::fs::write(&file, "data_dir = 'books'\n\n[catalogue]\nfile = 'm.toml'\n").expect("written");
    let found = check(&file).expect_err("no models");
    assert!(found.contains("tollgate.toml:4: catalogue.file: ") && found.contains("m.toml can't be read"), "{found}");

    std::fs::write(directory.path().join("m.toml"), "models = []").expect("written");
    assert_eq!(check(&file), Ok("0 providers, 0 models, 0 of them served".to_owned()));
    let config = Config::load(&file).expect("sound");
    assert_eq!(config.books.data_dir, directory.path().join("books"));
    let watched: Vec<&Path> = config.files.iter().map(WatchedFile::path).collect();
    assert_eq!(watched, [file, directory.path().join("m.toml")]);
}

// Mistakes and their places.

#[test]
fn mistakes_of_all_files_are_reported_together() {
    let main = "[gateway]\nthreads = -1\n\n[providers.a]\nprotocol = 'klingon'\nbase_url = 'host'\ncredentals = 3\n";
    let found = mistakes(main, "[[models]]\nid = 'a b'\n");
    let expected = [
        "c.toml:2: gateway.threads: must be from 0 to 1024, not -1",
        "c.toml:4: providers.a.credentials: missing",
        "c.toml:5: providers.a.protocol: not one of openai, anthropic, gemini, cohere, bedrock",
        "c.toml:6: providers.a.base_url: not an absolute http(s) URL",
        "c.toml:7: providers.a.credentals: unknown key; did you mean credentials?",
        "m.toml:1: models[a b].context_tokens: missing",
        "m.toml:1: models[a b].output_tokens_max: missing",
        "m.toml:1: models[a b].output_limit_field: missing",
        "m.toml:1: models[a b].prices: missing",
        "m.toml:1: models[a b].candidates: missing",
        "m.toml:2: models[a b].id: a model's name is 1 to 128 printable ASCII characters without spaces, quotes and \
         backslashes",
    ];
    assert_eq!(found, expected);
}

#[test]
fn mistakes_about_ourselves_have_their_places() {
    for (text, expected) in [
        ("dta_dir = 'x'", "c.toml:1: dta_dir: unknown key; did you mean data_dir?"),
        ("data_dir = ''", "c.toml:1: data_dir: must not be empty"),
        ("gateway = 7", "c.toml:1: gateway: must be a table, not integer"),
        ("gateway.h2c = 'yes'", "c.toml:1: gateway.h2c: must be true or false, not string"),
        ("gateway.listen = []", "c.toml:1: gateway.listen: must name an address where there is no gateway.tls"),
        ("gateway.listen = '127.0.0.1:80'", "c.toml:1: gateway.listen: must be a list in [ ], not string"),
        (
            "gateway.listen = ['localhost']",
            "c.toml:1: gateway.listen[0]: not an address and port such as 127.0.0.1:8080 or [::]:8080",
        ),
        ("gateway.error_shape = 'x'", "c.toml:1: gateway.error_shape: not one of protocol, gateway, numeric"),
        (
            "gateway.cors_origins = ['https://a/']",
            "c.toml:1: gateway.cors_origins[0]: not an origin such as https://app.example.com, nor *",
        ),
        (
            "gateway.trusted_proxies = ['10.0.0.1/8']",
            "c.toml:1: gateway.trusted_proxies[0]: the address has bits beyond the range",
        ),
        (
            "gateway.limits.body_bytes_max = 4_000_000_000",
            "c.toml:1: gateway.limits.request_bytes_in_flight_max: must be at least body_bytes_max",
        ),
        ("gateway.limits.headers_max = 1.5", "c.toml:1: gateway.limits.headers_max: must be a whole number, not float"),
        (
            "gateway.limits.header_timeout_ms = 0",
            "c.toml:1: gateway.limits.header_timeout_ms: must be from 1 to 3600000, not 0",
        ),
        (
            "metrics.listen = '127.0.0.1:8080'",
            "c.toml:1: metrics.listen: 127.0.0.1:8080 is taken by gateway.listen already",
        ),
        ("keys.prefix = 'a b'", "c.toml:1: keys.prefix: must be 1 to 32 letters, digits, hyphens or underscores"),
        (
            "journal.bytes_max = 2_097_152",
            "c.toml:1: journal.bytes_max: must hold at least two segments of journal.segment_bytes",
        ),
        ("log.level = 'loud'", "c.toml:1: log.level: not one of error, warn, info, debug, trace"),
        ("log.format = 'xml'", "c.toml:1: log.format: not one of json, text"),
    ] {
        assert_eq!(mistake(text), expected, "{text}");
    }
}

#[test]
fn tls_files_must_hold_what_they_are_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let name = directory.path().join("c.toml").display().to_string();
    let tls = "gateway.tls = { listen = ['127.0.0.1:8443'], certificate = 'crt', key = 'key' }";
    let load = || Reading::of_texts((&name, tls), ("m.toml", "models = []"), &without_credentials).result;
    std::fs::write(directory.path().join("crt"), "-----BEGIN PRIVATE KEY-----\n").expect("written");
    let found: Vec<String> = load().expect_err("no certificate").iter().map(ToString::to_string).collect();
    assert!(found[0].contains("gateway.tls.certificate: ") && found[0].contains("holds no PEM part CERTIFICATE"));
    assert!(found[1].contains("gateway.tls.key: ") && found[1].contains("can't be read"), "{found:?}");

    std::fs::write(directory.path().join("crt"), "-----BEGIN CERTIFICATE-----\n").expect("written");
    std::fs::write(directory.path().join("key"), "-----BEGIN EC PRIVATE KEY-----\n").expect("written");
    let config = load().expect("sound");
    assert_eq!(config.gateway.tls.expect("TLS").key, directory.path().join("key"));
    assert_eq!(config.files.len(), 2);
}

#[test]
fn mistakes_in_providers_have_their_places() {
    for (text, expected) in [
        ("h2 = 1", "c.toml:6: providers.a.h2: must be true or false, not integer"),
        ("proxy = 'https://p:1'", "c.toml:6: providers.a.proxy: must be http://HOST:PORT"),
        ("ca_file = 7", "c.toml:6: providers.a.ca_file: must be text in quotes, not integer"),
        ("input_estimate = 'x'", "c.toml:6: providers.a.input_estimate: not one of bytes/4, bound"),
        ("default_tier = 'x'", "c.toml:6: providers.a.default_tier: not one of standard, flex, priority, batch"),
        ("on_disconnect = 'x'", "c.toml:6: providers.a.on_disconnect: not one of cancel, drain"),
        (
            "credential = 'x'",
            "c.toml:6: providers.a.credential: not one of bearer, x-api-key, api-key, x-goog-api-key, sigv4",
        ),
        ("credential = 'sigv4'", "c.toml:2: providers.a.region: missing: signatures name the region"),
        (
            "region = 'us-east-1'",
            "c.toml:6: providers.a.region: is of no use: only signatures (credential = \"sigv4\") name the region",
        ),
        (
            "credential = 'sigv4'\nregion = 'us-east-1'",
            "c.toml:5: providers.a.credentials: must be ID:SECRET or ID:SECRET:SESSION_TOKEN for signatures",
        ),
        ("query = 'a b'", "c.toml:6: providers.a.query: not parameters such as api-version=2026-01-01"),
        ("adds_usage = 1", "c.toml:6: providers.a.adds_usage: must be true or false, not integer"),
        (
            "apis = ['messages']",
            "c.toml:6: providers.a.apis[0]: not one of chat, responses, completions, embeddings, images, speech, \
             transcription, moderations, realtime",
        ),
        ("drain_ms_max = 0", "c.toml:6: providers.a.drain_ms_max: must be from 1 to 86400000, not 0"),
        ("headers = { 'a b' = 'c' }", "c.toml:6: providers.a.headers.a b: not a header name"),
        ("headers = { a = \"b\\n\" }", "c.toml:6: providers.a.headers.a: not a header value"),
        ("headers = { Cookie = 'c' }", "c.toml:6: providers.a.headers.Cookie: is written by the gateway itself"),
        (
            "headers = { a = 'b', A = 'c' }",
            "c.toml:6: providers.a.headers.A: is there twice: case makes no difference in header names",
        ),
        ("timeouts = { idle = 1 }", "c.toml:6: providers.a.timeouts.idle: unknown key; did you mean idle_ms?"),
        ("timeouts = { total_ms = 1 }", "c.toml:6: providers.a.timeouts.total_ms: must be at least header_ms"),
    ] {
        assert_eq!(provider_mistake(text), expected, "{text}");
    }
    for name in [
        "v1",
        "v1beta",
        "v2",
        "api",
        "key",
        "model",
        "'openapi.json'",
        "'auth.md'",
        "'.well-known'",
        "metrics",
        "A",
        "a_b",
        "''",
    ] {
        let found = mistakes(&PROVIDER.replace(".a]", &format!(".{name}]")), "models = []");
        assert!(found.len() == 1 && found[0].starts_with("c.toml:2: providers."), "{found:?}");
    }
}

#[test]
fn a_credential_must_be_there_unless_the_provider_is_optional() {
    let with = |credentials: &str| PROVIDER.replace("[{ value = 'secret' }]", credentials);
    for (credentials, message) in [
        ("[]", ": must name a credential such as { env = \"NAME\" }"),
        ("[{ weight = 1 }]", "[0]: must have exactly one of env, file, value"),
        ("[{ env = 'A', value = 'b' }]", "[0]: must have exactly one of env, file, value"),
        ("[{ env = 'ABSENT' }]", "[0]: the environment variable ABSENT is not set"),
        ("[{ value = 'a' }, { env = 'EMPTY' }]", "[1]: the environment variable EMPTY is empty"),
        ("[{ value = 'a', weight = 0 }]", "[0].weight: must be from 1 to 1000000, not 0"),
        ("[{ value = \"a\\u0000\" }]", "[0]: the value holds characters that a header can't carry"),
    ] {
        let found = mistakes(&with(credentials), "models = []");
        assert_eq!(found, [format!("c.toml:5: providers.a.credentials{message}")], "{credentials}");
    }
    let found = mistakes(&with("[{ file = 'no/such' }]"), "models = []");
    assert!(found[0].starts_with("c.toml:5: providers.a.credentials[0]: no/such can't be read"), "{found:?}");

    let optional = format!("{}optional = true", with("[{ env = 'ABSENT' }]"));
    let config = parse(&optional, &model("from = '2026-08-01'\ninput = '1'\noutput = '2'")).expect("sound");
    assert_eq!((config.providers.len(), config.providers_left_out.len()), (0, 1));
    assert!(config.catalogue.find("m").expect("the model").candidates.is_empty());
    let two = format!("{}optional = true", with("[{ env = 'ABSENT' }, { value = 'b', weight = 3 }]"));
    assert_eq!(parse(&two, "models = []").expect("sound").providers[0].credentials[0].weight, 3);
}

#[test]
fn mistakes_in_models_have_their_places() {
    let sound = model("from = '2026-08-01'\ninput = '1'\noutput = '2'");
    for (written, instead, expected) in [
        ("'a'", "'b'", "m.toml:7: models[m].candidates[0].provider: there is no provider b in the configuration"),
        ("['n']", "['m']", "m.toml:3: models[m].aliases[0]: m is a name of m already"),
        ("'max_tokens'", "'x'", "m.toml:6: models[m].output_limit_field: not one of max_completion_tokens, max_tokens"),
        ("= 1000", "= 0", "m.toml:4: models[m].context_tokens: must be from 1 to 1000000000000, not 0"),
        ("'2026-08-01'", "'2026-02-30'", "m.toml:9: models[m].prices[0].from: not a date such as 2026-08-01"),
        ("'1'", "1", "m.toml:10: models[m].prices[0].input: must be text in quotes, not integer"),
        (
            "'1'",
            "'1e3'",
            "m.toml:10: models[m].prices[0].input: not a decimal number of dollars such as 12 or 0.000001",
        ),
        ("'1'", "'-1'", "m.toml:10: models[m].prices[0].input: must be from 0 to 1000000 dollars"),
        ("output = '2'", "", "m.toml:8: models[m].prices[0].output: missing"),
        ("output = ", "outputs = ", "m.toml:11: models[m].prices[0].outputs: unknown key; did you mean output?"),
    ] {
        let found = mistakes(PROVIDER, &sound.replacen(written, instead, 1));
        assert!(found.contains(&expected.to_owned()), "{instead}: {found:?}");
    }
    let twice = format!("{sound}\n{sound}");
    let found = mistakes(PROVIDER, &twice);
    let expected = [
        "m.toml:13: models[m].id: m is a name of m already",
        "m.toml:14: models[m].aliases[0]: n is a name of m already",
    ];
    assert_eq!(found, expected);
}

#[test]
fn no_mode_is_free_by_omission() {
    let priced = |mode: &str, price: &str| {
        let text =
            model(&format!("from = '2026-08-01'\n{price}")).replace("id = 'm'", &format!("id = 'm'\nmode = '{mode}'"));
        parse(PROVIDER, &text).map(|_| ()).map_err(|found| found.join("\n"))
    };
    let zero = "input = '0'\noutput = '0'\n";
    for (mode, key, needs) in [
        ("image", "image", "image"),
        ("speech", "character", "character or audio_second"),
        ("transcription", "audio_second", "audio_second"),
        ("realtime", "audio_second", "audio_second"),
        ("rerank", "search_unit", "search_unit"),
    ] {
        let missing = format!(
            "m.toml:9: models[m].prices[0].{key}: missing: a model of mode {mode} that is not billed by tokens needs {needs}"
        );
        assert_eq!(priced(mode, zero), Err(missing), "{mode}");
        assert_eq!(priced(mode, &format!("{zero}{key} = '0.01'")), Ok(()), "{mode}");
        // That it is free can be said.
        assert_eq!(priced(mode, &format!("{zero}{key} = '0'")), Ok(()), "{mode}");
        assert_eq!(priced(mode, "input = '1'\noutput = '2'"), Ok(()), "{mode}");
    }
    for mode in ["chat", "completion", "image", "speech", "transcription", "realtime"] {
        let missing = "m.toml:9: models[m].prices[0].output: missing".to_owned();
        assert_eq!(priced(mode, "input = '1'\nimage = '1'\naudio_second = '1'"), Err(missing), "{mode}");
    }
    for mode in ["embedding", "moderation", "rerank"] {
        assert_eq!(priced(mode, "input = '1'\ninput_batch = '0.5'"), Ok(()), "{mode}");
    }
}

#[test]
fn mistakes_in_prices_have_their_places() {
    for (text, expected) in [
        (
            "cache_write_1h = '0.5'",
            "12: models[m].prices[0].cache_write_1h: must not be below cache_write (where that is absent: input)",
        ),
        ("image = {}", "12: models[m].prices[0].image: must list a picture such as \"1024x1024\""),
        ("image = { a = 1 }", "12: models[m].prices[0].image.a: must be text in quotes, not integer"),
        ("image = 7", "12: models[m].prices[0].image: must be text in quotes, not integer"),
        ("input_flex = '1'", "8: models[m].prices[0].output_flex: missing, but there is input_flex"),
        (
            "long_context_above_tokens = 5",
            "12: models[m].prices[0].long_context_above_tokens: needs long_input and long_output",
        ),
        (
            "long_input = '2'\nlong_output = '3'",
            "8: models[m].prices[0].long_context_above_tokens: missing, but there are long_ prices",
        ),
        (
            "[[models.prices]]\nfrom = '2026-08-01'\ninput = '1'\noutput = '2'",
            "12: models[m].prices[1]: has the same date in from as another version",
        ),
    ] {
        let models = model(&format!("from = '2026-08-01'\ninput = '1'\noutput = '2'\n{text}"));
        assert_eq!(mistakes(PROVIDER, &models), [format!("m.toml:{expected}")], "{text}");
    }
}

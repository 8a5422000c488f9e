//! curl, for the versions of HTTP that the bare socket does not speak.

use super::call::Request;
use std::io::Write;
use std::process::{Command, Stdio};

/// Sends a request with curl. Gives back version and status, as in `2 200`, and the body; nothing if curl failed.
pub(crate) fn curl(url: &str, options: &[&str], request: &Request) -> Option<(String, String)> {
    let headers = request.headers.iter().map(|(name, value)| format!("{name}: {value}"));
    let mut command = Command::new("curl");
    command.args(["--silent", "--no-buffer", "--max-time", "20", "--noproxy", "*"]).args(options);
    for header in headers {
        command.args(["--header", &header]);
    }
    command.args(["--request", request.method, "--data-binary", "@-", "--write-out", "\n%{http_version} %{http_code}"]);
    command.arg(format!("{url}{}", request.path));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("curl is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    let body = request.body.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output().expect("curl ends");
    // Curl may have ended without reading everything.
    let _ = writer.join();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, version) = text.rsplit_once('\n')?;
    output.status.success().then(|| (version.to_owned(), body.to_owned()))
}

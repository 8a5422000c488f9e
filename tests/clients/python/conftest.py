"""Starts one demo gateway for all suites, makes keys beside it as an operator does, and stops it at the end."""

import itertools
import json
import os
import pathlib
import selectors
import signal
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
BINARY = os.environ.get("TOLLGATE_BIN", str(REPOSITORY / "target/release/tollgate"))
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 30

# A real provider's key would make that provider a candidate of the demo, and the SDKs read these variables too.
for name in [name for name in os.environ if name.startswith(("OPENAI_", "ANTHROPIC_"))]:
    del os.environ[name]


class Demo:
    def __init__(self, line):
        about = json.loads(line)
        self.gateway = about["gateway"]
        self.key = about["key"]
        self.org = about["org"]
        self.data = about["data"]
        self.names = (f"client-{number}" for number in itertools.count())

    def make_key(self, **limits):
        """A new key's token; `make_key(limit="0.01", rpm=2)` passes `--limit 0.01 --rpm 2`."""
        options = [text for name, value in limits.items() for text in (f"--{name}", str(value))]
        command = [BINARY, "key", "create", "--org", self.org, "--name", next(self.names), "--data", self.data, "--json"]
        made = subprocess.run(command + options, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(made.stdout)["token"]


def first_line(process):
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    return process.stdout.readline() if selector.select(START_SECONDS_MAX) else ""


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    log = directory / "log"
    command = [BINARY, "demo", "--port", "0", "--json", "--data", str(directory / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log.open("w"), text=True)
    try:
        line = first_line(process)
        assert line, f"no line from the demo within {START_SECONDS_MAX} s:\n{log.read_text()}"
        yield Demo(line)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=STOP_SECONDS_MAX)
        assert process.returncode == 0, log.read_text()
        assert rest == "", "the demo prints one line"
    finally:
        process.kill()
        process.wait()

"""Starts one demo gateway for all suites, makes keys beside it as an operator does, and stops it at the end."""

import itertools
import json
import os
import pathlib
import selectors
import signal
import socket
import subprocess
import time
import types
import urllib.error
import urllib.request

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
BINARY = os.environ.get("TOLLGATE_BIN", str(REPOSITORY / "target/release/tollgate"))
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 30

# A real provider's key would make that provider a candidate of the demo, and the SDKs read these variables too.
for name in [name for name in os.environ if name.startswith(("OPENAI_", "ANTHROPIC_")) or name.endswith("_API_KEY")]:
    del os.environ[name]


class Demo:
    def __init__(self, line):
        about = json.loads(line)
        self.gateway = about["gateway"]
        self.control = about["control"]
        self.operator_token = about["operator_token"]
        self.key = about["key"]
        self.org = about["org"]
        self.data = about["data"]
        self.simulated_provider = about["simulated_provider"]
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


@pytest.fixture(params=["provider", "gateway"])
def door(request, demo):
    """Where a client knocks: at the provider itself or at the gateway before it. It must not be able to tell which."""
    address = demo.gateway if request.param == "gateway" else demo.simulated_provider
    return types.SimpleNamespace(address=address, key=demo.key, is_gateway=request.param == "gateway")


CONFIGURATION = """
[gateway]
listen = ["{gateway}"]
[gateway.limits]
drain_delay_ms = 0
[control]
listen = "{control}"
[metrics]
listen = "{metrics}"
"""
SERVED = """
[providers.{protocol}]
protocol = "{protocol}"
base_url = "{simulated_provider}/v1"
credentials = [{{ value = "sk-simulated" }}]
"""
PRICED_LATER = """
[[models]]
id = "{model}"
context_tokens = 1000
output_tokens_max = 1000
output_limit_field = "max_tokens"
candidates = [{{ provider = "{protocol}", model = "{model}" }}]
[[models.prices]]
from = "2999-01-01"
input = "1"
output = "1"
"""


@pytest.fixture(scope="session")
def unpriced(demo, tmp_path_factory):
    """A gateway before the demo's provider whose models have no price yet."""
    directory = tmp_path_factory.mktemp("unpriced")
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    names = ["gateway", "control", "metrics"]
    addresses = {name: f"127.0.0.1:{listener.getsockname()[1]}" for name, listener in zip(names, held)}
    served = {"openai": "gpt-4o-mini", "anthropic": "claude-sonnet-4-6"}
    about = {"simulated_provider": demo.simulated_provider}
    sections = [SERVED.format(protocol=protocol, **about) for protocol in served]
    models = [PRICED_LATER.format(protocol=protocol, model=model) for protocol, model in served.items()]
    (directory / "tollgate.toml").write_text(CONFIGURATION.format(**addresses) + "".join(sections))
    (directory / "models.toml").write_text("".join(models))

    def record(*command):
        command = [BINARY, *command, "--data", str(directory / "data"), "--json"]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    org = record("org", "create", "clients")["id"]
    key = record("key", "create", "--org", org, "--name", "clients")["token"]
    for listener in held:
        listener.close()
    log = directory / "log"
    process = subprocess.Popen([BINARY, "serve", "--config", str(directory / "tollgate.toml")], stderr=log.open("w"))
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not is_ready(addresses["metrics"]):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield types.SimpleNamespace(gateway="http://" + addresses["gateway"], key=key)
    finally:
        process.kill()
        process.wait()


def is_ready(address):
    try:
        return urllib.request.urlopen(f"http://{address}/readyz", timeout=5).status == 200
    except urllib.error.URLError:
        return False

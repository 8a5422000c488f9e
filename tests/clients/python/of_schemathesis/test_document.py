"""The control plane answers as its document says, whatever it is sent: every check of Schemathesis, and chains of requests."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
EXAMPLES = os.environ.get("TOLLGATE_SCHEMATHESIS_EXAMPLES", "10")
SECONDS_MAX = 900


def run(demo, token, tmp_path):
    """Lets Schemathesis ask everything with a token; gives back its report."""
    command = [
        str(pathlib.Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(HERE / "schemathesis.toml"),
        "run",
        f"{demo.control}/openapi.json",
        "--header",
        f"Authorization: Bearer {token}",
        "--checks",
        "all",
        "--max-examples",
        EXAMPLES,
        "--seed",
        "1",
    ]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS_MAX)


def test_an_operator_gets_what_the_document_says(demo, tmp_path):
    report = run(demo, demo.operator_token, tmp_path)
    assert report.returncode == 0, report.stdout[-20_000:] + report.stderr[-2_000:]


def test_a_key_gets_what_the_document_says(demo, tmp_path):
    report = run(demo, demo.key, tmp_path)
    assert report.returncode == 0, report.stdout[-20_000:] + report.stderr[-2_000:]

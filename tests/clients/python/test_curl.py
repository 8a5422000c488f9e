"""curl, with every byte and every header in sight, at the provider and through the gateway alike."""

import json
import subprocess

HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


def curl(door, path, *options):
    """Status, headers in lower case, and the body."""
    command = ["curl", "--silent", "--no-buffer", "--include", "--noproxy", "*", "--max-time", "30"]
    command += ["--header", f"Authorization: Bearer {door.key}", *options, door.address + path]
    raw = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    head, body = raw.split(b"\r\n\r\n", 1)
    if b" 100 " in head.split(b"\r\n", 1)[0]:
        head, body = body.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def post(door, path, body, *options):
    return curl(door, path, "--header", "Content-Type: application/json", "--data", json.dumps(body), *options)


def test_json_has_a_length_and_is_json(door):
    for path, body in [
        ("/v1/chat/completions", HELLO),
        ("/v1/responses", {"model": "gpt-4o-mini", "input": "hello", "store": False}),
        ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [{"parts": [{"text": "hello"}]}]}),
    ]:
        status, headers, answer = post(door, path, body)
        assert status == 200, (path, answer)
        assert headers["content-type"].startswith("application/json"), path
        assert int(headers["content-length"]) == len(answer), path
        assert json.loads(answer), path


def test_stream_ends_as_it_should(door):
    _, headers, answer = post(door, "/v1/chat/completions", {**HELLO, "stream": True})
    assert headers["content-type"].startswith("text/event-stream")
    assert answer.endswith(b"data: [DONE]\n\n")
    body = {"model": "gpt-4o-mini", "input": "hello", "stream": True, "store": False}
    _, _, answer = post(door, "/v1/responses", body)
    assert answer.rstrip().split(b"\n\n")[-1].startswith(b"event: response.completed\n")
    body = {"contents": [{"parts": [{"text": "hello"}]}]}
    _, _, answer = post(door, "/v1beta/models/gemini-2.5-flash:streamGenerateContent", body)
    assert json.loads(answer)[-1]["candidates"][0]["finishReason"] == "STOP"


def test_answers_are_the_providers_bytes(demo):
    class Provider:
        address, key = demo.simulated_provider, demo.key

    class Gateway:
        address, key = demo.gateway, demo.key

    for path, body in [
        ("/v1/chat/completions", HELLO),
        ("/v1/chat/completions", {**HELLO, "stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/completions", {"model": "gpt-4o-mini", "prompt": "hello", "n": 2}),
        ("/v1/responses", {"model": "gpt-4o-mini", "input": "hello", "store": False}),
        ("/v1/responses", {"model": "gpt-4o-mini", "input": "hello", "store": False, "stream": True}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hello"}),
        ("/v1/images/generations", {"model": "gpt-image-2", "prompt": "hello"}),
        ("/v1/audio/speech", {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "hello you"}),
        ("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", {"contents": [{"parts": [{"text": "hi"}]}]}),
        ("/v1beta/models/gemini-2.5-flash:streamGenerateContent", {"contents": [{"parts": [{"text": "hi"}]}]}),
    ]:
        provider, gateway = post(Provider, path, body), post(Gateway, path, body)
        assert provider[0] == gateway[0] == 200, (path, gateway)
        assert provider[2] == gateway[2], path
        assert provider[1]["content-type"] == gateway[1]["content-type"], path


def test_form_is_uploaded(door, tmp_path):
    content = bytes(range(256)) * 100
    (tmp_path / "bytes.bin").write_bytes(content)
    form = ["--form", "purpose=user_data", "--form", f"file=@{tmp_path / 'bytes.bin'}"]
    status, _, answer = curl(door, "/v1/files", *form)
    made = json.loads(answer)
    assert (status, made["bytes"]) == (200, len(content))
    assert curl(door, f"/v1/files/{made['id']}/content")[2] == content
    assert curl(door, f"/v1/files/{made['id']}", "--request", "DELETE")[0] == 200

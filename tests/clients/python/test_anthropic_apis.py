"""The official Anthropic SDK and its APIs beside messages, at the provider and through the gateway alike."""

import anthropic
import pytest

MODEL = "claude-sonnet-4-6"
HELLO = [{"role": "user", "content": "Say hello to the gateway."}]


@pytest.fixture
def client(door):
    return anthropic.Anthropic(base_url=door.address, api_key=door.key)


def test_tokens_are_counted_before_they_are_spent(client):
    counted = client.messages.count_tokens(model=MODEL, messages=HELLO)
    assert counted.input_tokens > 0


def test_file_is_kept_until_it_is_deleted(client):
    made = client.beta.files.upload(file=("words.txt", b"some words", "text/plain"))
    assert (made.filename, made.size_bytes) == ("words.txt", 10)
    assert client.beta.files.retrieve_metadata(made.id).id == made.id
    assert client.beta.files.download(made.id).read() == b"some words"
    assert made.id in [file.id for file in client.beta.files.list()]
    assert client.beta.files.delete(made.id).id == made.id
    with pytest.raises(anthropic.NotFoundError):
        client.beta.files.retrieve_metadata(made.id)


@pytest.mark.parametrize(
    "status, error",
    [
        (400, anthropic.BadRequestError),
        (413, anthropic.RequestTooLargeError),
        (422, anthropic.UnprocessableEntityError),
    ],
)
def test_providers_refusal_has_its_class(client, status, error):
    headers = {"x-simulate": f"status={status}"}
    with pytest.raises(error) as refused:
        client.messages.create(model=MODEL, messages=HELLO, max_tokens=10, extra_headers=headers)
    assert refused.value.status_code == status
    assert refused.value.request_id

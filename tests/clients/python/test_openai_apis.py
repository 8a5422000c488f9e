"""The official OpenAI SDK and every API beside chat, at the provider and through the gateway alike."""

import asyncio
import io
import json
import time
import wave

import openai
import pytest

MODEL = "gpt-4o-mini"
COUNT = "count please"
TOOLS = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]
BACKGROUND_SECONDS_MAX = 30


@pytest.fixture
def client(door):
    return openai.OpenAI(base_url=f"{door.address}/v1", api_key=door.key)


def sound(milliseconds):
    """Silence as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(8000)
        written.writeframes(bytes(16 * milliseconds))
    return ("sound.wav", file.getvalue())


def test_response_has_text_and_usage(client):
    response = client.responses.create(model=MODEL, input="Say hello to the gateway.", store=False)
    assert response.status == "completed"
    assert response.output_text
    assert response.usage.input_tokens > 0
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_response_ends_at_its_limit(client):
    response = client.responses.create(model=MODEL, input=COUNT, max_output_tokens=17, store=False)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == 17


def test_streamed_response_is_the_plain_one(client):
    plain = client.responses.create(model=MODEL, input="Say hello.", store=False)
    with client.responses.stream(model=MODEL, input="Say hello.", store=False) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == plain.output_text == streamed.output_text
    assert streamed.usage == plain.usage
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_response_calls_a_tool(client):
    plain = client.responses.create(model=MODEL, input="How is the weather?", tools=TOOLS, store=False)
    [call] = plain.output
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert isinstance(json.loads(call.arguments), dict)
    with client.responses.stream(model=MODEL, input="How is the weather?", tools=TOOLS, store=False) as stream:
        [streamed] = stream.get_final_response().output
    assert streamed.arguments == call.arguments
    said = [
        {"role": "user", "content": "How is the weather?"},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "fine"},
    ]
    assert client.responses.create(model=MODEL, input=said, tools=TOOLS, store=False).output_text


def test_response_is_kept_until_it_is_deleted(client):
    made = client.responses.create(model=MODEL, input="Remember this.")
    assert client.responses.retrieve(made.id).output_text == made.output_text
    [item] = client.responses.input_items.list(made.id)
    assert item.content[0].text == "Remember this."
    following = client.responses.create(model=MODEL, input="And this.", previous_response_id=made.id)
    assert following.previous_response_id == made.id
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_background_response_completes(client):
    response = client.responses.create(model=MODEL, input="Take your time.", background=True)
    assert response.status == "queued"
    deadline = time.monotonic() + BACKGROUND_SECONDS_MAX
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        response = client.responses.retrieve(response.id)
    assert response.status == "completed"
    assert response.usage.output_tokens > 0


def test_completions_answer_each_prompt(client):
    answer = client.completions.create(model=MODEL, prompt=[COUNT, "hello"], n=2, max_tokens=3)
    assert [choice.text for choice in answer.choices] == ["1 2 3"] * 4
    assert answer.usage.completion_tokens == 12
    chunks = list(client.completions.create(model=MODEL, prompt=COUNT, max_tokens=3, stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "1 2 3"


def test_embeddings_are_the_same_in_both_encodings(client):
    create = client.embeddings.create
    # The SDK asks for base64 unless it is told otherwise.
    encoded = create(model="text-embedding-3-small", input=["one", "two words"], dimensions=8)
    numbers = create(model="text-embedding-3-small", input=["one", "two words"], dimensions=8, encoding_format="float")
    assert [item.embedding for item in encoded.data] == [item.embedding for item in numbers.data]
    assert len(encoded.data[1].embedding) == 8
    assert encoded.usage.prompt_tokens == encoded.usage.total_tokens > 0


def test_picture_is_made(client):
    made = client.images.generate(model="gpt-image-2", prompt="a grey square", size="1024x1024", quality="low")
    assert made.data[0].b64_json.startswith("iVBORw0KGgo")
    assert made.usage.output_tokens == 272


def test_picture_is_streamed(client):
    request = {"model": "gpt-image-2", "prompt": "a grey square", "quality": "low", "partial_images": 1}
    partial, completed = client.images.generate(**request, stream=True)
    assert partial.type == "image_generation.partial_image"
    assert completed.type == "image_generation.completed"
    assert completed.usage.output_tokens == 372


def test_picture_is_edited(client):
    picture = ("grey.png", b"\x89PNG", "image/png")
    edited = client.images.edit(model="gpt-image-2", image=picture, prompt="make it red", quality="low")
    assert edited.data[0].b64_json
    assert edited.usage.input_tokens_details.image_tokens > 0


def test_speech_is_spoken(client):
    request = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "one two three"}
    assert client.audio.speech.create(**request).content.startswith(b"\xff\xfb")
    with client.audio.speech.with_streaming_response.create(**request, response_format="wav") as answer:
        assert b"".join(answer.iter_bytes()).startswith(b"RIFF")


def test_sound_is_written_down(client):
    whole = client.audio.transcriptions.create(model="whisper-1", file=sound(2500))
    assert whole.text
    assert whole.usage.seconds == 3
    captions = client.audio.transcriptions.create(model="whisper-1", file=sound(2500), response_format="srt")
    assert captions.startswith("1\n00:00:00,000 --> 00:00:02,500\n")
    tokens = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound(2500))
    assert tokens.usage.input_token_details.audio_tokens == 30
    *deltas, done = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound(2500), stream=True)
    assert "".join(event.delta for event in deltas) == done.text == tokens.text
    assert done.usage.to_dict() == tokens.usage.to_dict()
    assert client.audio.translations.create(model="whisper-1", file=sound(2500)).text == whole.text


def test_text_is_moderated(client):
    moderated = client.moderations.create(model="omni-moderation-latest", input=["one", "two"])
    assert [result.flagged for result in moderated.results] == [False, False]


def test_file_is_kept_until_it_is_deleted(client):
    content = bytes(range(256)) * 5000
    made = client.files.create(file=("bytes.bin", content), purpose="user_data")
    assert (made.bytes, made.filename) == (len(content), "bytes.bin")
    assert client.files.retrieve(made.id).id == made.id
    assert client.files.content(made.id).content == content
    assert made.id in [file.id for file in client.files.list()]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)
    assert made.id not in [file.id for file in client.files.list()]


@pytest.mark.parametrize(
    "status, error",
    [
        (400, openai.BadRequestError),
        (422, openai.UnprocessableEntityError),
    ],
)
def test_providers_refusal_has_its_class(client, status, error):
    with pytest.raises(error) as refused:
        client.responses.create(
            model=MODEL, input="hello", store=False, extra_headers={"x-simulate": f"status={status}"}
        )
    assert refused.value.status_code == status
    assert refused.value.request_id


def test_broken_stream_is_told(client):
    broken = {"stream": True, "extra_headers": {"x-simulate": "error-event-after=10"}}
    request = {"model": MODEL, "input": COUNT, "max_output_tokens": 50, "store": False}
    events = list(client.responses.create(**request, **broken))
    assert [event.type for event in events[-2:]] == ["response.output_text.delta", "error"]
    stream = client.completions.create(model=MODEL, prompt=COUNT, max_tokens=50, **broken)
    with pytest.raises(openai.APIError):
        list(stream)


def test_raw_headers_are_those_of_the_api(client):
    answer = client.responses.with_raw_response.create(model=MODEL, input="hello", store=False)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert answer.headers["x-ratelimit-limit-requests"]


def test_fifty_streams_at_once_each_get_their_own_answer(door):
    async def read(client, tokens):
        request = {"model": MODEL, "input": COUNT, "max_output_tokens": tokens, "store": False}
        stream = await client.responses.create(**request, stream=True)
        return [event async for event in stream][-1].response.usage.output_tokens

    async def read_all():
        async with openai.AsyncOpenAI(base_url=f"{door.address}/v1", api_key=door.key) as client:
            return await asyncio.gather(*(read(client, tokens) for tokens in range(100, 150)))

    assert asyncio.run(read_all()) == list(range(100, 150))

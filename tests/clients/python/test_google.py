"""Google's official SDK, at the provider and through the gateway alike."""

import asyncio

import pytest
from google import genai
from google.genai import errors, types

MODEL = "gemini-2.5-flash"
EMBEDDING_MODEL = "gemini-embedding-001"
HELLO = "Say hello to the gateway."
COUNT = "count please"


@pytest.fixture
def client(door):
    return client_with(door.address, door.key)


def client_with(address, key, **options):
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=address, **options))


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_models_are_listed(door, version):
    client = client_with(door.address, door.key, api_version=version)
    names = [model.name for model in client.models.list()]
    assert f"models/{MODEL}" in names
    assert client.models.generate_content(model=MODEL, contents=HELLO).text


def test_plain_answer_has_text_and_usage(client):
    answer = client.models.generate_content(model=MODEL, contents=HELLO)
    assert answer.text
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    usage = answer.usage_metadata
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count


def test_output_limit_is_reached_exactly(client):
    config = types.GenerateContentConfig(max_output_tokens=17)
    answer = client.models.generate_content(model=MODEL, contents=COUNT, config=config)
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert answer.usage_metadata.candidates_token_count == 17


def test_stream_carries_the_plain_answer_and_its_usage(client):
    plain = client.models.generate_content(model=MODEL, contents=HELLO)
    chunks = list(client.models.generate_content_stream(model=MODEL, contents=HELLO))
    assert "".join(chunk.text or "" for chunk in chunks) == plain.text
    assert chunks[-1].usage_metadata == plain.usage_metadata


def test_tool_is_called(client):
    weather = types.FunctionDeclaration(
        name="get_weather",
        description="The weather in a city.",
        parameters=types.Schema(type="OBJECT", properties={"city": types.Schema(type="STRING")}),
    )
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[weather])])
    answer = client.models.generate_content(model=MODEL, contents=HELLO, config=config)
    [call] = answer.function_calls
    assert call.name == "get_weather"
    chunks = list(client.models.generate_content_stream(model=MODEL, contents=HELLO, config=config))
    [streamed] = [call for chunk in chunks for call in chunk.function_calls or []]
    assert streamed.args == call.args


def test_tokens_are_counted(client):
    assert client.models.count_tokens(model=MODEL, contents=HELLO).total_tokens > 0


def test_texts_are_embedded(client):
    config = types.EmbedContentConfig(output_dimensionality=8)
    answer = client.models.embed_content(model=EMBEDDING_MODEL, contents=["one", "two"], config=config)
    assert [len(embedding.values) for embedding in answer.embeddings] == [8, 8]


def test_providers_refusal_has_its_class(client):
    config = types.GenerateContentConfig(http_options=types.HttpOptions(headers={"x-simulate": "status=400"}))
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(model=MODEL, contents=HELLO, config=config)
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")


def test_bad_key_is_refused(demo):
    client = client_with(demo.gateway, demo.key[:-1])
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(model=MODEL, contents=HELLO)
    assert refused.value.code == 401


def test_unknown_model_is_refused(demo):
    client = client_with(demo.gateway, demo.key)
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(model="no-such-model", contents=HELLO)
    assert (refused.value.code, refused.value.status) == (404, "NOT_FOUND")


def test_fifty_streams_at_once_each_get_their_own_answer(client):
    async def read(tokens):
        config = types.GenerateContentConfig(max_output_tokens=tokens)
        stream = await client.aio.models.generate_content_stream(model=MODEL, contents=COUNT, config=config)
        return [chunk async for chunk in stream][-1].usage_metadata.candidates_token_count

    async def read_all():
        return await asyncio.gather(*(read(tokens) for tokens in range(100, 150)))

    assert asyncio.run(read_all()) == list(range(100, 150))

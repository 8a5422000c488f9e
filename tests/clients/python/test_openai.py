"""The official OpenAI SDK against the real binary."""

import asyncio
import json

import openai
import pytest

MODEL = "gpt-4o-mini"
# One whose answers may be longer than what is set aside for a stream at first.
LONG_MODEL = "gpt-4.1-mini"
HELLO = [{"role": "user", "content": "Say hello to the gateway."}]
# The simulated provider answers a prompt that begins so with exactly as many tokens as are allowed.
COUNT = [{"role": "user", "content": "count please"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture
def client(demo):
    return client_with(demo, demo.key)


def client_with(demo, key, **options):
    return openai.OpenAI(base_url=f"{demo.gateway}/v1", api_key=key, **options)


def counting_client(demo, key):
    """A client, and the list of the requests that it has sent, the SDK's own retries among them."""
    sent = []
    http_client = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    return client_with(demo, key, http_client=http_client), sent


def test_models_are_listed(client):
    assert MODEL in [model.id for model in client.models.list()]


def test_plain_answer_has_text_and_usage(client):
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_output_limit_is_reached_exactly(client):
    answer = client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=17)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 17


def test_stream_carries_the_plain_answer_and_its_usage(client):
    plain = client.chat.completions.create(model=MODEL, messages=HELLO)
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert text_of(chunks) == plain.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stream_has_no_usage_that_was_not_asked_for(client):
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert text_of(chunks)
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


def text_of(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_tool_is_called(client):
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=TOOLS)
    [call] = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.id
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments), dict)


def test_streamed_tool_call_is_the_plain_one(client):
    plain = client.chat.completions.create(model=MODEL, messages=HELLO, tools=TOOLS)
    with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=TOOLS) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].finish_reason == "tool_calls"
    [plain_call] = plain.choices[0].message.tool_calls
    [streamed_call] = streamed.choices[0].message.tool_calls
    assert streamed_call.function.name == plain_call.function.name
    assert streamed_call.function.arguments == plain_call.function.arguments


def test_tool_is_not_called_when_the_choice_is_none(client):
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=TOOLS, tool_choice="none")
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].message.content


def test_bad_key_is_refused(demo):
    with pytest.raises(openai.AuthenticationError) as refused:
        client_with(demo, demo.key[:-1]).chat.completions.create(model=MODEL, messages=HELLO)
    assert refused.value.status_code == 401
    assert refused.value.code == "invalid_api_key"
    assert refused.value.request_id


def test_unknown_model_is_refused(client):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert refused.value.status_code == 404
    assert refused.value.code == "model_not_found"


def test_model_without_a_price_is_refused_and_not_retried(unpriced):
    client, sent = counting_client(unpriced, unpriced.key)
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert refused.value.status_code == 422
    assert refused.value.code == "model_unpriced"
    assert refused.value.param == "model"
    assert len(sent) == 1


def test_exhausted_key_is_refused_and_not_retried(demo):
    # 100 output tokens are $0.00006, so the limit pays for one call and not for two.
    client, sent = counting_client(demo, demo.make_key(limit="0.0001"))
    client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=100)
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=100)
    assert refused.value.status_code == 402
    assert refused.value.type == "insufficient_credits"
    assert refused.value.code == "spend_limit_reached"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert len(sent) == 2


def test_stream_that_no_credit_is_left_for_ends_at_its_length(demo):
    # 16 384 output tokens are set aside at first, which is $0.0262; the limit pays for some 2 300 more.
    client, sent = counting_client(demo, demo.make_key(limit="0.03"))
    request = {"model": LONG_MODEL, "messages": COUNT, "max_tokens": 30_000, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**request, stream=True))
    [end] = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert end.choices[0].finish_reason == "length"
    assert end.model_extra["tollgate"] == {"code": "spend_limit_reached"}
    assert text_of(chunks).startswith("1 2 3 4 5 ")
    assert 16_384 < chunks[-1].usage.completion_tokens < 20_000
    assert len(sent) == 1


def test_rate_limited_key_is_refused_with_a_time_to_wait(demo):
    client = client_with(demo, demo.make_key(rpm=2), max_retries=0)
    with pytest.raises(openai.RateLimitError) as refused:
        for _ in range(6):  # two calls in this window, two more if the next begins meanwhile
            client.chat.completions.create(model=MODEL, messages=HELLO)
    assert refused.value.status_code == 429
    assert refused.value.code == "rate_limit_exceeded"
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 60
    assert 0 < int(refused.value.response.headers["retry-after-ms"]) <= 60_000


@pytest.mark.parametrize("stream", [False, True])
def test_answer_names_its_call_and_the_limits(demo, stream):
    client = client_with(demo, demo.make_key(rpm=100, tpm=1_000_000))
    create = client.chat.completions.with_raw_response.create
    answers = [create(model=MODEL, messages=HELLO, stream=stream) for _ in range(2)]
    assert answers[0].headers["x-request-id"] != answers[1].headers["x-request-id"]
    for kind, limit in [("requests", 100), ("tokens", 1_000_000)]:
        assert int(answers[0].headers[f"x-ratelimit-limit-{kind}"]) == limit
        assert 0 <= int(answers[0].headers[f"x-ratelimit-remaining-{kind}"]) < limit
        assert answers[0].headers[f"x-ratelimit-reset-{kind}"]


def test_fifty_streams_at_once_each_get_their_own_answer(demo):
    async def read(stream):
        return [chunk async for chunk in stream][-1].usage.completion_tokens

    async def read_all():
        async with openai.AsyncOpenAI(base_url=f"{demo.gateway}/v1", api_key=demo.key) as client:
            streams = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model=MODEL,
                        messages=COUNT,
                        max_tokens=tokens,
                        stream=True,
                        stream_options={"include_usage": True},
                    )
                    for tokens in range(100, 150)
                )
            )
            return await asyncio.gather(*(read(stream) for stream in streams))

    assert asyncio.run(read_all()) == list(range(100, 150))

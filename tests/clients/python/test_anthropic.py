"""The official Anthropic SDK against the real binary."""

import asyncio

import anthropic
import pytest

MODEL = "claude-sonnet-4-6"
HELLO = [{"role": "user", "content": "Say hello to the gateway."}]
# The simulated provider answers a prompt that begins so with exactly as many tokens as are allowed.
COUNT = [{"role": "user", "content": "count please"}]
TOOLS = [
    {
        "name": "get_weather",
        "description": "The weather in a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]


@pytest.fixture
def client(demo):
    return client_with(demo, demo.key)


def client_with(demo, key, **options):
    return anthropic.Anthropic(base_url=demo.gateway, api_key=key, **options)


def counting_client(demo, key):
    """A client, and the list of the requests that it has sent, the SDK's own retries among them."""
    sent = []
    http_client = anthropic.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    return client_with(demo, key, http_client=http_client), sent


def test_models_are_listed(client):
    assert MODEL in [model.id for model in client.models.list()]


def test_plain_answer_has_text_and_usage(client):
    answer = client.messages.create(model=MODEL, messages=HELLO, max_tokens=1000)
    [block] = answer.content
    assert block.text
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


def test_output_limit_is_reached_exactly(client):
    answer = client.messages.create(model=MODEL, messages=COUNT, max_tokens=17)
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 17


def test_stream_carries_the_plain_answer_and_its_usage(client):
    plain = client.messages.create(model=MODEL, messages=HELLO, max_tokens=1000)
    with client.messages.stream(model=MODEL, messages=HELLO, max_tokens=1000) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == plain.content[0].text
    assert streamed.content[0].text == plain.content[0].text
    assert streamed.stop_reason == plain.stop_reason
    assert streamed.usage.input_tokens == plain.usage.input_tokens
    assert streamed.usage.output_tokens == plain.usage.output_tokens


def test_stream_begins_and_ends_as_the_protocol_says(client):
    events = list(client.messages.create(model=MODEL, messages=HELLO, max_tokens=1000, stream=True))
    assert events[0].type == "message_start"
    assert [event.type for event in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]


def test_tool_is_called(client):
    answer = client.messages.create(model=MODEL, messages=HELLO, max_tokens=1000, tools=TOOLS)
    call = answer.content[-1]
    assert answer.stop_reason == "tool_use"
    assert call.type == "tool_use"
    assert call.id
    assert call.name == "get_weather"
    assert isinstance(call.input, dict)


def test_streamed_tool_call_is_the_plain_one(client):
    plain = client.messages.create(model=MODEL, messages=HELLO, max_tokens=1000, tools=TOOLS)
    with client.messages.stream(model=MODEL, messages=HELLO, max_tokens=1000, tools=TOOLS) as stream:
        streamed = stream.get_final_message()
    assert streamed.stop_reason == "tool_use"
    assert streamed.content[-1].name == plain.content[-1].name
    assert streamed.content[-1].input == plain.content[-1].input


def test_tool_is_not_called_when_the_choice_is_none(client):
    answer = client.messages.create(
        model=MODEL, messages=HELLO, max_tokens=1000, tools=TOOLS, tool_choice={"type": "none"}
    )
    assert [block.type for block in answer.content] == ["text"]


def test_bad_key_is_refused(demo):
    with pytest.raises(anthropic.AuthenticationError) as refused:
        client_with(demo, demo.key[:-1]).messages.create(model=MODEL, messages=HELLO, max_tokens=10)
    assert refused.value.status_code == 401
    assert refused.value.type == "authentication_error"
    assert refused.value.error_code == "invalid_api_key"
    assert refused.value.body["error"]["code"] == "invalid_api_key"
    assert refused.value.body["request_id"] == refused.value.request_id


def test_unknown_model_is_refused(client):
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.messages.create(model="no-such-model", messages=HELLO, max_tokens=10)
    assert refused.value.status_code == 404
    assert refused.value.body["error"]["code"] == "model_not_found"


def test_model_without_a_price_is_refused_and_not_retried(unpriced):
    client, sent = counting_client(unpriced, unpriced.key)
    with pytest.raises(anthropic.UnprocessableEntityError) as refused:
        client.messages.create(model=MODEL, messages=HELLO, max_tokens=10)
    assert refused.value.status_code == 422
    assert refused.value.type == "invalid_request_error"
    assert refused.value.error_code == "model_unpriced"
    assert len(sent) == 1


def test_exhausted_key_is_refused_and_not_retried(demo):
    # 100 output tokens are $0.0015, so the limit pays for one call and not for two.
    client, sent = counting_client(demo, demo.make_key(limit="0.002"))
    client.messages.create(model=MODEL, messages=COUNT, max_tokens=100)
    with pytest.raises(anthropic.APIStatusError) as refused:
        client.messages.create(model=MODEL, messages=COUNT, max_tokens=100)
    assert refused.value.status_code == 402
    assert refused.value.type == "insufficient_credits"
    assert refused.value.body["error"]["code"] == "spend_limit_reached"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert len(sent) == 2


def test_stream_that_no_credit_is_left_for_ends_at_its_length(demo):
    # 16 384 output tokens are set aside at first, which is $0.246; the limit pays for some 3 600 more.
    client, sent = counting_client(demo, demo.make_key(limit="0.3"))
    with client.messages.stream(model=MODEL, messages=COUNT, max_tokens=30_000) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert message.stop_reason == "max_tokens"
    assert text.startswith("1 2 3 4 5 ")
    assert message.content[0].text == text
    assert 16_384 < message.usage.output_tokens < 21_000
    assert len(sent) == 1


def test_rate_limited_key_is_refused_with_a_time_to_wait(demo):
    client = client_with(demo, demo.make_key(rpm=2), max_retries=0)
    with pytest.raises(anthropic.RateLimitError) as refused:
        for _ in range(6):  # two calls in this window, two more if the next begins meanwhile
            client.messages.create(model=MODEL, messages=HELLO, max_tokens=10)
    assert refused.value.status_code == 429
    assert refused.value.type == "rate_limit_error"
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 60
    assert 0 < int(refused.value.response.headers["retry-after-ms"]) <= 60_000


@pytest.mark.parametrize("stream", [False, True])
def test_answer_names_its_call_and_the_limits(demo, stream):
    client = client_with(demo, demo.make_key(rpm=100, tpm=1_000_000))
    create = client.messages.with_raw_response.create
    answers = [create(model=MODEL, messages=HELLO, max_tokens=10, stream=stream) for _ in range(2)]
    assert answers[0].headers["request-id"] == answers[0].headers["x-request-id"]
    assert answers[0].headers["request-id"] != answers[1].headers["request-id"]
    for kind, limit in [("requests", 100), ("tokens", 1_000_000)]:
        for prefix in ["x-ratelimit-%s-" + kind, f"anthropic-ratelimit-{kind}-%s"]:
            assert int(answers[0].headers[prefix % "limit"]) == limit
            assert 0 <= int(answers[0].headers[prefix % "remaining"]) < limit
            assert answers[0].headers[prefix % "reset"]


def test_fifty_streams_at_once_each_get_their_own_answer(demo):
    async def read(stream):
        deltas = [event async for event in stream if event.type == "message_delta"]
        return deltas[-1].usage.output_tokens

    async def read_all():
        async with anthropic.AsyncAnthropic(base_url=demo.gateway, api_key=demo.key) as client:
            streams = await asyncio.gather(
                *(
                    client.messages.create(model=MODEL, messages=COUNT, max_tokens=tokens, stream=True)
                    for tokens in range(100, 150)
                )
            )
            return await asyncio.gather(*(read(stream) for stream in streams))

    assert asyncio.run(read_all()) == list(range(100, 150))

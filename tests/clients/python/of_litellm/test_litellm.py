"""LiteLLM in three protocols, at the provider and through the gateway alike."""

import os

import pytest

# Else it fetches its table of prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

HELLO = [{"role": "user", "content": "Say hello to the gateway."}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


def openai(door):
    return {"model": "openai/gpt-4o-mini", "api_base": f"{door.address}/v1", "api_key": door.key}


def anthropic(door):
    return {"model": "anthropic/claude-sonnet-4-6", "api_base": door.address, "api_key": door.key}


def gemini(door):
    return {"model": "gemini/gemini-2.5-flash", "api_base": f"{door.address}/v1beta", "api_key": door.key}


@pytest.fixture(params=[openai, anthropic, gemini])
def model(request, door):
    return request.param(door)


def test_answer_has_text_and_usage(model):
    answer = litellm.completion(**model, messages=HELLO)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_stream_carries_the_plain_answer(model):
    plain = litellm.completion(**model, messages=HELLO)
    chunks = list(litellm.completion(**model, messages=HELLO, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content


def test_tool_is_called(model):
    answer = litellm.completion(**model, messages=HELLO, tools=TOOLS)
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"


def test_response_has_text_and_usage(door):
    answer = litellm.responses(**openai(door), input="hello", store=False)
    assert answer.output[0].content[0].text
    assert answer.usage.output_tokens > 0


def test_texts_are_embedded(door):
    model = {**openai(door), "model": "openai/text-embedding-3-small"}
    answer = litellm.embedding(**model, input=["one", "two"], encoding_format="float", dimensions=8)
    assert [len(item["embedding"]) for item in answer.data] == [8, 8]

"""LangChain over both SDKs, at the provider and through the gateway alike."""

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

HELLO = "Say hello to the gateway."


def weather(city: str) -> str:
    """The weather in a city."""
    return city


def openai_chat(door, **options):
    return ChatOpenAI(model="gpt-4o-mini", base_url=f"{door.address}/v1", api_key=door.key, **options)


def openai_responses(door):
    return openai_chat(door, use_responses_api=True, store=False)


def anthropic_messages(door):
    return ChatAnthropic(model="claude-sonnet-4-6", base_url=door.address, api_key=door.key, max_tokens=1000)


@pytest.fixture(params=[openai_chat, openai_responses, anthropic_messages])
def model(request, door):
    return request.param(door)


def test_answer_has_text_and_usage(model):
    answer = model.invoke(HELLO)
    assert answer.text
    assert answer.usage_metadata["total_tokens"] > answer.usage_metadata["output_tokens"] > 0


def test_stream_carries_the_plain_answer(model):
    plain = model.invoke(HELLO)
    chunks = list(model.stream(HELLO))
    assert "".join(chunk.text for chunk in chunks) == plain.text


def test_tool_is_called(model):
    [call] = model.bind_tools([weather]).invoke(HELLO).tool_calls
    assert call["name"] == "weather"


def test_texts_are_embedded(door):
    embeddings = OpenAIEmbeddings(
        model="text-embedding-3-small",
        base_url=f"{door.address}/v1",
        api_key=door.key,
        dimensions=8,
        # Its own counting of tokens downloads their table.
        check_embedding_ctx_length=False,
    )
    assert [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [8, 8]

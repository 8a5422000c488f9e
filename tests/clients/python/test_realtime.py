"""The official OpenAI SDK's realtime sessions, at the provider and through the gateway alike."""

import openai

MODEL = "gpt-realtime"


def test_session_answers_with_text_and_usage(door):
    client = openai.OpenAI(base_url=f"{door.address}/v1", api_key=door.key)
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "count please"}]}
    with client.realtime.connect(model=MODEL) as connection:
        assert connection.recv().type == "session.created"
        connection.conversation.item.create(item=said)
        connection.response.create(response={"max_output_tokens": 17})
        words = ""
        for event in connection:
            if event.type == "response.output_text.delta":
                words += event.delta
            elif event.type == "response.done":
                break
    assert words.startswith("1 2 3 ")
    assert event.response.usage.output_tokens == 17

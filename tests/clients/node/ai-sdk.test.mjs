// The AI SDK with three of its providers, at the provider and through the gateway alike.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createGoogleGenerativeAI } from '@ai-sdk/google';
import { createOpenAI } from '@ai-sdk/openai';
import { embedMany, experimental_transcribe, generateImage, generateText, jsonSchema, streamText, tool } from 'ai';
import { errorOf, startDemo } from './demo.mjs';

const prompt = 'Say hello to the gateway.';
const tools = {
  get_weather: tool({
    description: 'The weather in a city.',
    inputSchema: jsonSchema({ type: 'object', properties: { input: { type: 'string' } } }),
  }),
};

let demo;
before(async () => {
  demo = await startDemo();
});
after(() => demo?.stop());

for (const door of ['provider', 'gateway']) {
  const openai = () => createOpenAI({ baseURL: `${demo.doors[door]}/v1`, apiKey: demo.key });
  const google = () => createGoogleGenerativeAI({ baseURL: `${demo.doors[door]}/v1beta`, apiKey: demo.key });
  const models = {
    'OpenAI chat': () => openai().chat('gpt-4o-mini'),
    'OpenAI responses': () => openai().responses('gpt-4o-mini'),
    'OpenAI completions': () => openai().completion('gpt-4o-mini'),
    Anthropic: () =>
      createAnthropic({ baseURL: `${demo.doors[door]}/v1`, apiKey: demo.key })('claude-sonnet-4-6'),
    Google: () => google()('gemini-2.5-flash'),
  };

  for (const [name, model] of Object.entries(models)) {
    test(`${door}: ${name} streams the plain answer and its usage`, async () => {
      const plain = await generateText({ model: model(), prompt });
      assert.ok(plain.text);
      assert.equal(plain.finishReason, name === 'OpenAI completions' ? plain.finishReason : 'stop');
      const streamed = streamText({ model: model(), prompt });
      let text = '';
      for await (const piece of streamed.textStream) text += piece;
      assert.equal(text, plain.text);
      assert.equal((await streamed.usage).outputTokens, plain.usage.outputTokens);
      assert.ok(plain.usage.outputTokens > 0);
    });

    if (name !== 'OpenAI completions') {
      test(`${door}: ${name} calls a tool`, async () => {
        const [call] = (await generateText({ model: model(), prompt, tools })).toolCalls;
        assert.equal(call.toolName, 'get_weather');
        const [streamed] = await streamText({ model: model(), prompt, tools }).toolCalls;
        assert.deepEqual(streamed.input, call.input);
      });
    }
  }

  test(`${door}: texts are embedded`, async () => {
    for (const model of [openai().embedding('text-embedding-3-small'), google().embedding('gemini-embedding-001')]) {
      const { embeddings } = await embedMany({ model, values: ['one', 'two'] });
      assert.equal(embeddings.length, 2);
    }
  });

  test(`${door}: picture is made`, async () => {
    const { image } = await generateImage({ model: openai().image('gpt-image-2'), prompt });
    assert.equal(image.mediaType, 'image/png');
  });

  test(`${door}: sound is written down`, async () => {
    const audio = Buffer.concat([Buffer.from([0xff, 0xfb, 0x90, 0x64]), Buffer.alloc(16_000)]);
    const { text } = await experimental_transcribe({ model: openai().transcription('whisper-1'), audio });
    assert.ok(text);
  });

  test(`${door}: refusal is told`, async () => {
    const headers = { 'x-simulate': 'status=400' };
    const refused = await errorOf(generateText({ model: models.Google(), prompt, headers, maxRetries: 0 }));
    assert.equal(refused.statusCode, 400);
  });
}

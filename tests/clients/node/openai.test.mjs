// The official OpenAI SDK against the real binary.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import OpenAI from 'openai';
import { countingFetch, errorOf, startDemo, startUnpriced } from './demo.mjs';

const model = 'gpt-4o-mini';
// One whose answers may be longer than what is set aside for a stream at first.
const longModel = 'gpt-4.1-mini';
const hello = [{ role: 'user', content: 'Say hello to the gateway.' }];
// The simulated provider answers a prompt that begins so with exactly as many tokens as are allowed.
const count = [{ role: 'user', content: 'count please' }];
const tools = [
  {
    type: 'function',
    function: {
      name: 'get_weather',
      description: 'The weather in a city.',
      parameters: { type: 'object', properties: { city: { type: 'string' } } },
    },
  },
];

let demo;
let client;
before(async () => {
  demo = await startDemo();
  client = clientWith(demo.key);
});
after(() => demo?.stop());

function clientWith(apiKey, options = {}) {
  return new OpenAI({ baseURL: `${demo.gateway}/v1`, apiKey, ...options });
}

async function read(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

function textOf(chunks) {
  return chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.delta.content ?? '')).join('');
}

test('models are listed', async () => {
  const ids = (await client.models.list()).data.map((listed) => listed.id);
  assert.ok(ids.includes(model));
});

test('plain answer has text and usage', async () => {
  const answer = await client.chat.completions.create({ model, messages: hello });
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.choices[0].finish_reason, 'stop');
  assert.ok(answer.usage.prompt_tokens > 0);
  assert.ok(answer.usage.completion_tokens > 0);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test('output limit is reached exactly', async () => {
  const answer = await client.chat.completions.create({ model, messages: count, max_tokens: 17 });
  assert.equal(answer.choices[0].finish_reason, 'length');
  assert.equal(answer.usage.completion_tokens, 17);
});

test('stream carries the plain answer and its usage', async () => {
  const plain = await client.chat.completions.create({ model, messages: hello });
  const chunks = await read(
    await client.chat.completions.create({
      model,
      messages: hello,
      stream: true,
      stream_options: { include_usage: true },
    }),
  );
  const last = chunks.pop();
  assert.equal(textOf(chunks), plain.choices[0].message.content);
  assert.deepEqual(last.choices, []);
  assert.deepEqual(last.usage, plain.usage);
  assert.ok(chunks.every((chunk) => !chunk.usage));
});

test('stream has no usage that was not asked for', async () => {
  const chunks = await read(await client.chat.completions.create({ model, messages: hello, stream: true }));
  assert.ok(textOf(chunks));
  assert.ok(chunks.every((chunk) => chunk.choices.length > 0 && !chunk.usage));
});

test('tool is called', async () => {
  const answer = await client.chat.completions.create({ model, messages: hello, tools });
  assert.equal(answer.choices[0].finish_reason, 'tool_calls');
  assert.equal(answer.choices[0].message.tool_calls.length, 1);
  const [call] = answer.choices[0].message.tool_calls;
  assert.ok(call.id);
  assert.equal(call.function.name, 'get_weather');
  assert.equal(typeof JSON.parse(call.function.arguments), 'object');
});

test('streamed tool call is the plain one', async () => {
  const plain = await client.chat.completions.create({ model, messages: hello, tools });
  const streamed = await client.chat.completions.stream({ model, messages: hello, tools }).finalChatCompletion();
  assert.equal(streamed.choices[0].finish_reason, 'tool_calls');
  assert.equal(streamed.choices[0].message.tool_calls.length, 1);
  const [plainCall] = plain.choices[0].message.tool_calls;
  const [streamedCall] = streamed.choices[0].message.tool_calls;
  assert.equal(streamedCall.function.name, plainCall.function.name);
  assert.equal(streamedCall.function.arguments, plainCall.function.arguments);
});

test('tool is not called when the choice is none', async () => {
  const answer = await client.chat.completions.create({ model, messages: hello, tools, tool_choice: 'none' });
  assert.ok(!answer.choices[0].message.tool_calls?.length);
  assert.ok(answer.choices[0].message.content);
});

test('bad key is refused', async () => {
  const refused = await errorOf(
    clientWith(demo.key.slice(0, -1)).chat.completions.create({ model, messages: hello }),
  );
  assert.ok(refused instanceof OpenAI.AuthenticationError);
  assert.equal(refused.status, 401);
  assert.equal(refused.code, 'invalid_api_key');
  assert.ok(refused.requestID);
});

test('unknown model is refused', async () => {
  const refused = await errorOf(client.chat.completions.create({ model: 'no-such-model', messages: hello }));
  assert.ok(refused instanceof OpenAI.NotFoundError);
  assert.equal(refused.code, 'model_not_found');
});

test('model without a price is refused and not retried', async (context) => {
  const unpriced = await startUnpriced(demo, 'openai', model);
  context.after(() => unpriced.stop());
  const counted = countingFetch();
  const unserved = new OpenAI({ baseURL: `${unpriced.gateway}/v1`, apiKey: unpriced.key, fetch: counted.fetch });
  const refused = await errorOf(unserved.chat.completions.create({ model, messages: hello }));
  assert.ok(refused instanceof OpenAI.UnprocessableEntityError);
  assert.equal(refused.code, 'model_unpriced');
  assert.equal(refused.param, 'model');
  assert.equal(counted.requests, 1);
});

test('exhausted key is refused and not retried', async () => {
  // 100 output tokens are $0.00006, so the limit pays for one call and not for two.
  const counted = countingFetch();
  const limited = clientWith(demo.makeKey({ limit: '0.0001' }), { fetch: counted.fetch });
  await limited.chat.completions.create({ model, messages: count, max_tokens: 100 });
  const refused = await errorOf(limited.chat.completions.create({ model, messages: count, max_tokens: 100 }));
  assert.equal(refused.status, 402);
  assert.equal(refused.type, 'insufficient_credits');
  assert.equal(refused.code, 'spend_limit_reached');
  assert.equal(refused.headers.get('x-should-retry'), 'false');
  assert.equal(counted.requests, 2);
});

test('rate-limited key is refused with a time to wait', async () => {
  const limited = clientWith(demo.makeKey({ rpm: 2 }), { maxRetries: 0 });
  const refused = await errorOf(
    (async () => {
      // Two calls in this window, two more if the next begins meanwhile.
      for (let call = 0; call < 6; call += 1) await limited.chat.completions.create({ model, messages: hello });
    })(),
  );
  assert.ok(refused instanceof OpenAI.RateLimitError);
  assert.equal(refused.code, 'rate_limit_exceeded');
  const seconds = Number(refused.headers.get('retry-after'));
  assert.ok(seconds > 0 && seconds <= 60);
});

test('stream that no credit is left for ends at its length', async () => {
  // 16 384 output tokens are set aside at first, which is $0.0262; the limit pays for some 2 300 more.
  const counted = countingFetch();
  const limited = clientWith(demo.makeKey({ limit: '0.03' }), { fetch: counted.fetch });
  const request = { model: longModel, messages: count, max_tokens: 30_000, stream_options: { include_usage: true } };
  const chunks = await read(await limited.chat.completions.create({ ...request, stream: true }));
  const [end, ...others] = chunks.filter((chunk) => chunk.choices[0]?.finish_reason);
  assert.equal(others.length, 0);
  assert.equal(end.choices[0].finish_reason, 'length');
  assert.deepEqual(end.tollgate, { code: 'spend_limit_reached' });
  assert.ok(textOf(chunks).startsWith('1 2 3 4 5 '));
  const tokens = chunks.at(-1).usage.completion_tokens;
  assert.ok(tokens > 16_384 && tokens < 20_000);
  assert.equal(counted.requests, 1);
});

for (const stream of [false, true]) {
  test(`${stream ? 'streamed' : 'plain'} answer names its call and the limits`, async () => {
    const limited = clientWith(demo.makeKey({ rpm: 100, tpm: 1_000_000 }));
    const answer = () => limited.chat.completions.create({ model, messages: hello, stream }).asResponse();
    const [first, second] = [await answer(), await answer()];
    assert.notEqual(first.headers.get('x-request-id'), second.headers.get('x-request-id'));
    for (const [kind, limit] of [
      ['requests', 100],
      ['tokens', 1_000_000],
    ]) {
      assert.equal(Number(first.headers.get(`x-ratelimit-limit-${kind}`)), limit);
      assert.ok(Number(first.headers.get(`x-ratelimit-remaining-${kind}`)) < limit);
      assert.ok(first.headers.get(`x-ratelimit-reset-${kind}`));
    }
    await Promise.all([first.text(), second.text()]);
  });
}

test('fifty streams at once each get their own answer', async () => {
  const limits = Array.from({ length: 50 }, (_, index) => 100 + index);
  const streams = await Promise.all(
    limits.map((tokens) =>
      client.chat.completions.create({
        model,
        messages: count,
        max_tokens: tokens,
        stream: true,
        stream_options: { include_usage: true },
      }),
    ),
  );
  const answers = await Promise.all(streams.map(read));
  assert.deepEqual(
    answers.map((chunks) => chunks.at(-1).usage.completion_tokens),
    limits,
  );
});

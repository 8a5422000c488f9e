// The official Anthropic SDK against the real binary.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { countingFetch, errorOf, startDemo, startUnpriced } from './demo.mjs';

const model = 'claude-sonnet-4-6';
const hello = { model, max_tokens: 1000, messages: [{ role: 'user', content: 'Say hello to the gateway.' }] };
// The simulated provider answers a prompt that begins so with exactly as many tokens as are allowed.
const count = { model, max_tokens: 100, messages: [{ role: 'user', content: 'count please' }] };
const tools = [
  {
    name: 'get_weather',
    description: 'The weather in a city.',
    input_schema: { type: 'object', properties: { city: { type: 'string' } } },
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
  return new Anthropic({ baseURL: demo.gateway, apiKey, ...options });
}

async function read(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

test('models are listed', async () => {
  const ids = (await client.models.list()).data.map((listed) => listed.id);
  assert.ok(ids.includes(model));
});

test('plain answer has text and usage', async () => {
  const answer = await client.messages.create(hello);
  assert.ok(answer.content[0].text);
  assert.equal(answer.stop_reason, 'end_turn');
  assert.ok(answer.usage.input_tokens > 0);
  assert.ok(answer.usage.output_tokens > 0);
});

test('output limit is reached exactly', async () => {
  const answer = await client.messages.create({ ...count, max_tokens: 17 });
  assert.equal(answer.stop_reason, 'max_tokens');
  assert.equal(answer.usage.output_tokens, 17);
});

test('stream carries the plain answer and its usage', async () => {
  const plain = await client.messages.create(hello);
  const streamed = await client.messages.stream(hello).finalMessage();
  assert.equal(streamed.content[0].text, plain.content[0].text);
  assert.equal(streamed.stop_reason, plain.stop_reason);
  assert.equal(streamed.usage.input_tokens, plain.usage.input_tokens);
  assert.equal(streamed.usage.output_tokens, plain.usage.output_tokens);
});

test('stream begins and ends as the protocol says', async () => {
  const types = (await read(await client.messages.create({ ...hello, stream: true }))).map((event) => event.type);
  assert.equal(types[0], 'message_start');
  assert.deepEqual(types.slice(-3), ['content_block_stop', 'message_delta', 'message_stop']);
});

test('tool is called', async () => {
  const answer = await client.messages.create({ ...hello, tools });
  assert.equal(answer.stop_reason, 'tool_use');
  const call = answer.content.at(-1);
  assert.equal(call.type, 'tool_use');
  assert.ok(call.id);
  assert.equal(call.name, 'get_weather');
  assert.equal(typeof call.input, 'object');
});

test('streamed tool call is the plain one', async () => {
  const plain = await client.messages.create({ ...hello, tools });
  const streamed = await client.messages.stream({ ...hello, tools }).finalMessage();
  assert.equal(streamed.stop_reason, 'tool_use');
  assert.equal(streamed.content.at(-1).name, plain.content.at(-1).name);
  assert.deepEqual(streamed.content.at(-1).input, plain.content.at(-1).input);
});

test('tool is not called when the choice is none', async () => {
  const answer = await client.messages.create({ ...hello, tools, tool_choice: { type: 'none' } });
  assert.deepEqual(
    answer.content.map((block) => block.type),
    ['text'],
  );
});

test('bad key is refused', async () => {
  const refused = await errorOf(clientWith(demo.key.slice(0, -1)).messages.create(hello));
  assert.ok(refused instanceof Anthropic.AuthenticationError);
  assert.equal(refused.type, 'authentication_error');
  assert.equal(refused.errorCode, 'invalid_api_key');
  assert.equal(refused.error.error.code, 'invalid_api_key');
  assert.equal(refused.error.request_id, refused.requestID);
});

test('unknown model is refused', async () => {
  const refused = await errorOf(client.messages.create({ ...hello, model: 'no-such-model' }));
  assert.ok(refused instanceof Anthropic.NotFoundError);
  assert.equal(refused.error.error.code, 'model_not_found');
});

test('model without a price is refused and not retried', async (context) => {
  const unpriced = await startUnpriced(demo, 'anthropic', model);
  context.after(() => unpriced.stop());
  const counted = countingFetch();
  const unserved = new Anthropic({ baseURL: unpriced.gateway, apiKey: unpriced.key, fetch: counted.fetch });
  const refused = await errorOf(unserved.messages.create(hello));
  assert.ok(refused instanceof Anthropic.UnprocessableEntityError);
  assert.equal(refused.errorCode, 'model_unpriced');
  assert.equal(counted.requests, 1);
});

test('exhausted key is refused and not retried', async () => {
  // 100 output tokens are $0.0015, so the limit pays for one call and not for two.
  const counted = countingFetch();
  const limited = clientWith(demo.makeKey({ limit: '0.002' }), { fetch: counted.fetch });
  await limited.messages.create(count);
  const refused = await errorOf(limited.messages.create(count));
  assert.equal(refused.status, 402);
  assert.equal(refused.type, 'insufficient_credits');
  assert.equal(refused.error.error.code, 'spend_limit_reached');
  assert.equal(refused.headers.get('x-should-retry'), 'false');
  assert.equal(counted.requests, 2);
});

test('rate-limited key is refused with a time to wait', async () => {
  const limited = clientWith(demo.makeKey({ rpm: 2 }), { maxRetries: 0 });
  const refused = await errorOf(
    (async () => {
      // Two calls in this window, two more if the next begins meanwhile.
      for (let call = 0; call < 6; call += 1) await limited.messages.create(hello);
    })(),
  );
  assert.ok(refused instanceof Anthropic.RateLimitError);
  assert.equal(refused.type, 'rate_limit_error');
  const seconds = Number(refused.headers.get('retry-after'));
  assert.ok(seconds > 0 && seconds <= 60);
});

test('stream that no credit is left for ends at its length', async () => {
  // 16 384 output tokens are set aside at first, which is $0.246; the limit pays for some 3 600 more.
  const counted = countingFetch();
  const limited = clientWith(demo.makeKey({ limit: '0.3' }), { fetch: counted.fetch });
  const message = await limited.messages.stream({ ...count, max_tokens: 30_000 }).finalMessage();
  assert.equal(message.stop_reason, 'max_tokens');
  assert.ok(message.content[0].text.startsWith('1 2 3 4 5 '));
  assert.ok(message.usage.output_tokens > 16_384 && message.usage.output_tokens < 21_000);
  assert.equal(counted.requests, 1);
});

for (const stream of [false, true]) {
  test(`${stream ? 'streamed' : 'plain'} answer names its call and the limits`, async () => {
    const limited = clientWith(demo.makeKey({ rpm: 100, tpm: 1_000_000 }));
    const answer = () => limited.messages.create({ ...hello, stream }).asResponse();
    const [first, second] = [await answer(), await answer()];
    assert.equal(first.headers.get('request-id'), first.headers.get('x-request-id'));
    assert.notEqual(first.headers.get('request-id'), second.headers.get('request-id'));
    for (const [kind, limit] of [
      ['requests', 100],
      ['tokens', 1_000_000],
    ]) {
      assert.equal(Number(first.headers.get(`anthropic-ratelimit-${kind}-limit`)), limit);
      assert.ok(Number(first.headers.get(`anthropic-ratelimit-${kind}-remaining`)) < limit);
      assert.ok(first.headers.get(`anthropic-ratelimit-${kind}-reset`));
    }
    await Promise.all([first.text(), second.text()]);
  });
}

test('fifty streams at once each get their own answer', async () => {
  const limits = Array.from({ length: 50 }, (_, index) => 100 + index);
  const streams = await Promise.all(
    limits.map((tokens) => client.messages.create({ ...count, max_tokens: tokens, stream: true })),
  );
  const answers = await Promise.all(streams.map(read));
  assert.deepEqual(
    answers.map((events) => events.findLast((event) => event.type === 'message_delta').usage.output_tokens),
    limits,
  );
});

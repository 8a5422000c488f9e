// The official OpenAI SDK and every API beside chat, at the provider and through the gateway alike.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import OpenAI, { toFile } from 'openai';
import { errorOf, startDemo } from './demo.mjs';

const model = 'gpt-4o-mini';
const tools = [
  {
    type: 'function',
    name: 'get_weather',
    description: 'The weather in a city.',
    parameters: { type: 'object', properties: { city: { type: 'string' } } },
  },
];

let demo;
before(async () => {
  demo = await startDemo();
});
after(() => demo?.stop());

async function read(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

for (const door of ['provider', 'gateway']) {
  const connect = () => new OpenAI({ baseURL: `${demo.doors[door]}/v1`, apiKey: demo.key });

  test(`${door}: streamed response is the plain one`, async () => {
    const request = { model, input: 'Say hello.', store: false };
    const plain = await connect().responses.create(request);
    assert.equal(plain.status, 'completed');
    const stream = connect().responses.stream(request);
    const events = await read(stream);
    const streamed = await stream.finalResponse();
    assert.equal(streamed.output_text, plain.output_text);
    assert.deepEqual(streamed.usage, plain.usage);
    assert.deepEqual(
      events.map((event) => event.sequence_number),
      events.map((_, index) => index),
    );
  });

  test(`${door}: response calls a tool`, async () => {
    const request = { model, input: 'How is the weather?', tools, store: false };
    const [call] = (await connect().responses.create(request)).output;
    assert.equal(call.name, 'get_weather');
    assert.equal(typeof JSON.parse(call.arguments), 'object');
    const [streamed] = (await connect().responses.stream(request).finalResponse()).output;
    assert.equal(streamed.arguments, call.arguments);
  });

  test(`${door}: response is kept until it is deleted`, async () => {
    const client = connect();
    const made = await client.responses.create({ model, input: 'Remember this.' });
    assert.equal((await client.responses.retrieve(made.id)).output_text, made.output_text);
    await client.responses.delete(made.id);
    assert.ok((await errorOf(client.responses.retrieve(made.id))) instanceof OpenAI.NotFoundError);
  });

  test(`${door}: embeddings are the same in both encodings`, async () => {
    const request = { model: 'text-embedding-3-small', input: ['one', 'two words'], dimensions: 8 };
    const encoded = await connect().embeddings.create(request);
    const numbers = await connect().embeddings.create({ ...request, encoding_format: 'float' });
    assert.deepEqual(
      encoded.data.map((item) => item.embedding),
      numbers.data.map((item) => item.embedding),
    );
  });

  test(`${door}: picture is made and streamed`, async () => {
    const request = { model: 'gpt-image-2', prompt: 'a grey square', quality: 'low' };
    const made = await connect().images.generate(request);
    assert.ok(made.data[0].b64_json.startsWith('iVBORw0KGgo'));
    const events = await read(await connect().images.generate({ ...request, stream: true, partial_images: 1 }));
    assert.deepEqual(
      events.map((event) => event.type),
      ['image_generation.partial_image', 'image_generation.completed'],
    );
  });

  test(`${door}: sound is spoken and written down`, async () => {
    const client = connect();
    const spoken = await client.audio.speech.create({
      model: 'gpt-4o-mini-tts',
      voice: 'alloy',
      input: 'one two three',
      response_format: 'wav',
    });
    const sound = Buffer.from(await spoken.arrayBuffer());
    assert.equal(sound.subarray(0, 4).toString(), 'RIFF');
    const upload = await toFile(sound, 'sound.wav');
    const written = await client.audio.transcriptions.create({ model: 'whisper-1', file: upload });
    assert.ok(written.text);
  });

  test(`${door}: file is kept until it is deleted`, async () => {
    const client = connect();
    const content = Buffer.alloc(200_000, 7);
    const made = await client.files.create({ file: await toFile(content, 'bytes.bin'), purpose: 'user_data' });
    assert.equal(made.bytes, content.length);
    const kept = Buffer.from(await (await client.files.content(made.id)).arrayBuffer());
    assert.ok(kept.equals(content));
    assert.equal((await client.files.delete(made.id)).deleted, true);
    assert.ok((await errorOf(client.files.retrieve(made.id))) instanceof OpenAI.NotFoundError);
  });

  test(`${door}: refusal has its class`, async () => {
    const headers = { 'x-simulate': 'status=422' };
    const refused = await errorOf(connect().responses.create({ model, input: 'hello', store: false }, { headers }));
    assert.ok(refused instanceof OpenAI.UnprocessableEntityError);
    assert.ok(refused.requestID);
  });
}

// Starts a demo gateway for one suite, makes keys beside it as an operator does, and stops it at the end.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const binary = process.env.TOLLGATE_BIN ?? fileURLToPath(new URL('../../../target/release/tollgate', import.meta.url));
const startMsMax = 30_000;
const stopMsMax = 30_000;

// A real provider's key would make that provider a candidate of the demo, and the SDKs read these variables too.
for (const name of Object.keys(process.env)) {
  if (/^(OPENAI|ANTHROPIC)_|_API_KEY$/.test(name)) delete process.env[name];
}

export async function startDemo() {
  const directory = mkdtempSync(join(tmpdir(), 'tollgate-'));
  const logFile = join(directory, 'log');
  const demo = spawn(binary, ['demo', '--port', '0', '--json', '--data', join(directory, 'data')], {
    stdio: ['ignore', 'pipe', openSync(logFile, 'w')],
  });
  const exited = once(demo, 'exit');
  const overdue = setTimeout(() => demo.kill('SIGKILL'), startMsMax);
  const [line] = await Promise.race([once(createInterface(demo.stdout), 'line'), exited.then(() => [])]);
  clearTimeout(overdue);
  assert.ok(line, `no line from the demo:\n${readFileSync(logFile)}`);
  const { gateway, key, org, data, simulated_provider: simulatedProvider } = JSON.parse(line);
  let keys = 0;

  return {
    gateway,
    key,
    simulatedProvider,
    // Where a client knocks: it must not be able to tell which of them answers.
    doors: { provider: simulatedProvider, gateway },

    // A new key's token; `makeKey({limit: '0.01', rpm: 2})` passes `--limit 0.01 --rpm 2`.
    makeKey(limits) {
      const options = Object.entries(limits).flatMap(([name, value]) => [`--${name}`, String(value)]);
      const named = ['--org', org, '--name', `client-${keys++}`, '--data', data, '--json'];
      return JSON.parse(execFileSync(binary, ['key', 'create', ...named, ...options])).token;
    },

    async stop() {
      const overdue = setTimeout(() => demo.kill('SIGKILL'), stopMsMax);
      demo.kill('SIGINT');
      const [status] = await exited;
      clearTimeout(overdue);
      assert.equal(status, 0, readFileSync(logFile, 'utf8'));
      rmSync(directory, { recursive: true });
    },
  };
}

// A gateway before the demo's provider whose model has no price yet.
export async function startUnpriced(demo, protocol, model) {
  const directory = mkdtempSync(join(tmpdir(), 'tollgate-'));
  const [gateway, control, metrics] = await freeAddresses(3);
  writeFileSync(
    join(directory, 'tollgate.toml'),
    `
[gateway]
listen = ["${gateway}"]
[gateway.limits]
drain_delay_ms = 0
[control]
listen = "${control}"
[metrics]
listen = "${metrics}"
[providers.simulated]
protocol = "${protocol}"
base_url = "${demo.simulatedProvider}/v1"
credentials = [{ value = "sk-simulated" }]
`,
  );
  writeFileSync(
    join(directory, 'models.toml'),
    `
[[models]]
id = "${model}"
context_tokens = 1000
output_tokens_max = 1000
output_limit_field = "max_tokens"
candidates = [{ provider = "simulated", model = "${model}" }]
[[models.prices]]
from = "2999-01-01"
input = "1"
output = "1"
`,
  );
  const record = (...command) =>
    JSON.parse(execFileSync(binary, [...command, '--data', join(directory, 'data'), '--json']));
  const org = record('org', 'create', 'clients').id;
  const key = record('key', 'create', '--org', org, '--name', 'clients').token;
  const logFile = join(directory, 'log');
  const serving = spawn(binary, ['serve', '--config', join(directory, 'tollgate.toml')], {
    stdio: ['ignore', 'ignore', openSync(logFile, 'w')],
  });
  const exited = once(serving, 'exit');
  const deadline = Date.now() + startMsMax;
  while (!(await isReady(metrics))) {
    assert.ok(serving.exitCode === null && Date.now() < deadline, readFileSync(logFile, 'utf8'));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    gateway: `http://${gateway}`,
    key,

    async stop() {
      serving.kill('SIGKILL');
      await exited;
      rmSync(directory, { recursive: true });
    },
  };
}

// Held together, so that no two of them are the same.
async function freeAddresses(count) {
  const held = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(held.map((server) => once(server, 'listening')));
  const addresses = held.map((server) => `127.0.0.1:${server.address().port}`);
  await Promise.all(held.map((server) => once(server.close(), 'close')));
  return addresses;
}

function isReady(address) {
  return fetch(`http://${address}/readyz`).then(
    (answer) => answer.ok,
    () => false,
  );
}

// `fetch`, and the number of requests sent through it, an SDK's own retries among them.
export function countingFetch() {
  const counted = { requests: 0 };
  counted.fetch = (...request) => {
    counted.requests += 1;
    return fetch(...request);
  };
  return counted;
}

// The error that a call ends with.
export function errorOf(call) {
  return call.then(
    () => assert.fail('the call was not refused'),
    (error) => error,
  );
}

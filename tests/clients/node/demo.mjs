// Starts a demo gateway for one suite, makes keys beside it as an operator does, and stops it at the end.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, openSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const binary = process.env.TOLLGATE_BIN ?? fileURLToPath(new URL('../../../target/release/tollgate', import.meta.url));
const startMsMax = 30_000;
const stopMsMax = 30_000;

// A real provider's key would make that provider a candidate of the demo, and the SDKs read these variables too.
for (const name of Object.keys(process.env)) {
  if (/^(OPENAI|ANTHROPIC)_/.test(name)) delete process.env[name];
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
  const { gateway, key, org, data } = JSON.parse(line);
  let keys = 0;

  return {
    gateway,
    key,

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

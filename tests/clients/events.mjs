// Shared by the Node clients: reads the job, writes the events, and knows when to stop. The same job and the same
// events as in events.py. The SDKs live where tests/install put them, so they are loaded through `sdk`, not `import`.
import { createRequire } from 'node:module';

export const sdk = createRequire(`${process.env.LOSSTRACE_NODE_CLIENTS}/package.json`);

export const job = {
  count: 0, prefix: 'm-', tag: null, timeout_s: 60, interval_ms: 0, consumer: 'push', oneway: false,
  fail_bodies: null, attempts: 1, max_reconsume: null, ...JSON.parse(process.argv[2]),
};

export function say(event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, at: Date.now() / 1000, ...fields }) + '\n');
}

export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

let stop;
/** Settles when the client has to stop: a line or the end of standard input, the time-out, or `count` reached. */
export const stopped = new Promise(resolve => { stop = resolve; });
let isStopped = false;
stopped.then(() => { isStopped = true; });
process.stdin.on('data', () => stop()).on('end', () => stop());
setTimeout(() => stop(), job.timeout_s * 1000);

export const running = () => !isStopped;

export const fails = body => Boolean(job.fail_bodies) && body.startsWith(job.fail_bodies);

const consumed = new Set();
/** One delivery and what the listener answers. Counts distinct bodies that were consumed. */
export function received(ok, body, fields) {
  say('received', { ok, body, ...fields });
  if (ok) consumed.add(body);
  if (job.count && consumed.size >= job.count) stop();
}

/** Shuts the SDK down, but never hangs on it: some wait for a long poll that the server holds. */
async function close(shutdown) {
  const late = Symbol('late');
  try {
    if (await Promise.race([shutdown(), sleep(30_000).then(() => late)]) === late) {
      say('warning', { error: 'shutdown took more than 30 s' });
    }
  } catch (e) {
    say('warning', { error: `shutdown: ${e.message}` });
  }
  say('done');
  // The write to a pipe is asynchronous: leave only when it is out.
  process.stdout.write('', () => process.exit(0));
}

/** Sends `count` messages through `send(body)`, which throws on failure, each tried `tries` times. */
export async function produceAll(send, tries) {
  for (let sent = 0; sent < job.count && running(); sent++) {
    const body = `${job.prefix}${sent}`;
    for (let attempt = 1; attempt <= tries; attempt++) {
      let answer;
      try {
        answer = await send(body);
      } catch (e) {
        say('sent', { ok: false, body, id: e.messageId ?? null, attempt, error: `${e.name}: ${e.message}` });
        await sleep(200);
        if (!running()) break;
        continue;
      }
      say('sent', { body, attempt, ...answer });
      if (answer.ok) break;
    }
    if (job.interval_ms) await sleep(job.interval_ms);
  }
}

/** Runs `start(job)`, which returns the SDK's shutdown; whatever goes wrong is an event and exit code 1. */
export async function main(modes) {
  const fail = e => {
    say('error', { error: `${e?.name}: ${e?.message}` });
    process.stdout.write('', () => process.exit(1));
  };
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  try {
    await close(await modes[job.mode]());
  } catch (e) {
    fail(e);
  }
}

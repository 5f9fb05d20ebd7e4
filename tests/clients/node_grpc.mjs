// The official Node SDK for gRPC (`rocketmq-client-nodejs`), driven as an application would: see events.mjs.
import { sdk, job, main, produceAll, received, fails, running, say, sleep, stopped } from './events.mjs';

const { Producer, PushConsumer, SimpleConsumer, ConsumeResult } = sdk('rocketmq-client-nodejs');

const INVISIBLE_MS = 15_000; // a SimpleConsumer must ask for 10 s at least
const AWAIT_MS = 3_000;

// The SDK logs to a file of its own by default; what matters in a test belongs on standard error.
const logger = { info() {}, debug() {}, warn: console.error, error: console.error };
const options = { endpoints: job.endpoint, namespace: '', logger };

async function produce() {
  const producer = new Producer({ ...options, topics: [job.topic] });
  await producer.startup();
  say('ready');
  await produceAll(async body => {
    const receipt = await producer.send({
      topic: job.topic, body: Buffer.from(body), keys: [body], tag: job.tag ?? undefined,
    });
    return { ok: true, id: receipt.messageId, offset: receipt.offset, status: 'OK' };
  }, job.attempts);
  return () => producer.shutdown();
}

function report(view) {
  const body = view.body.toString();
  const ok = !fails(body) && !view.corrupted;
  received(ok, body, {
    id: view.messageId, attempt: view.deliveryAttempt, topic: view.topic, offset: view.offset, tag: view.tag,
    keys: view.keys, corrupted: Boolean(view.corrupted),
  });
  return ok;
}

async function consume() {
  const subscriptions = new Map([[job.topic, job.tag ?? '*']]);
  if (job.consumer === 'push') {
    const consumer = new PushConsumer({
      ...options, consumerGroup: job.group, subscriptions,
      messageListener: { consume: async view => (report(view) ? ConsumeResult.SUCCESS : ConsumeResult.FAILURE) },
    });
    await consumer.startup();
    say('ready');
    await stopped;
    return () => consumer.shutdown();
  }
  const consumer = new SimpleConsumer({
    ...options, consumerGroup: job.group, subscriptions, awaitDuration: AWAIT_MS,
  });
  await consumer.startup();
  say('ready');
  while (running()) {
    try {
      for (const view of await consumer.receive(32, INVISIBLE_MS)) {
        if (report(view)) {
          await consumer.ack(view);
          say('acked', { id: view.messageId });
        } else {
          await consumer.changeInvisibleDuration(view, 1_000);
        }
      }
    } catch (e) {
      say('warning', { error: `receive: ${e.name}: ${e.message}` });
      await sleep(500);
    }
  }
  return () => consumer.shutdown();
}

await main({ produce, consume });

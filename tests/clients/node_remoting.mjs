// The remoting 4.x client in pure JavaScript (npm `ali-ons`), driven as an application would: see events.mjs.
import { sdk, job, main, produceAll, received, fails, say, stopped } from './events.mjs';

const { Producer, Consumer, Message } = sdk('ali-ons');

// It wants an HTTP client even when the name server's address is given, and never calls it then.
const httpclient = { async request() { throw new Error('no lookup over HTTP in this test'); } };
const logger = { info() {}, debug() {}, warn: console.error, error: console.error };
const options = {
  httpclient, logger, nameSrv: job.endpoint.split(';'), clientIP: '127.0.0.1',
  // Its own defaults are 30 s and 10 s; a test wants to see routes, members and progress sooner.
  pollNameServerInteval: 2_000, heartbeatBrokerInterval: 3_000, rebalanceInterval: 1_000,
  persistConsumerOffsetInterval: 1_000,
};
const TRIES = 3;
const warn = e => say('warning', { error: `${e.name}: ${e.message}` });

async function produce() {
  const producer = new Producer({ ...options, producerGroup: job.group });
  producer.on('error', warn);
  await producer.ready();
  say('ready');
  await produceAll(async body => {
    const message = new Message(job.topic, job.tag ?? '', body);
    message.keys = [body];
    const result = await producer.send(message);
    return {
      ok: result.sendStatus === 'SEND_OK', id: result.msgId, queue: Number(result.messageQueue.queueId),
      offset: result.queueOffset, status: result.sendStatus === 'SEND_OK' ? 'OK' : result.sendStatus,
    };
  }, Math.max(TRIES, job.attempts));
  return () => producer.close();
}

async function consume() {
  // It sends this number with every send-back, and drops a message above it without a word.
  const limit = job.max_reconsume === null ? {} : { maxReconsumeTimes: job.max_reconsume };
  const consumer = new Consumer({ ...options, ...limit, consumerGroup: job.group });
  consumer.on('error', warn);
  consumer.subscribe(job.topic, job.tag ?? '*', async message => {
    const body = message.body.toString();
    const ok = !fails(body);
    received(ok, body, {
      id: message.properties.UNIQ_KEY ?? message.msgId, attempt: message.reconsumeTimes + 1,
      topic: message.topic, queue: message.queueId, offset: Number(message.queueOffset), tag: message.tags,
      keys: (message.keys ?? '').split(' ').filter(Boolean),
    });
    // A thrown error, not ACTION_RETRY: the SDK drops a returned value on every delivery after the first, and the
    // message would count as consumed.
    if (!ok) throw new Error('this body is never consumed');
  });
  await consumer.ready();
  say('ready');
  await stopped;
  return () => consumer.close();
}

await main({ produce, consume });

"""The official Python SDK for gRPC (`rocketmq-python-client`), driven as an application would: see events.py."""

from events import main
from rocketmq import (ClientConfiguration, ConsumeResult, Credentials, FilterExpression, Message,
                      MessageListener, Producer, PushConsumer, SimpleConsumer)

INVISIBLE_S = 15  # a SimpleConsumer must ask for 10 s at least
AWAIT_S = 3


def configuration(job):
    return ClientConfiguration(job.endpoint, Credentials())


def produce(job, stage):
    producer = Producer(configuration(job), (job.topic,))
    producer.startup()
    stage.say("ready")
    sent = 0
    while sent < job.count and stage.running():
        body = f"{job.prefix}{sent}"
        send(job, stage, producer, body)
        sent += 1
        stage.pause()
    stage.close(producer.shutdown)


def send(job, stage, producer, body):
    """A failed call is repeated by the application `attempts` times; each has an id of its own."""
    for attempt in range(1, job.attempts + 1):
        message = Message()
        message.topic = job.topic
        message.body = body.encode()
        message.keys = body
        if job.tag:
            message.tag = job.tag
        try:
            receipt = producer.send(message)
        except Exception as e:
            # The SDK sets the id before its first try, and keeps it over its own three tries.
            stage.say("sent", ok=False, body=body, id=message.message_id, attempt=attempt,
                      error=f"{type(e).__name__}: {e}")
            stage.stopped.wait(0.2)
            if not stage.running():
                return
            continue
        stage.say("sent", ok=True, body=body, id=receipt.message_id, attempt=attempt,
                  offset=receipt.offset, status="OK")
        return


def report(job, stage, message):
    body = message.body.decode()
    ok = not job.fails(body) and not message.corrupted
    stage.received(ok, body, id=message.message_id, attempt=message.delivery_attempt, topic=message.topic,
                   tag=message.tag, keys=sorted(message.keys), corrupted=message.corrupted)
    return ok


class Listener(MessageListener):
    def __init__(self, job, stage):
        self.job, self.stage = job, stage

    def consume(self, message):
        return ConsumeResult.SUCCESS if report(self.job, self.stage, message) else ConsumeResult.FAILURE


def consume(job, stage):
    subscription = {job.topic: FilterExpression(job.tag or "*")}
    if job.consumer == "push":
        consumer = PushConsumer(configuration(job), job.group, Listener(job, stage), subscription)
        consumer.startup()
        stage.say("ready")
        stage.wait()
        # The last acks leave on the listener's threads after it has returned.
        stage.close(consumer.shutdown)
        return
    consumer = SimpleConsumer(configuration(job), job.group, subscription, await_duration=AWAIT_S)
    consumer.startup()
    stage.say("ready")
    while stage.running():
        try:
            messages = consumer.receive(32, INVISIBLE_S)
        except Exception as e:
            stage.say("warning", error=f"receive: {type(e).__name__}: {e}")
            stage.stopped.wait(0.5)
            continue
        for message in messages or []:
            settle(job, stage, consumer, message)
    stage.close(consumer.shutdown)


def settle(job, stage, consumer, message):
    try:
        if report(job, stage, message):
            consumer.ack(message)
            stage.say("acked", id=message.message_id)
        else:
            consumer.change_invisible_duration(message, 1)
    except Exception as e:
        stage.say("warning", error=f"settle {message.message_id}: {type(e).__name__}: {e}")


main({"produce": produce, "consume": consume})

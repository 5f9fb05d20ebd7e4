"""The textbook 4.x program on the official C++ core (PyPI `rocketmq`): see events.py.

Producer: sync send with three tries, and the result checked. Push consumer: CONSUME_SUCCESS or RECONSUME_LATER by
the body. The package's own `subscribe` is not used: it raises out of its C callback when the listener raises, and
ctypes then answers 0, which is CONSUME_SUCCESS, so that a failure could never be shown.

All messages of one pull are one batch to this core, whatever its batch size is set to: the first that is refused ends
the batch, and all of it is sent back, consumed or not.
"""

from events import main
from rocketmq.client import Message, Producer, PushConsumer, RecvMessage, SendStatus, _to_bytes
from rocketmq.exceptions import ffi_check
from rocketmq.ffi import _CConsumeStatus, dll

UNIQ_KEY = "UNIQ_KEY"
TRIES = 3


def produce(job, stage):
    producer = Producer(job.group)
    producer.set_namesrv_addr(job.endpoint)
    producer.start()
    stage.say("ready")
    sent = 0
    while sent < job.count and stage.running():
        body = f"{job.prefix}{sent}"
        send_oneway(job, stage, producer, body) if job.oneway else send(job, stage, producer, body)
        sent += 1
        stage.pause()
    if job.oneway:
        stage.stopped.wait(1)  # one-way sends leave on the SDK's own threads
    stage.close(producer.shutdown)


def message(job, body):
    m = Message(job.topic)
    m.set_keys(body)
    m.set_body(body)
    if job.tag:
        m.set_tags(job.tag)
    return m


def send_oneway(job, stage, producer, body):
    producer.send_oneway(message(job, body))
    stage.say("sent", ok=True, body=body, id=None, attempt=1, status="ONEWAY")


def send(job, stage, producer, body):
    """Up to three tries, as in the textbook; only SEND_OK counts as sent."""
    for attempt in range(1, max(TRIES, job.attempts) + 1):
        try:
            result = producer.send_sync(message(job, body))
        except Exception as e:
            stage.say("sent", ok=False, body=body, id=None, attempt=attempt, error=f"{type(e).__name__}: {e}")
            stage.stopped.wait(0.2)
            if not stage.running():
                return
            continue
        ok = result.status == SendStatus.OK
        stage.say("sent", ok=ok, body=body, id=result.msg_id, attempt=attempt, offset=result.offset,
                  status="OK" if ok else SendStatus(result.status).name)
        if ok:
            return


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def consume(job, stage):
    def on_message(_consumer, handle):
        try:
            m = RecvMessage(handle)
            body = text(m.body)
            ok = not job.fails(body)
            stage.received(ok, body, id=text(m.get_property(UNIQ_KEY)) or m.id, attempt=m.reconsume_times + 1,
                           topic=m.topic, queue=m.queue_id, offset=m.queue_offset, tag=text(m.tags),
                           keys=(text(m.keys) or "").split())
        except Exception as e:  # an exception must not leave a C callback
            stage.say("warning", error=f"listener: {type(e).__name__}: {e}")
            ok = False
        status = _CConsumeStatus.CONSUME_SUCCESS if ok else _CConsumeStatus.RECONSUME_LATER
        return status.value

    consumer = PushConsumer(job.group)
    consumer.set_namesrv_addr(job.endpoint)
    ffi_check(dll.Subscribe(consumer._handle, _to_bytes(job.topic), _to_bytes(job.tag or "*")))
    consumer._register_callback(on_message)
    consumer.start()
    stage.say("ready")
    stage.wait()
    stage.close(consumer.shutdown)


main({"produce": produce, "consume": consume})

"""Shared by the Python clients: reads the job, writes the events, and knows when to stop.

The job is one JSON object, the only argument. Every event is one JSON line on standard output. A client stops
when a line or the end of standard input arrives, when its `timeout_s` is over, or when it has done `count`.
"""

import json
import os
import sys
import threading
import time


class Job:
    """What the harness asks for; the defaults are the smallest run that makes sense by hand."""

    def __init__(self, text):
        fields = json.loads(text)
        self.mode = fields["mode"]  # produce | consume
        self.endpoint = fields["endpoint"]
        self.topic = fields["topic"]
        self.group = fields["group"]
        self.count = fields.get("count", 0)  # consume: 0 means until told to stop
        self.prefix = fields.get("prefix", "m-")  # bodies and keys are prefix + number, unique in one test
        self.tag = fields.get("tag")  # produce: the tag; consume: the expression
        self.timeout_s = fields.get("timeout_s", 60)
        self.interval_ms = fields.get("interval_ms", 0)
        self.consumer = fields.get("consumer", "push")  # push | simple
        self.oneway = fields.get("oneway", False)
        self.fail_bodies = fields.get("fail_bodies")  # bodies with this prefix are never consumed
        self.attempts = fields.get("attempts", 1)  # the application's own tries, beside the SDK's
        # `max_reconsume` (deliveries after the first) is for the one client that says it itself: node_remoting.mjs

    def fails(self, body):
        return bool(self.fail_bodies) and body.startswith(self.fail_bodies)


class Stage:
    """Standard output as the event stream, standard input as the stop signal."""

    def __init__(self, job):
        self.job = job
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._consumed = set()
        self._deadline = time.monotonic() + job.timeout_s
        threading.Thread(target=self._watch_input, daemon=True).start()

    def _watch_input(self):
        sys.stdin.readline()
        self.stopped.set()

    def say(self, event, **fields):
        line = json.dumps({"event": event, "at": time.time(), **fields})
        with self._lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def received(self, ok, body, **fields):
        """One delivery and what the listener answers. Counts distinct bodies that were consumed."""
        self.say("received", ok=ok, body=body, **fields)
        if ok:
            with self._lock:
                self._consumed.add(body)
                full = self.job.count and len(self._consumed) >= self.job.count
            if full:
                self.stopped.set()

    def running(self):
        return not self.stopped.is_set() and time.monotonic() < self._deadline

    def wait(self):
        self.stopped.wait(max(0.0, self._deadline - time.monotonic()))

    def pause(self):
        if self.job.interval_ms:
            self.stopped.wait(self.job.interval_ms / 1000)

    def close(self, shutdown):
        """Shuts the SDK down, but never hangs on it: some wait for a long poll that the server holds."""
        done = threading.Event()

        def run():
            try:
                shutdown()
            except Exception as e:  # the run is over, a failed goodbye is worth a line and no more
                self.say("warning", error=f"shutdown: {e}")
            done.set()

        threading.Thread(target=run, daemon=True).start()
        if not done.wait(30):
            self.say("warning", error="shutdown took more than 30 s")
        self.say("done")
        sys.stdout.flush()
        # Both SDKs keep non-daemon or native threads that a plain return would wait for.
        os._exit(0)


def main(modes):
    job = Job(sys.argv[1])
    stage = Stage(job)
    try:
        modes[job.mode](job, stage)
    except Exception as e:
        stage.say("error", error=f"{type(e).__name__}: {e}")
        os._exit(1)

"""A handler for the unmodified official worker: doubles a number, streams, or fails, as its input says."""

import os
import signal
import time

import runpod


def handler(job):
    if job["input"].get("fail"):
        raise ValueError("told to fail")
    return {"doubled": job["input"]["number"] * 2}


def generator(job):
    for number in range(job["input"]["items"]):
        yield {"number": number}


def misbehaving(job):
    """Sleeps, or dies of a signal, and then answers like a good one."""
    time.sleep(job["input"].get("sleep", 0))
    if job["input"].get("segv"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"ok": True}


def choose(argument):
    return {"generator": generator, "misbehaving": misbehaving}.get(argument, handler)


if __name__ == "__main__":
    runpod.serverless.start({"handler": choose(os.environ.get("CONFORMANCE_HANDLER"))})

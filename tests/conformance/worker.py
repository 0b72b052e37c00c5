"""Handlers for the unmodified official worker. CONFORMANCE_HANDLER names the one to serve."""

import asyncio
import os
import signal
import time

import runpod


def plain(job):
    job_input = job["input"]
    if job_input.get("fail"):
        raise ValueError("told to fail")
    if job_input.get("progress"):
        runpod.serverless.progress_update(job, {"percent": 50})
        time.sleep(job_input["progress"])
    if "return" in job_input:
        return job_input["return"]
    if job_input.get("nan"):
        return {"value": float("nan"), "text": "NaN"}
    return {"doubled": job_input["number"] * 2}


async def asynchronous(job):
    await asyncio.sleep(job["input"].get("sleep", 0))
    return job["input"]


def generator(job):
    for number in range(job["input"]["items"]):
        yield {"number": number}


def misbehaving(job):
    """Sleeps, or crashes with a signal, and then answers like a good one."""
    time.sleep(job["input"].get("sleep", 0))
    if job["input"].get("segv"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"ok": True}


def chatty(job):
    """Prints more than an error has room for, and fails."""
    print("x" * 20_000)
    print("the last words")
    raise ValueError("told to fail")


def slow_hook():
    time.sleep(float(os.environ["CONFORMANCE_HOOK_SECONDS"]))


def failing_hook():
    slow_hook()
    raise RuntimeError("no weights for this model")


def unfit():
    raise RuntimeError("this machine has no unicorn")


def main():
    name = os.environ["CONFORMANCE_HANDLER"]
    config = {
        "plain": {"handler": plain},
        "async": {"handler": asynchronous},
        "generator": {"handler": generator},
        "aggregate": {"handler": generator, "return_aggregate_stream": True},
        "concurrent": {"handler": asynchronous, "concurrency_modifier": lambda _: 4},
        "crowd": {"handler": asynchronous, "concurrency_modifier": lambda _: 32},
        "misbehaving": {"handler": misbehaving},
        "refresh": {"handler": plain, "refresh_worker": True},
        "unfit": {"handler": plain},
        "chatty": {"handler": chatty},
        "slow_hook": {"handler": plain},
        "failing_hook": {"handler": plain},
    }[name]
    # Hooks are new in version 2.0.
    if name.endswith("_hook"):
        runpod.serverless.register_prestart_hook({"slow_hook": slow_hook, "failing_hook": failing_hook}[name])
    if name == "unfit":
        runpod.serverless.register_fitness_check(unfit)
    runpod.serverless.start(config)


if __name__ == "__main__":
    main()

"""The official worker with a handler that does nothing. BENCH_CONCURRENCY is how many jobs it runs at the same time."""

import os

import runpod


async def echo(job):
    return job["input"]


async def stream(job):
    for number in range(job["input"]["n"]):
        yield number


if __name__ == "__main__":
    concurrency = int(os.environ["BENCH_CONCURRENCY"])
    handler = {"echo": echo, "stream": stream}[os.environ["BENCH_HANDLER"]]
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: concurrency})

"""A handler for the unmodified official worker: doubles a number, streams, or fails, as its input says."""

import runpod


def handler(job):
    if job["input"].get("fail"):
        raise ValueError("told to fail")
    return {"doubled": job["input"]["number"] * 2}


def generator(job):
    for number in range(job["input"]["items"]):
        yield {"number": number}


def choose(argument):
    return generator if argument == "generator" else handler


if __name__ == "__main__":
    import os

    runpod.serverless.start({"handler": choose(os.environ.get("CONFORMANCE_HANDLER"))})

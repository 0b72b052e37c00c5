"""Drives an endpoint with the unmodified official clients and prints what they got as one JSON document.

usage: client.py sync|async|pods|thousand   (RUNPOD_ENDPOINT_BASE_URL names the server, the endpoint id is `local`)
"""

import asyncio
import json
import sys

import aiohttp
import runpod
from runpod import AsyncioEndpoint

runpod.api_key = "any"


def outcome(call):
    try:
        return call()
    except Exception as error:  # what the user of the client would see
        return f"{type(error).__name__}"


def sync():
    endpoint = runpod.Endpoint("local")
    job = endpoint.run({"input": {"items": 5}})
    seen = {"stream": list(job.stream()), "status": job.status(), "output": job.output(timeout=30)}
    seen["run_sync"] = endpoint.run_sync({"items": 2}, timeout=60)
    seen["health"] = endpoint.health()
    # The one worker is busy with the first of these, so the others wait.
    endpoint.run({"input": {"items": 1}})
    waiting = endpoint.run({"input": {"items": 1}, "policy": {"lowPriority": True}})
    seen["cancel"] = waiting.cancel()
    seen["cancelled"] = waiting.status()
    seen["cancelled_stream"] = outcome(lambda: list(waiting.stream()))
    seen["purge"] = endpoint.purge_queue()
    seen["unknown"] = outcome(lambda: endpoint.rp_client.get("local/status/unknown"))
    return seen


async def asynchronous():
    async with aiohttp.ClientSession() as session:
        endpoint = AsyncioEndpoint("local", session)
        job = await endpoint.run({"items": 3})
        items = [item async for item in job.stream()]
        seen = {"stream": items, "output": await job.output(timeout=30), "status": await job.status()}
        # Long enough that it does not end before it is cancelled.
        other = await endpoint.run({"items": 1000})
        seen["cancel"] = await other.cancel()
        seen["health"] = await endpoint.health()
        seen["purge"] = await endpoint.purge_queue()
        return seen


def pods():
    return {"pods": runpod.get_pods(), "pod": runpod.get_pod("local-0"), "unknown": runpod.get_pod("nobody")}


async def thousand():
    """Many jobs in a row; every result must be the one of its own job."""
    count = int(sys.argv[2])
    async with aiohttp.ClientSession() as session:
        endpoint = AsyncioEndpoint("local", session)
        gate = asyncio.Semaphore(64)

        async def one(number):
            async with gate:
                job = await endpoint.run({"number": number})
                return await job.output(timeout=120) == {"number": number}

        right = await asyncio.gather(*(one(number) for number in range(count)))
        return {"right": sum(right), "health": await endpoint.health()}


modes = {"sync": sync, "pods": pods, "async": lambda: asyncio.run(asynchronous()), "thousand": lambda: asyncio.run(thousand())}
print(json.dumps(modes[sys.argv[1]]()))

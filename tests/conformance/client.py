"""Drives an endpoint with the unmodified official client and prints what it got as one JSON document.

usage: client.py ENDPOINT_ID INPUT_JSON   (RUNPOD_ENDPOINT_BASE_URL names the server)
"""

import asyncio
import json
import sys

import aiohttp
import runpod
from runpod import AsyncioEndpoint

runpod.api_key = "any"


async def asynchronous(endpoint_id, job_input):
    async with aiohttp.ClientSession() as session:
        job = await AsyncioEndpoint(endpoint_id, session).run(job_input)
        while await job.status() not in ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED"):
            await asyncio.sleep(0.1)
        return {"status": await job.status(), "output": await job.output(timeout=10)}


def main():
    endpoint_id, job_input = sys.argv[1], json.loads(sys.argv[2])
    endpoint = runpod.Endpoint(endpoint_id)
    job = endpoint.run({"input": job_input})
    seen = {
        "run_sync": endpoint.run_sync({"input": job_input}, timeout=60),
        "output": job.output(timeout=60),
        "status": job.status(),
        "asyncio": asyncio.run(asynchronous(endpoint_id, job_input)),
        "health": endpoint.health(),
    }
    print(json.dumps(seen))


main()

"""Load test of `dpcl serve`: many clients send a recording at once, and fetch its sources.

dpcl serve --port 8000 --workers 2
python examples/load_test.py http://127.0.0.1:8000 --clients 50
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

import httpx

RECORDING = Path(__file__).parent / "two_talkers.flac"


async def one(client: httpx.AsyncClient, data: bytes) -> tuple[float, float, int]:
    """Return the seconds until the job was accepted and until all sources had arrived, and bytes.

    client: connection to the service.
    data: the recording.
    """
    begun = time.perf_counter()
    answer = await client.post("/v1/jobs", params={"name": "a.flac", "sources": 2}, content=data)
    answer.raise_for_status()
    accepted = time.perf_counter() - begun
    job = answer.json()
    async with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        async for line in events.aiter_lines():
            job = json.loads(line.removeprefix("data: ")) if line else job
    if job["state"] != "done":
        raise SystemExit(f"a job is {job['state']}: {job.get('error')}")
    size = 0
    for address in job["files"].values():
        size += len((await client.get(f"/{address}")).content)
    await client.delete(f"/v1/jobs/{job['id']}")
    return accepted, time.perf_counter() - begun, size


async def test(address: str, clients: int, key: str) -> None:
    """Run all clients at once and print the times."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None)
    data = RECORDING.read_bytes()
    async with httpx.AsyncClient(
        base_url=address, timeout=600, limits=limits, headers=headers
    ) as client:
        begun = time.perf_counter()
        work = asyncio.gather(*(one(client, data) for _ in range(clients)))
        waits = []
        while not work.done():  # the service must answer others meanwhile
            asked = time.perf_counter()
            (await client.get("/health")).raise_for_status()
            waits.append(time.perf_counter() - asked)
            await asyncio.sleep(0.1)
        accepted, ended, sizes = zip(*await work, strict=True)
    for name, values in (("accepted", accepted), ("sources", ended), ("/health", waits)):
        middle, slowest = statistics.median(values), max(values)
        print(f"{name}: {middle:.2f} s (median), {slowest:.2f} s (slowest of {len(values)})")
    print(f"{clients} clients in {time.perf_counter() - begun:.1f} s, {sum(sizes) / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="address of the service")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--key", default="", help="API key")
    arguments = parser.parse_args()
    asyncio.run(test(arguments.address, arguments.clients, arguments.key))

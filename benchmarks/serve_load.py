"""Load on a service on this machine, at a fixed rate whether it keeps up or not.

python -m benchmarks.serve_load --port 8000 --rate 50 --seconds 60 --events 50
"""

import argparse
import asyncio
import http.client
import json
import random
import time
from collections import Counter

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def item_ids(port: int, count: int = 1000) -> list[str]:
    """Ids of the items that are used most."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    ids: list[str] = []
    while len(ids) < count:
        connection.request("GET", f"/items?count=100&first={len(ids)}")
        found = json.loads(connection.getresponse().read())["items"]
        if not found:
            break
        ids += [item["item_id"] for item in found]
    return ids


async def ask(port: int, body: bytes, idle: list[Connection]) -> int:
    """Send a question over an idle or a new connection; returns the status.

    A server may close a connection that was idle for some seconds just when it is taken up again; such a
    question is sent once more over a new connection, as every HTTP client does.
    """
    head = "POST /recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    question = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    while True:
        used = bool(idle)
        reader, writer = idle.pop() if used else await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(question)
            answer = await reader.readuntil(b"\r\n\r\n")
            break
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            if not used:
                raise
    lines = answer.decode("latin-1").lower().split("\r\n")
    (length,) = [line.split(":")[1] for line in lines if line.startswith("content-length:")]
    await reader.readexactly(int(length))
    idle.append((reader, writer))
    return int(lines[0].split()[1])


async def run(port: int, rate: float, seconds: float, events: int) -> None:
    """Ask at a fixed rate, then print what was measured."""
    ids, rng = item_ids(port), random.Random(0)
    times: list[float] = []
    statuses: Counter[int] = Counter()
    idle: list[Connection] = []

    async def timed(due: float) -> None:
        day = 86_400
        history = [{"item_id": rng.choice(ids), "time": 1.6e9 + day * event} for event in range(events)]
        body = json.dumps({"histories": [history], "k": 20}).encode()
        statuses[await ask(port, body, idle)] += 1
        times.append(1000 * (time.perf_counter() - due))  # a late start counts as waiting

    start = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(timed(due)))
    await asyncio.gather(*tasks)
    times.sort()
    p50, p99 = times[len(times) // 2], times[int(0.99 * len(times))]
    print(f"{len(times):,} requests: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {times[-1]:.1f} ms")
    print(f"statuses: {dict(statuses)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--events", type=int, default=50, help="length of the histories")
    given = parser.parse_args()
    asyncio.run(run(given.port, given.rate, given.seconds, given.events))

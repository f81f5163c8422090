"""A process that holds many subscribers of NATS, each on a connection of its own, which answer ``1 + 1``.

``python -m benchmarks.nats_load PORT COUNT`` says ``ready`` when all have subscribed. The answer is worked out as an
edge's would be written: a line of JSON with a row.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import nats
from nats.aio.msg import Msg

SUBJECT = "peers.all"


async def hold(port: int, count: int) -> None:
    async def answer(message: Msg) -> None:
        asked = msgspec.json.decode(message.data)
        left, right = asked["text"].split("+")
        await message.respond(msgspec.json.encode({"frame": "row", "statement": 0, "values": [int(left) + int(right)]}))

    clients = []
    for _ in range(count):
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        await client.subscribe(SUBJECT, cb=answer)
        await client.flush()
        clients.append(client)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(hold(int(sys.argv[1]), int(sys.argv[2])))

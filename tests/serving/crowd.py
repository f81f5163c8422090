"""A crowd of connections to one port, in a process of its own: its limit of descriptors is raised.

    python -m tests.serving.crowd PORT CONNECTIONS

Each connection asks one request as soon as it is there and stays. Then one of those that were answered asks again, and
all that were refused have been closed by the peer. Prints what was seen as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections import Counter

ASKING = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
AT_ONCE = 200  # that are being opened
SPARE = 100


async def crowd(port: int, connections: int) -> dict[str, object]:
    seen: Counter[str] = Counter()
    kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    turn = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with turn:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(ASKING)
                status = (await reader.readline()).split()[1].decode()
                seen[status] += 1
                if status == "200":
                    await reader.readuntil(b'{"live":true}')
                    kept.append((reader, writer))
                else:
                    await reader.read()  # until the peer closes it
                    seen["closed"] += 1
                    writer.close()
            except (OSError, IndexError) as error:
                seen[type(error).__name__] += 1

    async with asyncio.timeout(90):
        await asyncio.gather(*(one() for _ in range(connections)))
        again = 0
        for reader, writer in kept[:: max(1, len(kept) // 50)]:
            writer.write(ASKING)
            again += (await reader.readline()).split()[1] == b"200"
            await reader.readuntil(b'{"live":true}')
        for _, writer in kept:
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        freed = b"503"
        while freed == b"503":  # until the peer has seen that they left
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ASKING)
            freed = (await reader.readline()).split()[1]
        writer.close()
    return {"seen": seen, "again": again, "freed": freed.decode()}


if __name__ == "__main__":
    wanted = int(sys.argv[2])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + SPARE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, wanted + SPARE), hard))
    print(json.dumps(asyncio.run(crowd(int(sys.argv[1]), wanted))))

"""A link with latency: python link.py PORT SECONDS relays to a local port, so much later each way.

It prints the port to connect to.
"""

import asyncio
import sys
from functools import partial

CHUNK = 1 << 16


async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await source.read(CHUNK):
            loop.call_later(delay, sink.write, data)
    finally:
        loop.call_later(delay, sink.close)


async def join(
    port: int, delay: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    ways = relay(reader, far_writer, delay), relay(far_reader, writer, delay)
    await asyncio.gather(*ways, return_exceptions=True)


async def main(port: int, delay: float) -> None:
    server = await asyncio.start_server(partial(join, port, delay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))

"""door.py ADDRESS PORT: hands connections on. Standard input is the listening socket.

The socket was made outside of the network namespace in which this connects.
"""

import asyncio
import socket
import sys


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()


async def hand_on(reader, writer):
    try:
        inner_reader, inner_writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
    inner_writer.close()
    writer.close()


async def main():
    listener = socket.socket(fileno=0)
    server = await asyncio.start_server(hand_on, sock=listener, backlog=128)
    await server.serve_forever()


asyncio.run(main())

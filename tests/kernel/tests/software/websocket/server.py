"""Echoes, for as long as a client likes."""

import asyncio

import websockets


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def serve():
    async with websockets.serve(echo, None, 8765, ping_interval=None, max_size=None):
        await asyncio.Future()


asyncio.run(serve())

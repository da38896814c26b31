"""Two WebSockets for as many seconds as told: one with traffic and pings, one silent in between."""

import asyncio
import sys

import websockets

ADDRESS, SECONDS = sys.argv[1], int(sys.argv[2])


async def ask(socket, message):
    await socket.send(message)
    return await asyncio.wait_for(socket.recv(), 10) == message


async def lively():
    async with websockets.connect(ADDRESS, ping_interval=1, ping_timeout=10, max_size=None) as socket:
        for second in range(SECONDS):
            text = await ask(socket, f"message {second} " + "x" * 1000 * second)
            data = await ask(socket, bytes(range(256)) * 1000)
            if not (text and data):
                return False
            await asyncio.sleep(1)
    return True


async def silent():
    async with websockets.connect(ADDRESS, ping_interval=None) as socket:
        before = await ask(socket, "before")
        await asyncio.sleep(SECONDS)
        return before and await ask(socket, "after")


async def main():
    right = await asyncio.gather(lively(), silent())
    print("all answers were right, with pings and without a word:", right)
    sys.exit(0 if all(right) else 1)


asyncio.run(main())

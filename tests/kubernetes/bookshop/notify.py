"""Says over a WebSocket what it hears there."""

from websockets.sync.server import serve


def talk(socket):
    for message in socket:
        socket.send(f"heard of {message}")


serve(talk, "0.0.0.0", 8080).serve_forever()

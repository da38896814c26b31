"""Uses every function of the shop for one book, and prints what did not answer as it should."""

import sys
from urllib.request import Request, urlopen

from websockets.sync.client import connect

title = sys.argv[1]
front = "http://front:8080"


def asked(path, body=None):
    data = None if body is None else body.encode()
    with urlopen(Request(front + path, data=data), timeout=8) as answer:
        return answer.read().decode()


def noted_and_shown(path):
    asked(path, title)
    return asked(path)


def notified():
    with connect("ws://front:8080/notify", open_timeout=8, close_timeout=2) as socket:
        said = []
        for count in range(3):
            socket.send(f"{title} {count}")
            said.append(socket.recv(timeout=8))
        return "\n".join(said) if len(said) == 3 else ""


functions = {
    "catalog": lambda: noted_and_shown("/catalog"),
    "orders": lambda: noted_and_shown("/orders"),
    "cart": lambda: noted_and_shown("/cart"),
    "reviews": lambda: noted_and_shown("/reviews"),
    "price": lambda: asked(f"/price/{title}") + asked(f"/price/{title}"),
    "advice": lambda: asked(f"/advice/{title}"),
    "notify": notified,
}
failed = 0
for name, function in functions.items():
    try:
        answer = function()
        assert title in answer, f"the answer is {answer!r}"
    except Exception as error:
        failed += 1
        print(f"{name}: {error!r}")
print(f"{len(functions) - failed} of {len(functions)} functions answered")
sys.exit(1 if failed else 0)

"""Serves one client: says nothing before it has finished, or finishes before listening to it."""

import hashlib
import socket
import sys

WHO, PORT, ANSWER = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def answer(client):
    with open(ANSWER, "rb") as file:
        client.sendfile(file)
    client.shutdown(socket.SHUT_WR)


def hear(client):
    heard = hashlib.sha256()
    while piece := client.recv(65536):
        heard.update(piece)
    return heard.hexdigest()


with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    client, _ = listener.accept()
with client:
    if WHO == "client":
        heard = hear(client)
        answer(client)
    else:
        answer(client)
        heard = hear(client)
print(heard)

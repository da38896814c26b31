"""names.py ADDRESS SERVER CA CERTIFICATE KEY: answers DNS questions about services of the cluster.

Asks the API server once a second. Knows services, headless services, pods of a StatefulSet by
their host names, and external names. Of what is outside of the cluster it says that it is not there.
"""

import http.client
import json
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time

ADDRESS, SERVER, CA, CERTIFICATE, KEY = sys.argv[1:6]
ZONE = "cluster.local"
TIME_TO_LIVE = 2
A, CNAME, AAAA = 1, 5, 28
NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3

# Name to addresses, or to another name. None until the API server has answered once.
known = None


def read(connection, path):
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise OSError(f"{path}: {response.status} {body[:200]!r}")
    return json.loads(body)["items"]


def look(connection):
    names = {}
    headless = set()
    for service in read(connection, "/api/v1/services"):
        meta, spec = service["metadata"], service["spec"]
        name = f"{meta['name']}.{meta['namespace']}.svc.{ZONE}"
        if spec.get("type") == "ExternalName":
            names[name] = spec.get("externalName", "").rstrip(".").lower()
        elif spec.get("clusterIP") == "None":
            headless.add((meta["namespace"], meta["name"]))
            names[name] = []
        elif spec.get("clusterIP"):
            names[name] = [spec["clusterIP"]]
    for endpoints in read(connection, "/api/v1/endpoints") if headless else []:
        meta = endpoints["metadata"]
        if (meta["namespace"], meta["name"]) not in headless:
            continue
        name = f"{meta['name']}.{meta['namespace']}.svc.{ZONE}"
        for subset in endpoints.get("subsets") or []:
            for address in subset.get("addresses") or []:
                names[name].append(address["ip"])
                if address.get("hostname"):
                    names.setdefault(f"{address['hostname']}.{name}", []).append(address["ip"])
    return names


def keep_looking():
    global known
    context = ssl.create_default_context(cafile=CA)
    context.load_cert_chain(CERTIFICATE, KEY)
    host, port = SERVER.rsplit(":", 1)
    connection = None
    while True:
        try:
            connection = connection or http.client.HTTPSConnection(
                host, int(port), context=context, timeout=10
            )
            known = look(connection)
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            print(f"asking the API server: {error}", flush=True)
            connection = None
        time.sleep(1)


def encode(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def record(owner, kind, data):
    return owner + struct.pack(">HHIH", kind, 1, TIME_TO_LIVE, len(data)) + data


def decide(name, kind):
    """The code of the answer, and the records that it has."""
    if known is None:
        return SERVER_FAILURE, []
    # The name of the question stands 12 bytes after the beginning.
    owner, answers = b"\xc0\x0c", []
    found = known.get(name)
    if isinstance(found, str):
        answers.append(record(owner, CNAME, encode(found)))
        owner, found = encode(found), known.get(found, [])
    if found is None or isinstance(found, str):
        above = any(other.endswith("." + name) for other in known)
        return (NO_ERROR if answers or above else NO_SUCH_NAME), answers
    if kind == A:
        answers += [record(owner, A, socket.inet_aton(address)) for address in dict.fromkeys(found)]
    return NO_ERROR, answers


def answer(question):
    at, parts = 12, []
    while question[at]:
        parts.append(question[at + 1 : at + 1 + question[at]].decode("ascii"))
        at += question[at] + 1
    (kind,) = struct.unpack(">H", question[at + 1 : at + 3])
    code, answers = decide(".".join(parts).lower(), kind)
    wants_recursion = question[2] & 1
    head = question[:2] + struct.pack(
        ">HHHHH", 0x8480 | wants_recursion << 8 | code, 1, len(answers), 0, 0
    )
    return head + question[12 : at + 5] + b"".join(answers)


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        whole = answer(data)
        if len(whole) > 512:
            # Too long for a datagram: without records, and said so; TCP has room.
            end = 12 + data[12:].index(b"\0") + 5
            whole = whole[:2] + bytes([whole[2] | 2]) + whole[3:6] + bytes(6) + whole[12:end]
        sock.sendto(whole, self.client_address)


class Stream(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self):
        while head := self.rfile.read(2):
            whole = answer(self.rfile.read(struct.unpack(">H", head)[0]))
            self.wfile.write(struct.pack(">H", len(whole)) + whole)


class DatagramServer(socketserver.ThreadingUDPServer):
    daemon_threads = True


class StreamServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


threading.Thread(target=keep_looking, daemon=True).start()
streams = StreamServer((ADDRESS, 53), Stream)
threading.Thread(target=streams.serve_forever, daemon=True).start()
DatagramServer((ADDRESS, 53), Datagram).serve_forever()

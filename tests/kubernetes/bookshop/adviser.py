"""HTTP before the gRPC service, over one channel for all requests."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

channel = grpc.insecure_channel("recommend:50051")
like = channel.unary_stream("/bookshop.Recommend/Like")


def advice(title):
    """Once more, if the channel has ended."""
    for is_last in (False, True):
        try:
            return b"\n".join(like(title, timeout=3, wait_for_ready=True)) + b"\n"
        except grpc.RpcError:
            if is_last:
                raise


class Adviser(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        alive = self.path == "/alive"
        body = b"alive\n" if alive else advice(self.path.rsplit("/", 1)[1].encode())
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", 8080), Adviser).serve_forever()

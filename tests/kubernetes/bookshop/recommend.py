"""What else one may like: a gRPC service whose answers are a stream."""

from concurrent.futures import ThreadPoolExecutor

import grpc


def like(title, _):
    for count in range(3):
        yield title + b" is as good as book %d" % count


handler = grpc.unary_stream_rpc_method_handler(like)
server = grpc.server(ThreadPoolExecutor(8))
server.add_generic_rpc_handlers(
    [grpc.method_handlers_generic_handler("bookshop.Recommend", {"Like": handler})]
)
server.add_insecure_port("0.0.0.0:50051")
server.start()
server.wait_for_termination()

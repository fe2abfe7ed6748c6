"""A gRPC service and its client, by Google's own library: messages are plain bytes, so that nothing has to be generated.

    echo.py serve            serves on a free port, printed first; until standard input closes
    echo.py call PORT        calls it through whatever listens at PORT, one line of JSON a call
"""

import json
import sys
from concurrent import futures

import grpc

SERVICE = "echo.Echo"


def say(message, context):
    told = dict(context.invocation_metadata())
    context.set_trailing_metadata((("seen-request-id", told.get("x-request-id", "")),))
    return message


def count(message, context):
    for number in range(int(message)):
        yield str(number).encode()


def add_up(messages, context):
    yield b"first"
    yield str(sum(int(message) for message in messages)).encode()


def fail(message, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "AddUp": grpc.stream_stream_rpc_method_handler(add_up),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()


def call(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        reply, done = channel.unary_unary(f"/{SERVICE}/Say").with_call(b"hello", timeout=20)
        trailers = dict(done.trailing_metadata())
        print(json.dumps({"say": reply.decode(), "traced": len(trailers["seen-request-id"]) == 26}))
        large = b"x" * 1_000_000
        print(json.dumps({"large": channel.unary_unary(f"/{SERVICE}/Say")(large, timeout=20) == large}))
        numbers = channel.unary_stream(f"/{SERVICE}/Count")(b"5", timeout=20)
        print(json.dumps({"count": [int(number) for number in numbers]}))
        sums = channel.stream_stream(f"/{SERVICE}/AddUp")(iter([b"1", b"2", b"39"]), timeout=20)
        print(json.dumps({"add_up": [message.decode() for message in sums]}))
        try:
            channel.unary_unary(f"/{SERVICE}/Fail")(b"", timeout=20)
        except grpc.RpcError as error:
            print(json.dumps({"fail": [error.code().name, error.details()]}))


if sys.argv[1:] == ["serve"]:
    serve()
else:
    call(int(sys.argv[2]))

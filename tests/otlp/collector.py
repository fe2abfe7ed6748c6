"""A collector that this project did not write: OpenTelemetry's own decoder of OTLP in JSON, behind the standard library's server.

Prints `PORT n`, then a JSON line for each span. What the decoder does not give back as it came was not OTLP: such an export is answered by
400 and told in a line `{"wrong": …}`. It ends with the process that started it.
"""

import argparse
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto_json.collector.trace.v1.trace_service import ExportTraceServiceRequest

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
parser.add_argument("--status", type=int, default=200, help="answer every export so")
options = parser.parse_args()


def say(what):
    print(json.dumps(what), flush=True)


def plain(attributes):
    value = lambda it: it.string_value if it.string_value is not None else it.int_value
    return {it.key: value(it.value) for it in attributes}


def spans(request):
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "service": plain(resource.resource.attributes)["service.name"],
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex() if span.parent_span_id else "",
                    "name": span.name,
                    "kind": span.kind.name,
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": plain(span.attributes),
                    "status": span.status.code.name if span.status else "STATUS_CODE_UNSET",
                }


class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status = options.status
        if status == 200:
            status = self.take(body)
        answer = b"{}"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def take(self, body):
        try:
            sent = json.loads(body)
            request = ExportTraceServiceRequest.from_dict(sent)
            if self.path != "/v1/traces" or self.headers["content-type"] != "application/json":
                raise ValueError(f"{self.path} {self.headers['content-type']}")
            if request.to_dict() != sent:
                raise ValueError(f"{request.to_dict()} is not {sent}")
            for span in spans(request):
                say(span)
            return 200
        except Exception as error:
            say({"wrong": repr(error)})
            return 400

    def log_message(self, *_):
        pass


starter = os.getppid()
server = ThreadingHTTPServer(("127.0.0.1", options.port), Collector)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"PORT {server.server_port}", flush=True)
while os.getppid() == starter:
    time.sleep(1)

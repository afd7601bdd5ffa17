"""What `helm test` asks the gateway: that it answers, and that the Control API is not behind it."""

import http.client
import os
import socket
import ssl
import sys

ADDRESS, NAME = os.environ["GATEWAY"].rsplit(":", 1), os.environ["SERVER_NAME"]
CONTEXT = ssl.create_default_context(cafile="/run/tls/ca.crt")


def status(method: str, path: str) -> int:
    """Return the status of one request, over TLS that must be the server's own."""
    raw = socket.create_connection((ADDRESS[0], int(ADDRESS[1])), timeout=10)
    connection = http.client.HTTPSConnection(NAME, context=CONTEXT)
    connection.sock = CONTEXT.wrap_socket(raw, server_hostname=NAME)
    connection.request(method, path)
    return connection.getresponse().status


EXPECTED = {
    ("GET", "/health"): 200,
    ("POST", "/v1/control/list-runs"): 404,
    ("POST", "/v1/runtime/get-nodes"): 404,
}
found = {question: status(*question) for question in EXPECTED}
for question, answer in found.items():
    sys.stdout.write(f"{question[0]} {question[1]}: {answer}, expected {EXPECTED[question]}\n")
sys.exit(found != EXPECTED)

"""
Messages between clients of all edges: every one acknowledged, heard by all once and in order.

Each edge is asked by its own address, so that messages have to go from one to another.
"""

import os
import socket
import sys

found = socket.getaddrinfo(os.environ["EDGES"], 8080, type=socket.SOCK_STREAM)
urls = sorted({f"http://{address[0]}:8080" for *_, address in found})
print(f"edges: {', '.join(urls)}", file=sys.stderr, flush=True)
if len(urls) < 2:
    sys.exit("one edge is ready; the test needs two")
load = "--clients 12 --rooms 2 --rate 10 --duration 10 --faults none".split()
os.execvp("roomful", ["roomful", "verify", *urls, *load])

"""Servers, channels, identity and errors on the wire: how the services of the mesh talk."""

import os

#: Since 1.80 Python's gRPC polls its sockets on threads of their own (EventEngine), which costs a call that comes alone
#: twice the processor time and latency: 226 us instead of 115 on a batch stream (`make bench-batching`), and nothing
#: is won with many. gRPC reads this as it starts, and nothing else decides it. Who sets it from outside is heard.
_POLL_AS_BEFORE = "-event_engine_client,-event_engine_listener"

os.environ.setdefault("GRPC_EXPERIMENTS", _POLL_AS_BEFORE)

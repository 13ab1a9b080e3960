"""The seven services, their toolbox and the launcher; and what a process has to know before it imports anything."""

import os

# Since 1.80 Python's gRPC waits for its sockets on threads of its own (EventEngine). That costs a call that comes alone
# up to twice the processor time (`make bench-batching`), and nothing is won where many come together. gRPC reads this
# as it is imported. Whoever sets it from outside is heard.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")

"""gRPC faces of the gateway: three public services, the edge's question about API keys, reflection for all seven."""

"""What runs when a tool is called. Only this room opens sockets to tools, and only with a clearance."""

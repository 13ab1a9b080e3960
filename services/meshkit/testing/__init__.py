"""What tests need to own time, ids, faults and crashes, and a real server inside the test."""

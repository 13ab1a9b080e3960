"""Who is next when more is asked than can be done: pure rules."""

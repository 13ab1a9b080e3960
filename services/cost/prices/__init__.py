"""The shipped price table and the script that makes it."""

"""The command line: `comitia`."""

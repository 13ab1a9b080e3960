"""Adapters to providers, one file each, behind `usecases.ports.ModelProvider`. Only these open sockets."""

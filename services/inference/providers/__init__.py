"""Adapters to providers, one room per dialect, behind `usecases.ports.ModelProvider`. Only these open sockets."""

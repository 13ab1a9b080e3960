"""Definitions of workflows: read from text or message, checked as a whole, written in their canonical form.

Pure: what exists elsewhere (agents, other workflows) is looked up by the use case and handed in.
"""

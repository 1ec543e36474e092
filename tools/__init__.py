"""Companions of the node, distributed as g8tools: they use g8node as a library, never the reverse."""

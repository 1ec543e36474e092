"""Chunk stores and their decorators: one contract, batch first."""

"""Id types that could be swapped by mistake (pure)."""

from typing import NewType

JobId = NewType("JobId", str)
"""Free text chosen by the client; one live job per id."""

ContainerId = NewType("ContainerId", int)
"""1..65534; 0 means the host in results and log records (spec core0-protocol 2.4)."""

ChunkId = NewType("ChunkId", bytes)
"""Digest of the stored chunk: 32 bytes (BLAKE2b-256, design 5), 16 (v2 flists) or 64 hex digits (v1)."""

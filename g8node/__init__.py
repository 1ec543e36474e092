"""g8node: the node daemon. PID 1 of a node, or an agent on any Linux."""

__version__ = "0.1.0"

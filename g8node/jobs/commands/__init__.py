"""One module a command namespace: typed arguments, one call on an owner."""

"""One owner per resource of the node; usable without Redis."""

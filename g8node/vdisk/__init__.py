"""vdisks: block devices of the node and the stores that hold their blocks."""

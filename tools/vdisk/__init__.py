"""`g8 vdisk`: vdisks of a folder, with or without a node."""

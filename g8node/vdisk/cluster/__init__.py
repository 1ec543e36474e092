"""vdisks whose blocks lie in clusters of redis-protocol servers, in the original's layout."""

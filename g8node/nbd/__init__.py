"""The NBD server: sockets, connections and what they ask of an export."""

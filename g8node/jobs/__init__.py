"""The job manager, the command registry, the Redis bus and the gate."""

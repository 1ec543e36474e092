"""Async building blocks without domain: thread pools, processes, supervision, watchdog, logs."""

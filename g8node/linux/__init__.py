"""Blocking facade over the kernel: what may wait wears `@off_loop`; errors are plain OSError."""

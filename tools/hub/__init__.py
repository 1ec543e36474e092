"""The Hub: flists and their chunks over HTTP, published atomically and checked before anyone sees them."""

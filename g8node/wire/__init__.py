"""Pure codecs and state machines: bytes in, values out. No os, socket, asyncio or subprocess."""

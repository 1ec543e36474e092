"""The kernel's NBD client: runs inside a node as a program of its own, so it needs nothing but Python.

python3 -c SOURCE SOCKET EXPORT DEVICE CONNECTIONS connects an export of a unix socket to a block device, and
ends when the device is disconnected (`nbd-client -d DEVICE`).
"""

import fcntl
import os
import socket
import struct
import sys

# linux/nbd.h
NBD_SET_SOCK = 0xAB00
NBD_SET_BLKSIZE = 0xAB01
NBD_DO_IT = 0xAB03
NBD_CLEAR_SOCK = 0xAB04
NBD_SET_SIZE_BLOCKS = 0xAB07
NBD_SET_FLAGS = 0xAB0A

# doc/proto.md of NBD
REPLY_MAGIC = 0x3E889045565A9
OPT_GO = 7
REP_ACK = 1
REP_INFO = 3
BLOCK = 4096


def connect(path: str, name: str) -> tuple[socket.socket, int, int]:
    """A connection of which the kernel can take over the rest, and the export's size and flags."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    stream = connection.makefile("rb", buffering=0)
    greeting = stream.read(18)
    assert greeting is not None
    assert greeting[:16] == b"NBDMAGICIHAVEOPT", greeting
    body = struct.pack(">I", len(name)) + name.encode() + bytes(2)
    connection.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", OPT_GO, len(body)) + body)
    size = flags = 0
    while True:
        magic, option, kind, length = struct.unpack(">QIII", stream.read(20) or b"")
        info = stream.read(length) if length else b""
        assert (magic, option) == (REPLY_MAGIC, OPT_GO)
        assert info is not None
        if kind == REP_ACK:
            return connection, size, flags
        assert kind == REP_INFO, (hex(kind), info)
        if info[:2] == b"\0\0":
            size, flags = struct.unpack(">QH", info[2:12])


def attach(path: str, name: str, device: str, connections: int) -> None:
    """Returns when the device was disconnected."""
    number = os.open(device, os.O_RDWR)
    fcntl.ioctl(number, NBD_CLEAR_SOCK)
    size = flags = 0
    kept = []
    for _ in range(connections):
        connection, size, flags = connect(path, name)
        kept.append(connection)
        fcntl.ioctl(number, NBD_SET_SOCK, connection.fileno())
    fcntl.ioctl(number, NBD_SET_BLKSIZE, BLOCK)
    fcntl.ioctl(number, NBD_SET_SIZE_BLOCKS, size // BLOCK)
    fcntl.ioctl(number, NBD_SET_FLAGS, flags)
    fcntl.ioctl(number, NBD_DO_IT)


if __name__ == "__main__":
    attach(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))

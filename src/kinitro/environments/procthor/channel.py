"""Framed msgpack between us and the process that holds the Controller. Both ends are ours: nothing here is hostile."""

import struct
from socket import socket
from typing import Any, Final

import msgpack

# Any in this file: documents of metadata and actions.

_HEADER: Final = struct.Struct("!I")


def send(connection: socket, document: dict[str, Any]) -> None:
    """Writes one document. Raises `OSError` when the other end is gone or the socket's timeout passes."""
    body = msgpack.packb(document)
    connection.sendall(_HEADER.pack(len(body)) + body)


def receive(connection: socket) -> dict[str, Any] | None:
    """Reads one document; None when the other end is gone. Raises `TimeoutError` as the socket's timeout says."""
    header = _read(connection, _HEADER.size)
    body = _read(connection, _HEADER.unpack(header)[0]) if header is not None else None
    if body is None:
        return None
    document: dict[str, Any] = msgpack.unpackb(body, strict_map_key=False)
    return document


def _read(connection: socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)

#!/usr/bin/env python3
"""A machvm pager in Python, with nothing but its standard library.

It keeps memory for kernels that have too little (a default pager), and has two kinds of
objects: "numbers", where every page begins with its own number, and any other name, which is
data that can be written and that lasts as long as the pager.

    python3 pager.py /tmp/pager.sock &
    machvm run --memory 64M --swap pager:/tmp/pager.sock -- program

docs/external-pagers.md describes every message.
"""

import mmap
import os
import socket
import struct
import sys
import threading

MESSAGE = struct.Struct("<HHIQQQQQIIQ")
MAGIC = int.from_bytes(b"MVMPAGER", "little")
VERSION = 1
PAGE = 4096
CLUSTER = 16 * PAGE
LONGEST_NAME = 1024

# Kinds of messages: from the kernel below 48 (and not WELCOME), from the pager above.
HELLO, WELCOME = 1, 2
INIT, TERMINATE, DATA_REQUEST, DATA_RETURN, DATA_UNLOCK = 16, 17, 18, 19, 20
LOCK_COMPLETED, SUPPLY_COMPLETED, CHANGE_COMPLETED, ATTRIBUTES = 21, 22, 23, 24
SYNCHRONIZE, COPY, CREATE, MAP, LAST_UNMAP = 25, 26, 27, 28, 29
READY, REFUSED, DATA_SUPPLY, DATA_UNAVAILABLE, DATA_ERROR = 48, 49, 50, 51, 52
RETURN_COMPLETED, LOCK_REQUEST, CHANGE_ATTRIBUTES, GET_ATTRIBUTES = 53, 54, 55, 56
SYNCHRONIZE_COMPLETED, DESTROY, CREATE_PROXY = 57, 58, 59

SUCCESS, BEYOND, GONE, ERROR, UNSUPPORTED, INVALID = 0, 1, 2, 3, 4, 5
PRESENT, FULL, DENIED, BUSY, UNKNOWN = 6, 7, 8, 9, 10

READ, WRITE = 1, 2
COPY_DELAY = 2
NAMED = 1 << 30  # bytes of a named object


class Message:
    """One message: 64 bytes, little-endian."""

    FIELDS = ("kind", "flags", "status", "id", "object", "offset", "size", "place", "access", "how", "extra")

    def __init__(self, kind, **fields):
        self.kind = kind
        for name in self.FIELDS[1:]:
            setattr(self, name, fields.pop(name, 0))
        if fields:
            raise TypeError(f"a message has no {', '.join(fields)}")

    @classmethod
    def decode(cls, data):
        if len(data) != MESSAGE.size:
            raise ValueError(f"a message of {len(data)} bytes")
        return cls(**dict(zip(cls.FIELDS, MESSAGE.unpack(data))))

    def encode(self):
        return MESSAGE.pack(*(getattr(self, name) for name in self.FIELDS))

    def answer(self, kind, status=SUCCESS, **fields):
        return Message(kind, id=self.id, object=self.object, status=status, **fields)


class Store:
    """Pages by their offset; what was never written is zero."""

    def __init__(self, size):
        self.size = size
        self.pages = {}

    rights = READ | WRITE

    def read(self, offset):
        return self.pages.get(offset)

    def write(self, offset, data):
        self.pages[offset] = bytes(data)
        return SUCCESS


class Numbers:
    """Every page begins with its own number."""

    size = NAMED
    rights = READ

    def read(self, offset):
        return (offset // PAGE).to_bytes(8, "little").ljust(PAGE, b"\0")

    def write(self, offset, data):
        return DENIED


class Peer:
    """A kernel."""

    def __init__(self, sock, named, instance):
        self.sock = sock
        self.named = named
        self.instance = instance
        self.objects = {}

    def send(self, message):
        self.sock.send(message.encode())

    def serve(self):
        try:
            if self.welcome():
                while data := self.sock.recv(MESSAGE.size + 1):
                    self.dispatch(Message.decode(data))
        except (ConnectionError, ValueError) as error:
            print(f"pager: {error}", file=sys.stderr)
        finally:
            self.sock.close()

    def welcome(self):
        data, fds, _, _ = socket.recv_fds(self.sock, MESSAGE.size + 1, 1)
        try:
            m = Message.decode(data)
            if m.kind != HELLO or m.object != MAGIC or len(fds) != 1:
                return False
            if m.how != VERSION or m.offset != PAGE or m.extra > CLUSTER:
                self.send(Message(WELCOME, object=MAGIC, how=VERSION, status=UNSUPPORTED))
                return False
            self.shared = mmap.mmap(fds[0], m.size)
            self.kernels = m.place
        finally:
            for fd in fds:
                os.close(fd)
        self.send(Message(WELCOME, object=MAGIC, how=VERSION, extra=self.instance))
        return True

    def inside(self, m, most):
        if not (0 < m.size <= most and m.place + m.size <= self.kernels):
            raise ValueError("a range outside the kernel's part of the shared memory")

    def init(self, m):
        self.inside(m, LONGEST_NAME)
        name = self.shared[m.place : m.place + m.size]
        store = self.named.setdefault(name, Numbers() if name == b"numbers" else Store(NAMED))
        self.objects[m.object] = store
        self.send(m.answer(READY, size=store.size, access=store.rights, how=COPY_DELAY))

    def data_request(self, m, store):
        self.inside(m, CLUSTER)
        if m.offset >= store.size:
            return self.send(m.answer(DATA_ERROR, BEYOND, offset=m.offset, size=m.size))
        size = min(m.size, store.size - m.offset)
        pages = [store.read(at) for at in range(m.offset, m.offset + size, PAGE)]
        if not any(pages):
            return self.send(m.answer(DATA_UNAVAILABLE, offset=m.offset, size=size))
        for i, page in enumerate(pages):
            self.shared[m.place + i * PAGE : m.place + (i + 1) * PAGE] = page or bytes(PAGE)
        return self.send(m.answer(DATA_SUPPLY, offset=m.offset, size=size, place=m.place))

    def data_return(self, m, store):
        self.inside(m, CLUSTER)
        status = SUCCESS
        for at in range(0, m.size, PAGE):
            if m.offset + at >= store.size:
                status = BEYOND
            else:
                page = self.shared[m.place + at : m.place + at + PAGE]
                status = store.write(m.offset + at, page) or status
        self.send(m.answer(RETURN_COMPLETED, status))

    def dispatch(self, m):
        if m.kind == INIT:
            return self.init(m)
        if m.kind == CREATE:
            self.objects[m.object] = Store(m.size)
            return None
        if m.kind == TERMINATE:
            self.objects.pop(m.object, None)
            return None
        store = self.objects.get(m.object)
        if store is None:
            return self.unknown(m)
        if m.kind == DATA_REQUEST:
            self.data_request(m, store)
        elif m.kind == DATA_RETURN:
            self.data_return(m, store)
        elif m.kind == SYNCHRONIZE:
            self.send(m.answer(SYNCHRONIZE_COMPLETED))
        elif m.kind == DATA_UNLOCK:
            self.send(m.answer(LOCK_REQUEST, offset=m.offset, size=m.size))
        return None

    def unknown(self, m):
        if m.kind == DATA_REQUEST:
            self.send(m.answer(DATA_ERROR, UNKNOWN, offset=m.offset, size=m.size))
        elif m.kind == DATA_RETURN:
            self.send(m.answer(RETURN_COMPLETED, UNKNOWN))
        elif m.kind == SYNCHRONIZE:
            self.send(m.answer(SYNCHRONIZE_COMPLETED, UNKNOWN))


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} SOCKET")
    path = sys.argv[1]
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(16)
    named = {}
    while True:
        sock, _ = listener.accept()
        peer = Peer(sock, named, os.getpid())
        threading.Thread(target=peer.serve, daemon=True).start()


if __name__ == "__main__":
    main()

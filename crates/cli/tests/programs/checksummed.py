"""Builds MIB mebibytes of pages, half of them incompressible, and reads them back in
random order, checking every one. Prints a digest that does not depend on timing."""
import hashlib, random, sys

mib, seed = int(sys.argv[1]), int(sys.argv[2])
r = random.Random(seed)
PAGE, CHUNK = 4096, 64
pages = mib * 256
data, sums = [], []
for first in range(0, pages, CHUNK):
    part = bytearray()
    for n in range(first, min(first + CHUNK, pages)):
        if n % 2:
            part += r.randbytes(PAGE)
        else:
            part += (b"page %08d " % n) * 200 + bytes(PAGE)
            del part[(n - first + 1) * PAGE:]
    data.append(part)
    sums.append([hashlib.blake2b(part[i:i + PAGE], digest_size=8).digest() for i in range(0, len(part), PAGE)])
order = list(range(pages))
r.shuffle(order)
total = hashlib.sha256()
for n in order:
    at, off = n // CHUNK, n % CHUNK
    page = data[at][off * PAGE:(off + 1) * PAGE]
    digest = hashlib.blake2b(page, digest_size=8).digest()
    if digest != sums[at][off]:
        print("page", n, "is wrong")
        sys.exit(1)
    if n % 16 == 0:  # and it can be changed
        data[at][off * PAGE] ^= 0xff
        page = data[at][off * PAGE:(off + 1) * PAGE]
        sums[at][off] = hashlib.blake2b(page, digest_size=8).digest()
    total.update(digest)
print(mib, "MiB", total.hexdigest())

import random
r = random.Random(7)
for _ in range(40000):
    print("%x" % r.getrandbits(900))

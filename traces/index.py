import random
r = random.Random(1)
words = ["%x" % r.getrandbits(20) for _ in range(30000)]
texts = [" ".join(r.choice(words) for _ in range(60)) for _ in range(1500)]
index = {}
for n, text in enumerate(texts):
    for word in text.split():
        index.setdefault(word, []).append(n)
found = 0
for _ in range(1500):
    a, b = (words[int(r.paretovariate(0.6)) % len(words)] for _ in range(2))
    found += len(set(index.get(a, ())) & set(index.get(b, ())))
by_length = sorted(index.items(), key=lambda item: (-len(item[1]), item[0]))
print(len(index), found, by_length[0])

# Pipes, loops, functions, redirections and tools of a shell.
cd /tmp || exit 1
rm -rf shell.test && mkdir shell.test && cd shell.test || exit 1
b() { busybox "$@"; }

i=0
while [ $i -lt 200 ]; do
	echo "line $((i * 7919 % 1000)) of $i"
	i=$((i + 1))
done > lines
b wc lines
b sort -n -k2 lines | b head -n 5
b awk '{ s += $2; n[$2 % 10]++ } END { print s; for (i = 0; i < 10; i++) print i, n[i] }' lines
b grep -c '7 of' lines
b sed 's/line \([0-9]*\) of \([0-9]*\)/\2:\1/' lines | b tail -n 3
b cut -d' ' -f2 lines | b sort -n | b uniq | b wc -l
b md5sum lines
mkdir -p a/b/c
cp lines a/b/one
mv a/b/one a/b/c/two
ln -s c/two a/b/link
b cmp lines a/b/link && echo same
b find a | b sort
b tar cf a.tar a && rm -r a && b tar xf a.tar && b find a -type f | b sort
b gzip -c lines | b gunzip -c | b cmp - lines && echo packed
b dd if=/dev/zero of=zeroes bs=4096 count=256 2>/dev/null
b stat -c %s zeroes
b tr '\0' 'x' < zeroes | b md5sum
(echo sub; exit 3)
echo "status $?"
b cat < lines | b cat | b cat | b cat | b md5sum
for n in 1 2 3 4 5; do
	(b sleep 0; echo "job $n" > job.$n) &
done
wait
b cat job.*
sh_function() { echo "got $# arguments: $*"; return 7; }
sh_function x "y z"
echo "returned $?"
b cat << HERE
here $((6 * 7))
HERE
trap 'echo trapped' USR1
kill -USR1 $$
b true | b false
echo "pipe $?"
b ls -1
no-such-program 2>/dev/null
echo "missing $?"
b seq 1 1000 | b xargs -n 100 echo | b wc
cd / && rm -r /tmp/shell.test

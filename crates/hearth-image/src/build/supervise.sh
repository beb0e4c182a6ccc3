# Runs a tool that must not outlive its owner. The owner holds the other end of standard input; when that closes,
# whichever way the owner ended, everything here is killed. The lock is held for as long as any part of the tool
# lives, so that whoever cleans up after a killed owner can wait for it.
# usage: sh -c THIS supervise LOCK COMMAND [ARGUMENT...]
lock=$1
shift
exec 3<&0 </dev/null
(read -r _ <&3; kill -KILL 0) &
watcher=$!
exec 9>>"$lock" && flock 9 || exit 125
"$@" 3<&-
code=$?
kill -KILL "$watcher"
exit "$code"

#!/bin/sh
# Starts a repository's server in a sandbox and fetches a page from it; the second time from a snapshot. See serve.md.
#
# usage: serve.sh [NAME]    what the snapshot is called; removed at the end
set -eu
work=$(mktemp -d)
name=${1:-served}
box=
saved=
trap 'test -z "$box" || hearth rm "$box" >/dev/null; test -z "$saved" || hearth snapshot rm "$saved" >/dev/null; rm -rf "$work"' EXIT

# A repository with a server that takes its time to start. Yours is there already.
git init -q "$work/repository"
cd "$work/repository"
cat > server.py <<'END'
import http.server, time
time.sleep(2)
hits = 0

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global hits
        hits += self.path == "/"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"page {hits}\n".encode())

http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Page).serve_forever()
END
echo "password=hunter2" > .env
git add server.py

# The address of this host that leads to the guest's port 8000.
publish() { hearth ports --json --publish 0:8000 "$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["listen"])'; }
fetch() { python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end="")' "http://$1/"; }
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

# Cold: the working tree goes in, what Git does not know stays out, and the service is waited for.
begun=$(milliseconds)
box=$(hearth create --seed . --tracked)
hearth service start "$box" site --ready http://127.0.0.1:8000/ready --restart-on-failure -- python3 server.py > /dev/null
address=$(publish "$box")
page=$(fetch "$address")
echo "cold: $page, $(($(milliseconds) - begun)) ms"
hearth exec "$box" -- test ! -e .env
echo "what git does not know stayed here"

# Everything is saved, the running server with it.
hearth snapshot create "$box" "$name" > /dev/null
saved=$name
hearth rm "$box" > /dev/null
box=

# Warm: the server goes on where it was, in another sandbox. Ports of the host are not saved: they are published anew.
begun=$(milliseconds)
box=$(hearth create --snapshot "$name")
address=$(publish "$box")
page=$(fetch "$address")
echo "warm: $page, $(($(milliseconds) - begun)) ms"
hearth service ls "$box"

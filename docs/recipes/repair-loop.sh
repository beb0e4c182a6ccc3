#!/bin/sh
# Seeds a failing project, patches it until its tests pass, and takes the change home. See repair-loop.md.
#
# usage: repair-loop.sh [DIRECTORY]    where the project is made; a temporary one by default
set -eu
work=$(mktemp -d)
project=${1:-$work/project}
box=
trap 'test -z "$box" || hearth rm "$box" >/dev/null; rm -rf "$work"' EXIT

# A project whose tests fail. Yours is there already.
mkdir -p "$project"
cat > "$project/median.py" <<'END'
def median(values):
    values = sorted(values)
    return values[len(values) // 2]
END
cat > "$project/test_median.py" <<'END'
import unittest
from median import median

class Median(unittest.TestCase):
    def test_odd(self):
        self.assertEqual(median([3, 1, 2]), 2)

    def test_even(self):
        self.assertEqual(median([4, 1, 3, 2]), 2.5)
END

# Whoever repairs it: reads what the tests said, and writes a patch. Here two patches that lie ready, the first of them wrong; call
# your model here.
propose() {
    case $1 in
        1) middle='values[len(values) // 2 - 1]' ;;
        *) middle='(values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2' ;;
    esac
    cat <<END
--- a/median.py
+++ b/median.py
@@ -1,3 +1,3 @@
 def median(values):
     values = sorted(values)
-    return values[len(values) // 2]
+    return $middle
END
}

run_tests() { hearth exec --timeout 5m "$box" -- python3 -B -m unittest; }

box=$(hearth create --seed "$project" --ttl 1h)
proposal=0
until run_tests > "$work/said" 2>&1; do
    # That Hearth itself has failed says nothing about the project.
    [ $? -ne 125 ] || { cat "$work/said" >&2; exit 1; }
    echo "proposal $proposal: $(tail -n 1 "$work/said")"
    proposal=$((proposal + 1))
    [ "$proposal" -le 5 ] || exit 1
    # Each begins where the project stood; a patch that does not fit changes nothing, and says why.
    hearth reset "$box" > /dev/null
    propose "$proposal" < "$work/said" | hearth patch "$box" > /dev/null || echo "proposal $proposal: the patch does not fit"
done
echo "proposal $proposal: $(tail -n 1 "$work/said")"

# What has changed, as a patch for the project outside, and the whole tree, should you want it.
hearth diff --stat "$box"
hearth diff "$box" > "$work/repair.patch"
hearth export --gzip --output "$work/repaired.tar.gz" "$box"
(cd "$project" && git apply "$work/repair.patch")
grep -q 'len(values) - 1' "$project/median.py" && echo "the project is repaired"

# The sandbox as it was, for the next one.
hearth reset "$box" > /dev/null
test -z "$(hearth diff "$box")" && echo "the sandbox is as it was"

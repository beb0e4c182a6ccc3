"""Tries several changes at once in forks of one prepared sandbox, and keeps the best. See attempts.md."""

from __future__ import annotations

import asyncio

import hearth

PROGRAM = """\
def unique(words):
    found = []
    for word in words:
        if word not in found:
            found.append(word)
    return found
"""

#: Prints the score: how many comparisons it takes, the fewer the better. Fails where the result is wrong.
JUDGE = """\
import program

class Word(str):
    compared = 0
    __hash__ = str.__hash__
    def __eq__(self, other):
        Word.compared += 1
        return str.__eq__(self, other)

words = [Word(number % 50) for number in range(500)]
assert program.unique(words) == [str(number) for number in range(50)], "wrong result"
print(Word.compared)
"""

#: What whoever makes the attempts would write: here three that lie ready.
ATTEMPTS = {
    "set": "def unique(words):\n    return sorted(set(words))\n",
    "dict": "def unique(words):\n    return list(dict.fromkeys(words))\n",
    "reversed": PROGRAM.replace("word not in found", "word not in found[::-1]"),
}


async def attempt(box: hearth.AsyncSandbox, program: str) -> int | None:
    """Makes one attempt in a copy of its own: its score, or nothing where it fails."""
    await box.files.write("program.py", program)
    judged = await box.exec(["python3", "-B", "judge.py"], timeout_ms=60_000, limits=hearth.ResourceLimits(pids=50))
    return int(judged.stdout.text) if judged.exit_code == 0 else None


async def main() -> None:
    async with hearth.AsyncClient() as client, await client.create(lifespan="connection") as box:
        # Prepared once: whatever takes long, such as a build or a warm cache, all copies have.
        await box.files.write("program.py", PROGRAM)
        await box.files.write("judge.py", JUDGE)
        await box.checkpoint()
        before = int((await box.exec(["python3", "-B", "judge.py"], check=True)).stdout.text)

        async with await box.fork(len(ATTEMPTS)) as copies:
            scores = await asyncio.gather(*map(attempt, copies, ATTEMPTS.values()))
            for name, score in zip(ATTEMPTS, scores):
                print(f"{name:10} {'failed' if score is None else score}")
            passed = [(score, name, copy) for score, name, copy in zip(scores, ATTEMPTS, copies) if score is not None]
            best, name, winner = min(passed, key=lambda each: each[0])
            if best >= before:
                print(f"none is better than {before}")
                return
            async with await winner.diff() as diff:
                patch = await diff.read()

        # The copies are gone; what the best of them changed goes on in the one that stays.
        await box.patch(patch)
        after = int((await box.exec(["python3", "-B", "judge.py"], check=True)).stdout.text)
        print(f"kept {name}: {before} -> {after}")
        print(patch.decode(), end="")


if __name__ == "__main__":
    asyncio.run(main())

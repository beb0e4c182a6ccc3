"""Runs many programs, a few at a time, each in a sandbox of its own with limits and a deadline; prints a table. See evaluate.md."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import hearth

#: Sandboxes that are there at once.
AT_ONCE = 2
#: How long a program may run.
DEADLINE_MS = 10_000
#: What each is asked, and what it should answer.
INPUT, EXPECTED = "3 4\n", "12\n"

#: What is evaluated: what a model has written, say.
PROGRAMS = {
    "right": "a, b = map(int, input().split()); print(a * b)",
    "wrong": "a, b = map(int, input().split()); print(a + b)",
    "crash": "print(undefined)",
    "endless": "while True: pass",
    "greedy": "x = bytearray(300 << 20); x[::4096] = b'x' * len(x[::4096])",
    "chatty": "print('x' * 10_000_000)",
}


@dataclass
class Verdict:
    name: str
    result: str
    seconds: float
    waited_seconds: float


async def evaluate(client: hearth.AsyncClient, turn: asyncio.Semaphore, name: str, program: str) -> Verdict:
    asked = time.monotonic()
    async with turn:
        begun = time.monotonic()
        # From the warm pool where the daemon has one: a machine that is ready, used once and thrown away.
        async with await client.create(lifespan="connection", labels={"evaluation": name}) as box:
            await box.files.write("program.py", program)
            ran = await box.exec(
                ["python3", "program.py"],
                stdin=INPUT,
                timeout_ms=DEADLINE_MS,
                max_output_bytes=10_000,
                limits=hearth.ResourceLimits(memory_bytes=200 << 20, pids=20),
            )
    if ran.timed_out:
        result = "too slow"
    elif ran.out_of_memory:
        result = "out of memory"
    elif ran.exit_code != 0:
        result = f"failed ({ran.exit_code}): {(ran.stderr.text.strip().splitlines() or ['?'])[-1]}"
    elif ran.stdout.dropped_bytes or ran.stdout.text != EXPECTED:
        result = "wrong answer"
    else:
        result = "passed"
    return Verdict(name, result, ran.duration_us / 1e6, begun - asked)


async def main() -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    async with hearth.AsyncClient() as client:
        verdicts = await asyncio.gather(*(evaluate(client, turn, *each) for each in PROGRAMS.items()))
    print(f"{'program':10} {'ran':>6} {'waited':>7}  result")
    for verdict in verdicts:
        # What a program says is escaped: it may hold what a terminal takes for orders.
        result = verdict.result.encode("unicode_escape").decode()
        print(f"{verdict.name:10} {verdict.seconds:5.1f}s {verdict.waited_seconds:6.1f}s  {result}")
    print(f"{sum(verdict.result == 'passed' for verdict in verdicts)} of {len(verdicts)} passed")


if __name__ == "__main__":
    asyncio.run(main())

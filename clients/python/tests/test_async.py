"""The client for asyncio, on a real machine: all of it is made of the same text, so what is tried here is what may differ."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import hearth
from hearth import errors, models


def run(work: Callable[[hearth.AsyncSandbox], Awaitable[None]], box: hearth.Sandbox) -> None:
    async def main() -> None:
        async with hearth.AsyncClient() as client:
            await work(await client.get(box.id))

    asyncio.run(main())


def test_requests_run_side_by_side(box: hearth.Sandbox) -> None:
    async def work(box: hearth.AsyncSandbox) -> None:
        results = await asyncio.gather(*(box.exec(["echo", str(number)]) for number in range(20)))
        assert [result.stdout.text for result in results] == [f"{number}\n" for number in range(20)]
        with pytest.raises(errors.NotFoundError):
            await box.exec(["no-such-program"])

    run(work, box)


def test_bodies_stream_both_ways(box: hearth.Sandbox) -> None:
    async def work(box: hearth.AsyncSandbox) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(100):
                await asyncio.sleep(0)
                yield bytes([number]) * 10_000

        await box.files.write("async", pieces())
        async with await box.files.open("async") as content:
            read = b"".join([piece async for piece in content])
        assert read == b"".join(bytes([number]) * 10_000 for number in range(100))
        await box.files.write("async", io.BytesIO(b"from a file"))
        assert await box.files.read("async") == b"from a file"
        await box.files.remove("async")

    run(work, box)


def test_one_task_writes_while_another_reads_and_a_third_gives_up(box: hearth.Sandbox) -> None:
    async def work(box: hearth.AsyncSandbox) -> None:
        data = b"z" * 3_000_000
        async with await box.hold(["cat"], interactive=True) as cat:

            async def feed() -> None:
                await cat.write(data)
                await cat.close_stdin()

            with pytest.raises(asyncio.TimeoutError):
                # Whoever gives up takes nothing with it.
                await asyncio.wait_for(cat.wait(), 0.05)
            feeding = asyncio.create_task(feed())
            size = 0
            async for piece in cat:
                size += len(piece.data) if isinstance(piece, hearth.Output) else 0
            await feeding
            assert size == len(data) and (await cat.wait()).exit_code == 0

    run(work, box)


def test_kernels_events_and_sandboxes_have_contexts(box: hearth.Sandbox) -> None:
    async def work(box: hearth.AsyncSandbox) -> None:
        outcome = await box.kernels.run("6 * 7")
        assert outcome.result is not None and outcome.result.text == "42"
        async with hearth.AsyncClient() as client, await client.events() as events:
            async with await box.fork(2) as copies:
                assert {copy.info.state for copy in copies} == {"running"}
            removed = 0
            async for event in events:
                removed += isinstance(event, models.Event) and event.state == "removed"
                if removed == 2:
                    break

    run(work, box)


def test_an_answer_that_does_not_come_in_time_is_given_up(box: hearth.Sandbox) -> None:
    async def main() -> None:
        async with hearth.AsyncClient(answer_timeout_seconds=2) as client:
            slow = await client.get(box.id)
            with pytest.raises(errors.AnswerTimeoutError) as error:
                await slow.exec(["sleep", "30"])
            assert not error.value.retry_is_safe

    asyncio.run(main())

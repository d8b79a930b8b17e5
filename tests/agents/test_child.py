"""Child processes: real ones, small ones, on the real clock under a deadline."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from trio_bridge.agents.local.child import Child, open_child, worker_command
from trio_bridge.agents.local.errors import AgentError

LOOP = """\
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from trio_bridge.agents.local.framing import HEAD, Message, decode_head, encode
def requests():
    while head := sys.stdin.buffer.read(HEAD.size):
        length, number, _ = decode_head(head)
        yield number, sys.stdin.buffer.read(length)
def reply(number, body, kind=0):
    sys.stdout.buffer.write(encode(Message(number, kind, body)))
    sys.stdout.buffer.flush()
"""


def script(body: str, *arguments: str) -> list[str]:
    """A child of our own making that speaks the worker's language."""
    root = worker_command("hear")[4]
    return [sys.executable, "-c", LOOP.format(root=root) + body, *arguments]


def running(pid: int) -> bool:
    """The process exists, be it as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Reports(list[tuple[str, dict[str, object]]]):
    def __call__(self, event: str, **fields: object) -> None:
        self.append((event, fields))


@asynccontextmanager
async def child_of(command: list[str], reports: Reports | None = None) -> AsyncIterator[Child]:
    with trio.fail_after(20):
        async with open_child(
            "the parrot", command, Reports() if reports is None else reports
        ) as child:
            yield child


UPPER = script("for n, body in requests(): reply(n, body.upper())")


async def test_a_child_starts_with_its_first_request_and_ends_with_its_block() -> None:
    async with child_of(UPPER) as child:
        assert child.pid is None
        assert await child.request(b"hello", 5) == b"HELLO"
        pid = child.pid
        assert await child.request(b"x" * 500_000, 5) == b"X" * 500_000
        assert child.pid == pid
    assert pid is not None
    assert not running(pid)


async def test_requests_of_several_tasks_wait_for_each_other() -> None:
    async with child_of(UPPER) as child:
        got: list[bytes] = []

        async def ask(word: bytes) -> None:
            got.append(await child.request(word, 5))

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(ask, b"a%d" % n)
    assert sorted(got) == [b"A%d" % n for n in range(5)]


async def test_a_child_that_dies_is_replaced_and_asked_again(
    tmp_path: os.PathLike[str],
) -> None:
    dies_once = script(
        "flag = Path(sys.argv[1], 'died')\n"
        "for n, body in requests():\n"
        "    if not flag.exists(): flag.touch(); os._exit(3)\n"
        "    reply(n, body)",
        str(tmp_path),
    )
    reports = Reports()
    async with child_of(dies_once, reports) as child:
        assert await child.request(b"again", 5) == b"again"
    assert reports == [("child replaced", {"name": "the parrot", "reason": "exit code 3"})]


async def test_a_child_that_was_killed_between_requests_is_replaced() -> None:
    reports = Reports()
    async with child_of(UPPER, reports) as child:
        await child.request(b"one", 5)
        assert child._process is not None
        child._process.kill()
        await child._process.wait()
        assert await child.request(b"two", 5) == b"TWO"
    assert len(reports) == 1


async def test_a_child_that_dies_twice_is_an_error_and_the_next_request_tries_again() -> None:
    async with child_of(script("next(requests()); os._exit(7)")) as child:
        for _ in range(2):
            with pytest.raises(AgentError, match=r"the parrot died 2 times .* exit code 7"):
                await child.request(b"", 5)
            assert child.pid is None


async def test_a_child_that_speaks_nonsense_is_replaced() -> None:
    nonsense = script("next(requests()); print('Traceback ' * 99, flush=True); time.sleep(60)")
    async with child_of(nonsense) as child:
        with pytest.raises(AgentError, match="unexpected bytes"):
            await child.request(b"", 5)


async def test_a_child_that_refuses_stays() -> None:
    refusing = script("for n, body in requests(): reply(n, b'not today', 1)")
    async with child_of(refusing) as child:
        for _ in range(2):
            with pytest.raises(AgentError, match="the parrot failed: not today"):
                await child.request(b"", 5)
        assert child.pid is not None


async def test_a_child_that_hangs_is_killed_at_the_deadline() -> None:
    hanging = script("reply(*next(requests()))\nwhile True: time.sleep(60)")
    async with child_of(hanging) as child:
        await child.request(b"", 5)
        pid = child.pid
        assert pid is not None
        with pytest.raises(AgentError, match=r"the parrot took longer than 0\.05 s"):
            await child.request(b"", 0.05)
        assert not running(pid)


async def test_the_late_reply_of_a_cancelled_request_is_not_taken_for_the_next_one() -> None:
    slow = script(
        "for n, body in requests():\n"
        "    time.sleep(0.2 * (body == b'slow'))\n"
        "    reply(n, body)"
    )
    async with child_of(slow) as child:
        await child.request(b"warm", 5)
        pid = child.pid
        with trio.move_on_after(0.02) as scope:
            await child.request(b"slow", 5)
        assert scope.cancelled_caught
        assert await child.request(b"next", 5) == b"next"
        assert child.pid == pid


async def test_a_child_is_killed_when_a_request_is_cancelled_half_written() -> None:
    deaf = script("reply(*next(requests()))\nwhile True: time.sleep(60)")
    async with child_of(deaf) as child:
        await child.request(b"", 5)
        pid = child.pid
        assert pid is not None
        with trio.move_on_after(0.05) as scope:
            await child.request(bytes(4_000_000), 5)  # more than a pipe holds
        assert scope.cancelled_caught
        assert child.pid is None
        assert not running(pid)


async def test_a_deaf_child_does_not_survive_its_meeting() -> None:
    deaf = script(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "reply(*next(requests()))\nwhile True: time.sleep(60)"
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def meeting(task_status: trio.TaskStatus[int]) -> None:
                async with child_of(deaf) as child:
                    await child.request(b"", 5)
                    assert child.pid is not None
                    task_status.started(child.pid)
                    await trio.sleep_forever()

            pid = await nursery.start(meeting)
            nursery.cancel_scope.cancel()
    assert not running(pid)


async def test_a_program_that_is_not_there_is_an_error_not_a_retry() -> None:
    async with child_of(["/nonexistent/parrot"]) as child:
        with pytest.raises(AgentError, match="the parrot does not start"):
            await child.request(b"", 5)


async def test_the_worker_itself_answers_and_ends_with_its_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # it finds its package wherever it is started
    async with child_of(worker_command("unknown")) as child:
        with pytest.raises(AgentError, match="ValueError: no worker of kind 'unknown'"):
            await child.request(b"hello", 10)
        pid = child.pid
    assert pid is not None
    assert not running(pid)

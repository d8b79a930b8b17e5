"""What must hold: always, when everything is at rest, when nobody is there, and at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from tests.simulation.bots import Bot
from tests.simulation.sockets import ENDS, BotSocket, Credit, Record
from trio_bridge.attendance import Kind
from trio_bridge.audio.timeline import RATE_HZ
from trio_bridge.clock import GRID_S
from trio_bridge.edge.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    from tests.simulation.agents import Run
    from tests.simulation.world import World

KINDS: tuple[Kind, Kind] = ("audio", "control")
END_S = DEFAULT_LIMITS.write_s + DEFAULT_LIMITS.close_s + DEFAULT_LIMITS.linger_s + 1.0
"""A socket that must end has ended by then, and our side of it is closed."""


# -- always --------------------------------------------------------------------------------


def look(world: World) -> None:
    """What holds between any two steps of the scheduler."""
    for bot in world.bots:
        live = 0
        received = 0
        for record in bot.records:
            live += not record.session.over
            if record.received is None:
                samples = _judge_books(world, bot, record)
                received += samples
                if record.ended_as is not None:  # nothing can change any more
                    record.received = samples
            else:
                received += record.received
        if live > 1:
            world.blame(f"{live} sessions of {bot.id} at once")
        if received > bot.sent.samples:
            world.blame(f"{bot.id} sent {bot.sent.samples} samples, {received} were received")
        alive = [run for run in bot.runs if not run.ended and not run.record.session.over]
        if len(alive) > 1:
            world.blame(f"{len(alive)} agents of {bot.id} at once")


def _judge_books(world: World, bot: Bot, record: Record) -> int:
    """The ledger of one session balances and nothing in it is negative; samples received."""
    session = record.session
    ledger = session.ledger
    if ledger.faults:
        world.blame(f"{bot.id}: {ledger.faults}")
    intake, playout = session.inflow.intake, session.pump.playout
    figures = (
        *(ledger.received, ledger.own_left_out, ledger.placed, ledger.filled),
        *(ledger.overlapped, ledger.waiting, ledger.mixed, ledger.unheard, ledger.offered),
        *(ledger.delivered, ledger.dropped, ledger.flushed, ledger.queued, ledger.said),
        *(ledger.sent, ledger.speech_flushed, ledger.speech_queued),
        *(intake.frames, intake.own, intake.rejected_in_a_row, session.ignored),
        *(session.inflow.stale, session.pump.interrupts, playout.cleared, playout.starved),
    )
    if min(figures) < 0:
        world.blame(f"{bot.id}: a negative count in {ledger}, {figures}")
    if ledger.mixed > ledger.received + ledger.filled:
        world.blame(f"{bot.id}: the mix is longer than what was sent and filled in")
    if session.inflow.intake.own < record.sure.own:
        world.blame(f"{bot.id}: own voice not known as such")
    run, rate_hz = record.run, world.plan.rate_hz
    if run is not None and world.plan.by == "mix":
        most = (ledger.received + ledger.filled) * rate_hz / RATE_HZ + 1
        if run.heard_samples > most:
            world.blame(
                f"the agent of {bot.id} heard {run.heard_samples} samples at {rate_hz} Hz; "
                f"received and filled in at 48 kHz: {ledger.received} + {ledger.filled}"
            )
    return ledger.received


# -- at rest -------------------------------------------------------------------------------


def look_at_rest(world: World) -> None:
    """What holds when every task waits: nothing is on its way any more."""
    for bot in world.bots:
        if bot.faulty_since_s is not None:
            continue
        bot.find_the_newest()
        for socket in bot.sockets:
            _judge_socket(world, bot, socket)
        _judge_attendance(world, bot)
        live = bot.live
        if live is not None:
            _judge_meeting(world, bot, live)


def _judge_socket(world: World, bot: Bot, socket: BotSocket) -> None:
    name = f"{bot.id} {socket.kind} {socket.number}"
    socket.expire(world.now_s)
    if socket.reading:
        socket.frozen_since_s = None
    if not socket.fates:
        if socket.gone or socket.close_seen is not None:
            world.blame(f"{name} ended; nothing was done to it")
        elif socket.greeted and socket.status != 101:
            world.blame(f"{name} was answered {socket.status}")
        elif socket.greeted and world.settings.ack and not socket.acked:
            world.blame(f"{name} said hello and got no ack")
    elif not socket.gone and _must_end(bot, socket, world.now_s):
        world.blame(f"{name} was left at {socket.ending_s} s ({socket.fates}) and is open")
    if socket.solid:
        record = bot.live
        if record is None:
            world.blame(f"{name} is there and no meeting is on")
            return
        if socket.record is None:
            socket.record = record
        elif socket.record is not record:
            world.blame(f"{name} is in another meeting than before")
            return
        record.attended_s = world.now_s
    if socket.record is not None and socket.fates <= {"left"}:
        # What was sent before a Close has arrived: the stream keeps its order.
        socket.record.sure.add(socket.pending)
        if socket.pending.frames or socket.pending.texts or socket.pending.interrupts:
            bot.bad_in_a_row[socket.kind] = 0
        socket.pending = Credit()
    elif socket.fates:
        socket.pending = Credit()


def _must_end(bot: Bot, socket: BotSocket, now_s: float) -> bool:
    """It has had its time to end."""
    if socket.ending_s is None:
        return False
    late_s = now_s - socket.ending_s
    if socket.silent:
        return late_s > DEFAULT_LIMITS.ping_s + DEFAULT_LIMITS.pong_s + END_S
    if "replaced" in socket.fates and not socket.fates & (ENDS - {"replaced"}):
        # By one that may have been lost before it said hello.
        newer = bot.sockets[socket.number + 1 :]
        if not any(s.kind == socket.kind and s.record is not None for s in newer):
            return False
    return late_s > END_S


def _judge_attendance(world: World, bot: Bot) -> None:
    """A meeting nobody attends has its grace, and no more."""
    live = bot.live
    if live is None:
        return
    there = any(not socket.gone and socket.status == 101 for socket in bot.sockets)
    knocking = any(not socket.gone and socket.status is None for socket in bot.sockets)
    if there or knocking:
        live.alone_since_s = None
    elif live.alone_since_s is None:
        live.alone_since_s = world.now_s
    elif world.now_s > live.alone_since_s + world.settings.grace_s + 2 * GRID_S:
        world.blame(f"{bot.id}: nobody is there since {live.alone_since_s} s, and it goes on")


def _judge_meeting(world: World, bot: Bot, record: Record) -> None:
    """All that was surely sent has surely arrived."""
    session, sure = record.session, record.sure
    ledger, intake = session.ledger, session.inflow.intake
    run = record.run
    if run is None:
        world.blame(f"{bot.id}: a meeting without its agent")
    if ledger.received < sure.samples:
        world.blame(f"{bot.id}: {sure.samples} samples were sent, {ledger.received} received")
    if intake.frames < sure.frames:
        world.blame(f"{bot.id}: {sure.frames} frames were sent, {intake.frames} received")
    if intake.rejected.total() < sure.bad:
        world.blame(f"{bot.id}: {sure.bad} bad messages, {intake.rejected.total()} rejected")
    if session.pump.interrupts < sure.interrupts:
        world.blame(f"{bot.id}: {sure.interrupts} interrupts, {session.pump.interrupts} heard")
    if run is not None and not run.ended and run.listening:
        _judge_ear(world, bot, run, sure)
    control = bot.newest("control")
    if control is None or control.record is not record or bot.stalls:
        return
    if control.solid and control.reading:
        told = world.cleared[session]
        if told != session.pump.interrupts:
            world.blame(f"{bot.id} was told of {told} of {session.pump.interrupts} interrupts")
        if run is not None and run.words_heard != run.words_said:
            world.blame(f"{bot.id} was told {run.words_heard} of {run.words_said} words")


def _judge_ear(world: World, bot: Bot, run: Run, sure: Credit) -> None:
    heard = iter(run.texts)
    missing = [text for text in sure.texts if text not in heard]
    if missing:
        world.blame(f"the agent of {bot.id} was not told {missing}, or too late: {run.texts}")
    if len(set(run.texts)) != len(run.texts):
        world.blame(f"the agent of {bot.id} was told something twice: {run.texts}")
    books = run.record.session.inflow.audience.books()
    if books["queued"]:
        world.blame(f"the agent of {bot.id} waits, and {books['queued']} samples wait for it")


# -- what the log says ---------------------------------------------------------------------


def judge_end(world: World, fields: Mapping[str, object]) -> None:
    """A meeting has ended: was it its time, and do its books balance?"""
    bot = next(bot for bot in world.bots if bot.id == fields["bot_id"])
    code, reason = fields["code"], str(fields["reason"])
    over = [r for r in bot.records if r.ended_as is None and r.session.over]
    # Of one bot two may end at once; then the line in the log is told by what it says.
    record = next((r for r in over if r.session._verdict == (code, reason)), over[0])
    if code == 1_011:
        bot.failed_s = world.now_s
    record.ended_as = f"{code} {reason}"
    world.trace("ended", bot.id, code, reason)
    if fields["ledger"] != "balanced":
        world.blame(f"{bot.id}: the log says {fields['ledger']}")
    if bot.faulty_since_s is not None:
        return
    if reason == "nobody came back":
        attended_s = record.attended_s
        if attended_s is not None and world.now_s < attended_s + world.settings.grace_s:
            world.blame(f"{bot.id}: the grace that began after {attended_s} s was too short")
    elif reason == "the bot left":
        for kind in KINDS:
            if not any(s.kind == kind and "left" in s.fates for s in bot.sockets):
                world.blame(f"{bot.id}: its {kind} channel did not leave, and it is over")
    elif code == 1_001:
        if not world.draining:
            world.blame(f"{bot.id}: going away, and nobody stopped the server")
    elif reason != "the agent failed" or not any(run.failing for run in bot.runs):
        world.blame(f"{bot.id}: the meeting ended with {code} {reason!r}")


def judge_error(world: World, event: str, line: logging.LogRecord) -> None:
    """Nothing goes wrong but what the plan says goes wrong."""
    runs = [run for bot in world.bots for run in bot.runs]
    allowed = {
        "agent failed": any(run.failing for run in runs),
        "meeting would not stop": any(
            run.stubborn_s > world.settings.teardown_s - 0.1 for run in runs
        ),
    }
    if not allowed.get(event) and not world.was_struck:
        error = line.exc_info[1] if line.exc_info else None
        world.blame(f"the log says: {event} ({error!r})")


# -- when nobody is there, and at the end --------------------------------------------------


def look_at_nobody(world: World, baseline: int) -> None:
    """Everybody has left, and every deadline is over: nothing of them remains."""
    if world.fault is not None and world.fault.blocks:
        return
    server = world.server
    if len(server.registry) or server.registry.running:
        world.blame(f"{server.registry.running} meetings go on and nobody is there")
    if server.edge.sockets or server.edge.pending:
        world.blame("sockets remain and nobody is there")
    tasks = trio.lowlevel.current_statistics().tasks_living
    if tasks != baseline:
        world.blame(f"{tasks - baseline} tasks more than before the first bot came")
    _judge_lines(world)


def look_at_the_end(world: World) -> None:
    """The server has stopped."""
    look(world)
    if world.stopped_late:
        world.blame(f"it was to stop by {world.stop_by_s} s: {world.stopped_s}")
    if world.server.registry.running:
        world.blame("meetings run and the server does not")
    _judge_lines(world)
    for bot in world.bots:
        for run in bot.runs:
            if not run.ended:
                world.blame(f"the agent of {bot.id} runs and the server does not")
        for record in bot.records:
            if record.ended_as is None:
                world.blame(f"a meeting of {bot.id} never said that it ended")
        for socket in bot.sockets:
            told = socket.close_seen is not None
            if socket.fates == {"drain"} and socket.record is not None and not told:
                world.blame(f"{bot.id} {socket.kind} {socket.number} was told no Close")


def _judge_lines(world: World) -> None:
    for bot in world.bots:
        for socket in bot.sockets:
            if not socket.gone:
                world.blame(f"{bot.id} {socket.kind} {socket.number} was never closed")
    for line in world.strangers:
        if line.closed_by_server_s is None:
            world.blame("a stranger's connection was never closed")

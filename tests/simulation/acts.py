"""What each step does. All but the passing of time happens at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import trio

from tests.edge.peers import BINARY, PING, TEXT
from tests.simulation.agents import OWN_LEVEL, VOICE_LEVEL
from tests.simulation.bots import Bot
from tests.simulation.sockets import BotSocket
from tests.simulation.steps import (
    Audio,
    BadAudio,
    Break,
    End,
    Flaw,
    Freeze,
    Interrupt,
    Introduce,
    Join,
    Order,
    Pass,
    Say,
    Step,
    Stop,
    Stranger,
)
from trio_bridge.audio.speakers import DEFAULT_BOT_NAMES
from trio_bridge.wire.frames import (
    AudioFrame,
    encode_frame,
    encode_headed_frame,
    encode_legacy_frame,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

SAFE_STALL_S = 4.9
"""A peer that reads on within this time keeps its socket: a write may take 5 s."""
SPEAKERS = ("alice", "bruno", "carla")


async def act(world: World, step: Step) -> None:
    """Carry out one step; of a bot that the plan does not have, another one does it."""
    if isinstance(step, Stranger):
        world.stranger(step.what)
        return
    if isinstance(step, Stop):
        world.stop(step.drain_s)
        return
    assert not isinstance(step, Pass)
    bot = world.bots[step.bot % len(world.bots)]
    match step:
        case Join():
            _join(world, bot, step)
        case Introduce():
            _introduce(bot)
        case End():
            _end(world, bot, step)
        case Audio():
            await _audio(world, bot, step)
        case BadAudio():
            _bad_audio(world, bot, step)
        case Say():
            _say(world, bot, step)
        case Interrupt():
            _interrupt(bot, step)
        case Order():
            if bot.run is not None:
                bot.run.order(step)
        case Freeze():
            _freeze(world, bot, step)
        case Break():
            _break(world, bot, step)


def _greeted(bot: Bot, kind: str) -> BotSocket | None:
    socket = bot.newest("audio" if kind == "audio" else "control")
    return socket if socket is not None and socket.greeted else None


# -- sockets -------------------------------------------------------------------------------


def _join(world: World, bot: Bot, step: Join) -> None:
    socket = world.connect(bot, step.kind, raw=step.raw, segment_bytes=step.segment_bytes)
    token = world.settings.token[0] if world.settings.token else ""
    prefix = socket.number % 2 == 1
    match step.hello:
        case "bad head":
            socket.meet("refused", world.now_s)
            socket.line.write(b"GET /bridge HTTP/1.1\r\nhost: \xff\r\n\r\n")
            return
        case "no such path":
            socket.meet("refused", world.now_s)
            socket.knock(token="", prefix=False, path="/bridge" if token else "/elsewhere")
            return
        case "other path":
            socket.meet("bad hello", world.now_s)
            way = f"/t/{token}" if token else ""
            socket.knock(token="", prefix=False, path=f"/bot-99{way}/bridge")
            socket.greet()
            return
    socket.knock(token=token, prefix=prefix)
    match step.hello:
        case "good":
            bot.greeting(socket)
            socket.greet()
        case "bad":
            socket.text('{"type": "hello"}')
        case "no id":
            socket.text('{"type": "ready", "bot_id": ""}')
        case "binary":
            socket.binary(b"\x01")
    if step.hello in ("bad", "no id", "binary"):
        socket.meet("bad hello", world.now_s)


def _introduce(bot: Bot) -> None:
    for socket in reversed(bot.sockets):
        if not (socket.greeted or socket.fates or socket.gone):
            bot.greeting(socket)
            socket.greet()
            return


def _end(world: World, bot: Bot, step: End) -> None:
    socket = bot.oldest(step.kind) if step.oldest else bot.newest(step.kind)
    if socket is None:
        return
    codes = {"close": 1_000, "close 1001": 1_001, "close empty": None, "close bad": 999}
    if step.how in codes:
        socket.meet("left", world.now_s)
        if step.how == "close bad":
            socket.meet("crime", world.now_s)
        socket.close(codes[step.how])
        return
    socket.meet("cut", world.now_s)
    if step.how == "fin":
        socket.line.finish()
    elif step.how == "rst":
        socket.line.reset()
    else:
        socket.silent = True
        socket.line.freeze(2_048)


def _freeze(world: World, bot: Bot, step: Freeze) -> None:
    socket = bot.newest(step.kind)
    if socket is None:
        return
    if not step.thaw:
        socket.meet("frozen", world.now_s)
        if socket.frozen_since_s is None:
            socket.frozen_since_s = world.now_s
        socket.line.freeze(step.room_bytes)
    elif not socket.line.reading:
        assert socket.frozen_since_s is not None
        if world.now_s - socket.frozen_since_s < SAFE_STALL_S:
            socket.fates.discard("frozen")
        socket.thaw()


def _break(world: World, bot: Bot, step: Break) -> None:
    socket = bot.newest(step.kind)
    if socket is None:
        return
    socket.meet("crime", world.now_s)
    if not socket.greeted:
        socket.meet("bad hello", world.now_s)
    match step.crime:
        case "unmasked":
            socket.frame(TEXT, b"{}", masked=False)
        case "reserved":
            socket.frame(TEXT, b"{}", bits=0xC0)
        case "opcode":
            socket.frame(3, b"x")
        case "not UTF-8":
            socket.frame(TEXT, b'"\xff"')
        case "too big":
            socket.line.write(bytes((0x80 | BINARY, 0xFF)) + (8 << 20).to_bytes(8, "big"))
            socket.mute = True  # nothing it says now would be the beginning of a frame
        case "pings":
            for _ in range(25):
                socket.frame(PING, b"?")
        case "half a frame":
            socket.line.write(bytes((0x80 | TEXT, 0x85, 1, 2, 3, 4, 5)))
            socket.mute = True


# -- what the bot says ---------------------------------------------------------------------


async def _audio(world: World, bot: Bot, step: Audio) -> None:
    channels = world.settings.channels
    samples = 48 * step.frame_ms
    level = OWN_LEVEL if step.own else VOICE_LEVEL * step.loud
    pcm = np.full(samples * channels, round(level * 32_767), "<i2").tobytes()
    for n in range(step.count):
        socket = _greeted(bot, "audio")
        if socket is None:
            return
        if step.own:
            speaker = ("u9", DEFAULT_BOT_NAMES[n % 2].upper())
        else:
            name = SPEAKERS[n % step.speakers]
            speaker = (f"id-{name}", f"{name}@{bot.id}")
        frame = AudioFrame(*speaker, pcm)
        if step.form == "legacy":
            socket.text(encode_legacy_frame(frame))
        else:
            encode = encode_headed_frame if step.form == "headed" else encode_frame
            socket.binary(encode(frame))
        bot.sent.samples += samples
        socket.pending.samples += samples
        socket.pending.frames += 1
        socket.pending.own += samples * step.own
        if step.paced:
            await trio.sleep(step.frame_ms / 1_000)


_FLAWED: dict[Flaw, bytes] = {
    "empty": b"",
    "type": b"\x07" + bytes(20),
    "short": b"\x01\x00",
    "runs over": b"\x01\xff\x00abc",
}


def _bad_audio(world: World, bot: Bot, step: BadAudio) -> None:
    socket = _greeted(bot, "audio")
    if socket is None:
        return
    channels = world.settings.channels
    frame = encode_frame(AudioFrame("id-alice", f"alice@{bot.id}", bytes(96 * channels)))
    for _ in range(step.count):
        if step.flaw == "odd byte":
            bot.sent.samples += 48
            socket.binary(frame + b"\0")
            continue
        if step.flaw == "text":
            socket.text('{"type": "PCMChunk"}')
        elif step.flaw == "huge":
            socket.binary(frame + bytes(200_000 * channels))
        else:
            socket.binary(_FLAWED[step.flaw])
        _count_bad(world, bot, socket)


def _count_bad(world: World, bot: Bot, socket: BotSocket) -> None:
    socket.pending.bad += 1
    bot.bad_in_a_row[socket.kind] += 1
    if bot.bad_in_a_row[socket.kind] >= world.settings.bad_frames:
        socket.meet("bad run", world.now_s)


def _say(world: World, bot: Bot, step: Say) -> None:
    socket = _greeted(bot, "control")
    if socket is None:
        return
    text = f"{bot.id}:{len(bot.texts)}"
    match step.words:
        case "plain":
            name, key = (("usermsg", "message"), ("transcript", "text"))[len(bot.texts) % 2]
            socket.text(json.dumps({"command": name, key: text, "id": text}))
            bot.texts.append(text)
            socket.pending.texts.append(text)
        case "repeated":
            if bot.texts:
                again = bot.texts[-1]
                socket.text(json.dumps({"command": "usermsg", "message": again, "id": again}))
        case "partial":
            socket.text(json.dumps({"type": "usermsg", "message": text, "is_final": False}))
        case "empty":
            socket.text('{"command": "usermsg", "message": "  "}')
        case "unknown":
            socket.text('{"command": "dance"}')
        case "ready":
            socket.text('{"type": "ready", "bot_id": "somebody else"}')
        case "not JSON":
            socket.text("{")
            _count_bad(world, bot, socket)
        case "binary":
            socket.binary(b"?")
            _count_bad(world, bot, socket)


def _interrupt(bot: Bot, step: Interrupt) -> None:
    socket = _greeted(bot, "control")
    if socket is not None:
        for _ in range(step.count):
            socket.text('{"command": "interrupt"}')
            socket.pending.interrupts += 1

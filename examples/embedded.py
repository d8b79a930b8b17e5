"""A bridge inside a larger Trio program: started, used and stopped like any other task."""

from functools import partial

import trio

import trio_bridge as tb


async def note_taker(meeting: tb.Meeting) -> None:
    async for chunk in meeting.audio(rate_hz=24_000, chunk_ms=100, by="speaker"):
        meeting.log("heard", speaker=str(chunk.speaker), start_s=chunk.start_s)


async def main() -> None:
    settings = tb.Settings(port=0, bot_name=("Note Taker",))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(tb.serve, note_taker, settings))
        print(f"bots may connect to {address.url.replace('http', 'ws')}/bridge")
        await trio.sleep(60)  # the rest of the program
        nursery.cancel_scope.cancel()  # every bot is told Close 1001


if __name__ == "__main__":
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        print("stopped")

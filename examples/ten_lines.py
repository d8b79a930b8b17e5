"""An agent: answers chat with chat, and says back what it hears."""

import trio_bridge as tb


async def agent(meeting: tb.Meeting) -> None:
    async for event in meeting.events(rate_hz=16_000):
        match event:
            case tb.UserMessage(text=text):
                await meeting.chat(f"you wrote: {text}")
            case tb.Utterance(speaker=who, samples=samples):  # float32 (n,), full scale 1.0
                async with meeting.turn() as turn:  # what an interrupt cancels
                    await turn.say(samples, rate_hz=16_000)
                meeting.log("answered", to=str(who), heard_s=turn.heard_s)


if __name__ == "__main__":
    tb.run(agent)

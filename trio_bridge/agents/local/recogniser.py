"""Speech to text with pocketsphinx, in a child process only: it holds the GIL while it works.

About 150 MB and, for each second of speech, some 0.1 s of one core.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from trio_bridge.agents.local.grammar import jsgf

RATE_HZ = 16_000
COMMANDS = "commands"
NOISE = 3.0
"""Rms of the noise added to the 16-bit samples. Digital silence has no spectrum to normalise
by, and what follows it is misheard."""


class Recogniser:
    """Recognises each utterance twice: as ordinary English and as a command."""

    def __init__(self) -> None:
        import pocketsphinx

        # The later passes cost 650 ms at the end of a long utterance and gain little.
        self._decoder: Any = pocketsphinx.Decoder(
            samprate=RATE_HZ, fwdflat=False, bestpath=False, loglevel="FATAL"
        )
        self._free: str = self._decoder.current_search()
        self._decoder.add_jsgf_string(COMMANDS, jsgf())

    def work(self, pcm: bytes) -> bytes:
        """PCM16-LE at 16 kHz in; JSON with the fields of `skills.Heard` out."""
        samples = np.frombuffer(pcm, "<i2").astype(np.float32)
        samples += np.random.default_rng(0).normal(0.0, NOISE, len(samples)).astype(np.float32)
        audible = np.clip(samples, -32_768, 32_767).astype("<i2").tobytes()
        free, free_score, free_frames = self._decode(self._free, audible)
        command, command_score, command_frames = self._decode(COMMANDS, audible)
        frames = max(free_frames, command_frames, 1)
        gain = (command_score - free_score) / frames if command and free else 0.0
        return json.dumps({"free": free, "command": command, "gain": gain}).encode()

    def _decode(self, search: str, pcm: bytes) -> tuple[str, float, int]:
        """The best text, its log likelihood and the frames of it that are speech."""
        decoder = self._decoder
        decoder.activate_search(search)
        decoder.start_utt()
        try:
            if pcm:
                decoder.process_raw(pcm, no_search=False, full_utt=True)
        finally:
            decoder.end_utt()
        best = decoder.hyp()
        if best is None or not best.hypstr:
            return "", 0.0, 0
        frames = sum(
            segment.end_frame - segment.start_frame + 1
            for segment in decoder.seg()
            if not segment.word.startswith(("<", "[", "(", "+"))
        )
        return best.hypstr, float(decoder.get_logmath().log(best.best_score)), frames

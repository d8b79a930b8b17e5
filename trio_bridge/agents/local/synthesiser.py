"""Text to speech with the espeak-ng library of the ``espeakng-loader`` wheel, by ctypes.

In a child process only: the library is GPL and keeps its state in globals. Its data comes in
the same wheel, so nothing is installed and nothing is fetched.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from trio_bridge.agents.local.speech import RATE_WORDS_PER_MIN, VOICE, encode_speech

# espeak-ng's speak_lib.h
SYNCHRONOUS = 2
RATE_PARAMETER = 1
UTF8 = 1
DONT_EXIT = 0x8000
BLOCK_MS = 200


class Synthesiser:
    """Speaks one sentence at a time."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data = Path(espeakng_loader.get_data_path())
        # The library keeps paths in 160 bytes and a virtual environment can be deeper: a path
        # relative to a directory of this process's own choice is always short.
        os.chdir(data.parent)
        self._rate_hz = int(
            self._library.espeak_Initialize(SYNCHRONOUS, BLOCK_MS, b".", DONT_EXIT)
        )
        if self._rate_hz <= 0:
            raise RuntimeError(f"espeak-ng does not start with its data in {data}")
        self._pcm = bytearray()
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._callback = kind(self._take)  # kept: the library does not
        self._library.espeak_SetSynthCallback(self._callback)
        if self._library.espeak_SetVoiceByName(VOICE.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {VOICE}")
        self._library.espeak_SetParameter(RATE_PARAMETER, RATE_WORDS_PER_MIN, 0)

    def work(self, text: bytes) -> bytes:
        """UTF-8 text in; `speech.encode_speech` out."""
        self._pcm.clear()
        text = text.replace(b"\0", b" ") + b"\0"
        failed = self._library.espeak_Synth(
            text, ctypes.c_size_t(len(text)), 0, 1, 0, UTF8, None, None
        )
        if failed:
            raise RuntimeError(f"espeak-ng failed with {failed}")
        return encode_speech(bytes(self._pcm), self._rate_hz)

    def _take(self, samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            self._pcm += ctypes.string_at(samples, 2 * count)
        return 0  # go on

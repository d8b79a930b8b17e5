"""Run a target under atheris for a while, or replay files through it.

libFuzzer ends its process in its own way, so it gets one of its own: the parent prepares its
directories, bounds its time and keeps what it found.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from fuzz.target import NAMES, Target, files_in, finds_of, load

MAX_INPUT_BYTES = 4096
"""Long enough for every corpus file and for many frames; longer only makes fuzzing slow."""
HANG_S = 10
"""An input that takes longer is a find."""
GRACE_S = 120
"""On top of the time asked for: start-up, reading the corpus, the last input."""
CURRENT = "current"
"""The message that a structured run is busy with, should it never come back."""


def main(argv: list[str] | None = None) -> int:
    """Run ``python -m fuzz``; 0 without finds, 1 with one, 2 for a wrong command line."""
    options = _parser().parse_args(argv)
    if options.replay:
        return _replay(load(options.target), options.replay)
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write('fuzz: atheris is missing: pip install -e ".[fuzz]"\n')
        return 2
    if options.work_dir:
        _fuzz(options.target, Path(options.work_dir), options.seconds, options.structured)
        return 0  # not reached: libFuzzer ends the process
    return _supervise(options.target, options.seconds, options.structured)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default 60)")
    parser.add_argument(
        "--structured",
        action="store_true",
        help="build messages with the target's Hypothesis strategy instead of raw bytes",
    )
    parser.add_argument("--replay", nargs="+", type=Path, metavar="FILE", help="check files")
    parser.add_argument("--work-dir", help=argparse.SUPPRESS)
    return parser


def _replay(target: Target, files: list[Path]) -> int:
    broken = 0
    for path in files:
        try:
            target.check(path.read_bytes())
        except AssertionError:
            broken += 1
            sys.stderr.write(f"{path}: {traceback.format_exc()}")
        except OSError as exc:
            sys.stderr.write(f"fuzz: {path}: {exc.strerror}\n")
            return 2
    sys.stdout.write(f"{target.name}: {len(files)} replayed, {broken} broken\n")
    return 1 if broken else 0


def _supervise(name: str, seconds: int, structured: bool) -> int:
    """Run `_fuzz` in a process of its own; whatever it found is kept as a find."""
    before = files_in(finds_of(name))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        work_dir = Path(directory)
        command = [sys.executable, "-m", "fuzz", name, "--seconds", str(seconds)]
        command += ["--work-dir", directory, *(["--structured"] if structured else [])]
        try:
            failed = subprocess.run(command, timeout=seconds + GRACE_S, check=False).returncode
        except subprocess.TimeoutExpired:
            failed = 1
        except KeyboardInterrupt:  # enough; it has been killed
            failed = 0
        if failed and files_in(finds_of(name)) == before:
            # A hang or the memory limit ends the process before `_kept` can write.
            artifacts = [work_dir / CURRENT] if structured else files_in(work_dir / "artifacts")
            for path in artifacts:
                if path.is_file():
                    keep_find(name, path.read_bytes())
    for path in files_in(finds_of(name)):
        if path not in before:
            sys.stdout.write(f"find: {path}\n")
    return 1 if failed else 0


def keep_find(name: str, data: bytes) -> Path:
    """Write ``data`` to the target's finds, named by its content."""
    path = finds_of(name) / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _fuzz(name: str, work_dir: Path, seconds: int, structured: bool) -> None:
    import atheris

    with atheris.instrument_imports(include=["trio_bridge"]):
        target = load(name)
    grown, artifacts, words = work_dir / "grown", work_dir / "artifacts", work_dir / "words"
    grown.mkdir()
    artifacts.mkdir()
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens))
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-timeout={HANG_S}",
        f"-artifact_prefix={artifacts}/",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        str(grown),
    ]
    if structured:
        test_one = _structured(target, work_dir / CURRENT)
        _sow(grown)
        flags.append("-len_control=0")  # short choices are refused, not simple messages
    else:
        test_one = _kept(target)
        flags.append(f"-dict={words}")
        if target.corpus:
            flags.append(str(target.corpus[0].parent))
    atheris.Setup([sys.argv[0], *flags], test_one)
    atheris.Fuzz()


def _kept(target: Target) -> Callable[[bytes], None]:
    def test_one(data: bytes) -> None:
        try:
            target.check(data)
        except BaseException:
            keep_find(target.name, data)
            raise

    return test_one


def _structured(target: Target, current: Path) -> Callable[[bytes], None]:
    """Let the fuzzer's bytes be the choices that the target's strategy makes."""
    check = _kept(target)

    @settings(
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.messages)
    def test_one(data: bytes) -> None:
        current.write_bytes(data)
        check(data)

    # Hypothesis hangs this on the function without telling type checkers.
    fuzz_one_input: Callable[[bytes], object] = vars(test_one)["hypothesis"].fuzz_one_input

    def choose(choices: bytes) -> None:
        fuzz_one_input(choices)  # its result is for corpora of its own; atheris wants None

    return choose


def _sow(directory: Path) -> None:
    """Choices to begin with: a message takes many, and none grow from an empty input."""
    seeded = random.Random(0)
    for i in range(64):
        (directory / f"random-{i:02}").write_bytes(seeded.randbytes(16 << i % 6))


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)

"""Random meetings: a few hundred now; ``python -m tests.simulation`` runs any number."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from tests.simulation.explore import explore, run_batch
from tests.simulation.steps import Join, Pass, read_plan
from tests.simulation.world import Violation, run_plan

MEETINGS = 250


def carry_out(run_seed: int) -> None:
    *_, total = explore(MEETINGS, run_seed)
    if total.failure is not None:
        plan = total.failure.plan
        pytest.fail(
            f"seed {run_seed}: {total.failure.fault}\n{plan.listing()}\n"
            f"python -m tests.simulation --replay '{plan.text()}'",
            pytrace=False,
        )
    assert total.meetings >= MEETINGS


def test_no_invariant_breaks_in_random_meetings_of_a_fixed_seed() -> None:
    carry_out(20)


def test_no_invariant_breaks_in_random_meetings_of_a_new_seed() -> None:
    carry_out(secrets.randbelow(1 << 32))  # which a failure prints


def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--meetings", "60", "--seed", "5"]
    last_lines = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        last_lines.append(run.stdout.splitlines()[-1].split("; ")[-1])
    assert last_lines[0] == last_lines[1]
    assert "digest" in last_lines[0]


def test_a_plan_is_the_same_after_it_was_printed() -> None:
    batch = run_batch(1, 0, 1)
    assert batch.failure is None
    plan = read_plan(
        '{"bots":1,"schedule":7,"settings":{"token":["secret"]},"listens":true,'
        '"rate_hz":16000,"chunk_ms":null,"by":"speaker",'
        '"steps":[["Join",0,"audio","good",true,7,-1],["Pass",0.5]],"ending":"stop"}'
    )
    assert plan.steps == (Join(0, "audio", "good", True, 7, -1), Pass(0.5))
    assert read_plan(plan.text()) == plan
    assert run_plan(plan) == run_plan(read_plan(plan.text()))


def test_a_violation_says_the_seed_and_the_steps_and_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.simulation.__main__ import main
    from trio_bridge.pacing import Playout

    monkeypatch.setattr(Playout, "flush", lambda *_: -1)
    assert main(["--seed", "3", "--meetings", "200", "--no-shrink"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("seed 3\n")
    assert "VIOLATION" in said
    command = said.splitlines()[-1]
    assert command.startswith("python -m tests.simulation --replay '")
    text = command.split("'")[1]
    with pytest.raises(Violation):
        run_plan(read_plan(text))
    assert main(["--replay", text]) == 1
    assert "VIOLATION" in capsys.readouterr().out

"""Settings: one definition for flag, variable and file key; one line for what is wrong."""

from __future__ import annotations

import argparse
import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.config import (
    ENV_PREFIX,
    SHORTEST_KEY,
    Settings,
    add_flags,
    load_settings,
    settings_table,
)
from trio_bridge.errors import SettingsError

FIELDS = cast("tuple[attrs.Attribute[Any], ...]", attrs.fields(Settings))
NAMES = [field.name for field in FIELDS]
NUMBERS = [field.name for field in FIELDS if type(field.default) in (int, float)]
LISTS = [field.name for field in FIELDS if isinstance(field.default, tuple)]
FLOATS = [field.name for field in FIELDS if type(field.default) is float]

COMPANIONS: dict[str, dict[str, Any]] = {
    "chunk_ms": {"lead_ms": 5_000},
    "lead_ms": {"chunk_ms": 20},
    "tls_cert": {"tls_key": "key.pem"},
    "tls_key": {"tls_cert": "cert.pem"},
}
"""What must be set as well for (the whole range of) a setting to make sense."""


def field_named(name: str) -> attrs.Attribute[Any]:
    return next(field for field in FIELDS if field.name == name)


def two_values(name: str) -> tuple[Any, Any]:
    """A value that is not the default, and another one."""
    field = field_named(name)
    default = field.default
    if field.metadata["choices"]:
        return next(c for c in field.metadata["choices"] if c != default), default
    if isinstance(default, tuple):
        return ("first", "second one"), ("other",)
    if isinstance(default, bool):
        return not default, default
    if isinstance(default, (int, float)):
        return default + 1, default
    return ("k" * SHORTEST_KEY, "o" * 40) if name == "token_key" else ("192.0.2.7", "other")


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def as_arguments(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag_of(name) if value else flag_of("no_" + name)]
    values = value if isinstance(value, tuple) else (value,)
    return [f"{flag_of(name)}={one}" for one in values]


def as_variable(name: str, value: Any) -> dict[str, str]:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return {ENV_PREFIX + name.upper(): text}


def as_file(directory: Path, name: str, value: Any) -> list[str]:
    path = directory / "settings.toml"
    path.write_text(f"{name} = {json.dumps(value)}\n")
    return ["--config", str(path)]


def beside(name: str) -> list[str]:
    """Arguments for the companions of ``name``."""
    return [
        argument
        for other, value in COMPANIONS.get(name, {}).items()
        for argument in as_arguments(other, value)
    ]


def made_with(name: str, value: Any) -> Settings:
    return Settings(**{name: value}, **COMPANIONS.get(name, {}))


def load(arguments: list[str], environ: dict[str, str] | None = None) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return load_settings(vars(parser.parse_args(arguments)), environ or {})


def refusal(*arguments: Any, **values: Any) -> str:
    """The text of the `SettingsError`, which is always one line."""
    with pytest.raises(SettingsError) as caught:
        load(*arguments) if arguments else Settings(**values)
    text = str(caught.value)
    assert text
    assert len(text.splitlines()) == 1
    return text


def limits_of(name: str) -> tuple[float, float]:
    """The range of a number, as its own refusal states it."""
    kind: Any = type(field_named(name).default)
    text = refusal(**{name: kind(10**12)})
    match = re.search(r"expected (\S+) to (\S+), got", text)
    assert match is not None, text
    return float(match[1]), float(match[2])


# -- where a value comes from ----------------------------------------------------------------


def test_nothing_given_is_the_default_of_everything() -> None:
    assert load([]) == Settings()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_wins_over_the_default(name: str, tmp_path: Path) -> None:
    value, _ = two_values(name)
    assert load([*as_file(tmp_path, name, value), *beside(name)]) == made_with(name, value)


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_wins_over_the_file(name: str, tmp_path: Path) -> None:
    value, other = two_values(name)
    for wins, loses in ((value, other), (other, value)):
        arguments = [*as_file(tmp_path, name, loses), *beside(name)]
        assert load(arguments, as_variable(name, wins)) == made_with(name, wins)


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_wins_over_variable_and_file(name: str, tmp_path: Path) -> None:
    for value, other in (two_values(name), two_values(name)[::-1]):
        arguments = [*as_file(tmp_path, name, other), *as_arguments(name, value)]
        loaded = load([*arguments, *beside(name)], as_variable(name, other))
        assert loaded == made_with(name, value)


@pytest.mark.parametrize("name", NAMES)
def test_an_overridden_value_changes_no_other_setting(name: str, tmp_path: Path) -> None:
    value, _ = two_values(name)
    loaded = load([*as_arguments(name, value), *beside(name)])
    back: dict[str, Any] = {
        one: field_named(one).default for one in (name, *COMPANIONS.get(name, {}))
    }
    assert attrs.evolve(loaded, **back) == Settings()


def test_the_file_may_be_named_by_a_variable_and_the_flag_wins(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text("port = 1111\n")
    two.write_text("port = 2222\n")
    environ = {ENV_PREFIX + "CONFIG": str(one)}
    assert load([], environ).port == 1111
    assert load(["--config", str(two)], environ).port == 2222


def test_a_file_may_set_everything_at_once(tmp_path: Path) -> None:
    values = {name: two_values(name)[0] for name in NAMES}
    values["workers"] = 1  # TLS allows no more
    path = tmp_path / "all.toml"
    path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))
    assert load(["--config", str(path)]) == Settings(**values)


def test_variables_of_other_programs_are_not_read() -> None:
    assert load([], {"PORT": "1", "TRIO_PORT": "2", "port": "3", "HOST": "x"}) == Settings()


@pytest.mark.parametrize("text", ["1", "true", "YES", "On", "0", "false", "NO", "Off"])
def test_a_switch_takes_the_usual_words(text: str) -> None:
    wanted = text.lower() in {"1", "true", "yes", "on"}
    assert load([], {ENV_PREFIX + "ACK": text}).ack is wanted


def test_a_whole_number_will_do_where_a_fraction_may_stand(tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    path.write_text("grace_s = 20\nvad_threshold_dbfs = -30\n")
    loaded = load(["--config", str(path)])
    assert (loaded.grace_s, loaded.vad_threshold_dbfs) == (20.0, -30.0)


def test_a_list_keeps_its_order_and_its_repetitions_replace_the_default() -> None:
    assert load(["--bot-name", "Ä", "--bot-name", "B"]).bot_name == ("Ä", "B")


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NUMBERS)
def test_both_ends_of_a_range_are_inside_and_the_next_value_is_not(name: str) -> None:
    kind: Any = type(field_named(name).default)
    low, high = limits_of(name)
    others = COMPANIONS.get(name, {})
    for end, step in ((low, -1), (high, 1)):
        assert getattr(Settings(**{name: kind(end)}, **others), name) == end
        outside = kind(end) + (step if kind is int else step * 0.001)
        text = refusal(**{name: outside}, **others)
        assert text.startswith(name)
        # "expected 1 to 1e+06, got 1e+06" tells nobody what is wrong
        assert str(outside) in text


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_none_is_refused(name: str, value: str) -> None:
    assert name in refusal([], {ENV_PREFIX + name.upper(): value}).lower()
    assert name in refusal(**{name: float(value)})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["", "x", "1,5", "0x10", "1 2", "\n", "٣ x", "1e"])
def test_text_that_is_no_number_names_variable_or_flag(name: str, text: str) -> None:
    variable = ENV_PREFIX + name.upper()
    assert variable in refusal([], {variable: text})
    assert flag_of(name) in refusal([f"{flag_of(name)}={text}"])


@pytest.mark.parametrize("name", [n for n in NAMES if field_named(n).metadata["choices"]])
def test_a_choice_that_there_is_not_lists_those_there_are(name: str) -> None:
    text = refusal([f"{flag_of(name)}=no-such\nthing"])
    assert name in text.replace("-", "_")
    for choice in field_named(name).metadata["choices"]:
        assert choice in text


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
@pytest.mark.parametrize(("name", "bad"), [("port", 70_000), ("layout", "x"), ("lead_ms", 5)])
def test_a_refusal_says_where_the_value_came_from(
    source: str, name: str, bad: Any, tmp_path: Path
) -> None:
    if source == "flag":
        assert flag_of(name) in refusal(as_arguments(name, bad))
    elif source == "variable":
        assert ENV_PREFIX + name.upper() in refusal([], as_variable(name, bad))
    else:
        text = refusal(as_file(tmp_path, name, bad))
        assert name in text
        assert "settings.toml" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_the_wrong_kind_in_the_file_is_one_line_that_names_it(
    name: str, tmp_path: Path
) -> None:
    default = field_named(name).default
    path = tmp_path / "wrong.toml"
    for text in ("1", "2.5", "true", '"x"', "[]", "[1]", '["x", 1]', "{}", "2020-01-01"):
        path.write_text(f"{name} = {text}\n")
        try:
            value = getattr(load(["--config", str(path)]), name)
        except SettingsError as error:
            assert name in str(error), text
            assert len(str(error).splitlines()) == 1
        else:
            right = type(value) is type(default) or (default is None and type(value) is str)
            whole = type(default) is float and type(value) is int
            assert right or whole, (text, value)


@pytest.mark.parametrize("name", LISTS)
def test_one_text_where_a_list_may_stand_is_a_list_of_one_or_refused(
    name: str, tmp_path: Path
) -> None:
    """Never its letters: a token ``hunter2`` would let in everybody who shows ``h``."""
    given: dict[str, Any] = {name: "hunter2"}
    arguments = as_file(tmp_path, name, "hunter2")
    for make in (partial(load, arguments), partial(Settings, **given)):
        try:
            value = getattr(make(), name)
        except SettingsError as error:
            assert name in str(error)
        else:
            assert value == ("hunter2",)


@pytest.mark.parametrize("name", ["host", *LISTS])
def test_an_empty_text_is_refused_by_name(name: str) -> None:
    """An empty speaker id would mute everybody whom the platform gives none."""
    assert refusal(**{name: ("",) if name in LISTS else ""}).startswith(name)


def test_a_blank_name_of_ours_is_refused() -> None:
    """Names are compared with their ends stripped: a blank one is everybody's without one."""
    assert refusal(bot_name=("Helper", " ")).startswith("bot_name")


@pytest.mark.parametrize("name", LISTS)
def test_an_empty_variable_never_means_a_list_with_an_empty_text(name: str) -> None:
    """A compose file with ``TRIO_BRIDGE_BOT_SPEAKER_ID=`` left empty."""
    try:
        value = getattr(load([], {ENV_PREFIX + name.upper(): ""}), name)
    except SettingsError as error:
        assert name in str(error).lower()
    else:
        assert "" not in value


@pytest.mark.parametrize("text", ["", ",", " "])
def test_a_token_left_empty_is_refused_and_opens_no_door(text: str, tmp_path: Path) -> None:
    """A secret that was not filled in must not undo the file's token: no token lets all in."""
    arguments = as_file(tmp_path, "token", ["s3cret"])
    assert "TOKEN" in refusal(arguments, {ENV_PREFIX + "TOKEN": text})


def test_a_lead_shorter_than_a_chunk_says_how_to_mend_it() -> None:
    text = refusal(["--lead-ms", "60", "--chunk-ms", "80"])
    assert "60" in text
    assert "80" in text
    assert "raise lead_ms or lower chunk_ms" in text
    assert Settings(lead_ms=80, chunk_ms=80).lead_ms == 80


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"port = \n", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"port = 1\nport = 2\n", "not TOML"),
        (b"prot = 8080\n", "'prot'"),
        (b"[server]\nport = 8080\n", "'server'"),
        (b'"a\\nb" = 1\n', "no setting"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content: bytes, part: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    text = refusal(["--config", str(path)])
    assert "bad.toml" in text
    assert part in text


def test_a_file_that_is_not_there_or_a_directory_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(["--config", str(tmp_path / "none.toml")])
    assert str(tmp_path) in refusal(["--config", str(tmp_path)])


@given(
    st.sampled_from(NAMES),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.lists(st.text() | st.integers(), max_size=3)
    | st.dictionaries(st.text(), st.integers(), max_size=2),
)  # fmt: skip
def test_any_value_makes_settings_or_one_line(name: str, value: Any) -> None:
    try:
        made = Settings(**{name: value})
    except SettingsError as error:
        assert len(str(error).splitlines()) == 1
    else:
        kept = getattr(made, name)
        assert not isinstance(kept, float) or math.isfinite(kept)


# -- secrets ---------------------------------------------------------------------------------


def test_a_token_is_in_no_repr() -> None:
    key = "s3cret" * 6
    settings = Settings(token=("s3cret", "other-one"), token_key=key)
    assert settings.token_key == key
    assert "s3cret" not in repr(settings)
    assert "other-one" not in str(settings)
    assert settings.token == ("s3cret", "other-one")


@pytest.mark.parametrize("token", [["s3cret", 5], ["s3cret", ""], ["s3cret", ["x"]]])
def test_a_token_is_in_no_refusal(token: list[Any]) -> None:
    assert "s3cret" not in refusal(token=tuple(token))


@pytest.mark.parametrize("key", ["s3cret" * 5, "", " " * 40, 5, ["s3cret" * 6]])
def test_a_key_that_is_none_or_short_is_refused_and_not_shown(key: Any, tmp_path: Path) -> None:
    arguments = as_file(tmp_path, "token_key", key)
    for text in (refusal(token_key=key), refusal(arguments)):
        assert "token_key: expected" in text
        assert "s3cret" not in text
    if isinstance(key, str):  # a variable left empty must not open the door
        assert "s3cret" not in refusal([], {ENV_PREFIX + "TOKEN_KEY": key})
        assert "s3cret" not in refusal([f"--token-key={key}"])


def test_a_token_in_a_broken_file_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('token = ["s3cret"\nport = \n')
    assert "s3cret" not in refusal(["--config", str(path)])


# -- what is shown ---------------------------------------------------------------------------


def test_help_shows_every_flag_with_its_text_and_default() -> None:
    wide = partial(argparse.HelpFormatter, width=10_000, max_help_position=60)
    parser = argparse.ArgumentParser(formatter_class=wide)
    add_flags(parser)
    lines = [line.strip() for line in parser.format_help().splitlines()]
    for field in FIELDS:
        flag = re.compile(re.escape(flag_of(field.name)) + r"[ ,]")
        (line,) = [line for line in lines if flag.match(line)]
        shown = field.default
        shown = ", ".join(shown) if isinstance(shown, tuple) else shown
        shown = "on" if shown is True else shown
        default = f" [{shown}]" if field.default not in (None, ()) else ""
        assert line.endswith(f"  {field.metadata['text']}{default}")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_quantity_says_its_unit(name: str) -> None:
    text = field_named(name).metadata["text"]
    units = {"ms": "ms ", "s": "seconds ", "dbfs": "dBFS ", "bytes": "bytes "}
    unit = units.get(name.rpartition("_")[2])
    if unit is not None and not name.endswith("_per_s"):
        assert text.startswith(unit)


def test_the_table_has_one_row_of_three_cells_a_setting() -> None:
    first, second = settings_table().split("\nLimits of one peer; ")
    rows = []
    for table in (first, second[second.index("|") :]):
        heading, rule, *more = table.splitlines()
        assert (heading.count("|"), rule) == (4, "|---|---|---|")
        rows += more
    shown = [row.split("`")[1] for row in rows]
    assert sorted(shown) == sorted(flag_of(name) for name in NAMES)
    for row, flag in zip(rows, shown, strict=True):
        assert row.count("|") == 4
        text = field_named(flag[2:].replace("-", "_")).metadata["text"]
        assert row.endswith(f" {text} |")
    assert "| `--port` | 8080 |" in settings_table()
    assert "| `--ack` | on |" in settings_table()
    assert "| `--agent` |  |" in settings_table()


@pytest.mark.parametrize(
    ("given", "missing"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")]
)
def test_half_of_a_tls_pair_is_refused_by_the_name_of_both(given: str, missing: str) -> None:
    text = refusal([flag_of(given), "file.pem"])
    assert text == f"{flag_of(given)}: is given without {missing}; give both or neither"
    with_variable = refusal([], {ENV_PREFIX + given.upper(): "file.pem"})
    assert with_variable.startswith(f"${ENV_PREFIX}{given.upper()}: ")
    assert "empty" in refusal([], {ENV_PREFIX + given.upper(): ""})  # never plain in silence


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]

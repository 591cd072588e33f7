import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from mixprint.config import load_params
from mixprint.errors import CheckpointError, ConfigError, DataError
from mixprint.schema import (
    MAX_DEPTH,
    MAX_YAML_BYTES,
    Length,
    Range,
    WithOthers,
    as_record,
    checked,
    parse_json,
    parse_yaml,
    read_record,
    read_text,
)


@dataclass(frozen=True, kw_only=True)
class Window:
    rate_hz: Annotated[int, Range(8_000, 192_000)]
    starts_s: Annotated[tuple[float, ...], Length(1, 3)]
    kind: Literal["hann", "plain"] = "hann"
    title: str | None = None

    def __post_init__(self) -> None:
        if self.title == "":
            raise ConfigError("title: expected some text")


@dataclass(frozen=True, kw_only=True)
class Title(WithOthers):
    title: str


GOOD: dict[str, Any] = {"rate_hz": 44_100, "starts_s": [0, 1.5]}


def test_a_record_has_its_types_and_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "window.json"
    path.write_text(json.dumps(GOOD | {"kind": "plain"}))
    assert read_record(path, Window) == Window(rate_hz=44_100, starts_s=(0.0, 1.5), kind="plain")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate_hz": 7_999}, "rate_hz: expected 8000 to 192000, found 7999"),
        ({"rate_hz": True}, "rate_hz: expected int, found True"),
        ({"rate_hz": 44_100.0}, "rate_hz: expected int, found 44100.0"),
        ({"rate_hz": "44100"}, "rate_hz: expected int, found '44100'"),
        ({"starts_s": []}, "starts_s: expected a length of 1 to 3, found []"),
        ({"starts_s": 3.0}, "starts_s: expected a list, found 3.0"),
        ({"starts_s": [0.0, None]}, r"starts_s[1]: expected float, found None"),
        ({"starts_s": [float("nan")]}, r"starts_s[0]: expected a finite number, found nan"),
        ({"kind": 1}, "kind: expected one of ['hann', 'plain'], found 1"),
        ({"title": 5}, "title: expected str, found 5"),
        ({"title": ""}, "title: expected some text"),
        ({"odd": 1}, "unknown keys ['odd']; known are"),
    ],
)
def test_a_value_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        as_record(GOOD | change, "w.json", Window, CheckpointError)
    assert str(caught.value).startswith(f"w.json: {message}")


def test_a_missing_key_is_named_and_other_keys_may_be_left_out() -> None:
    with pytest.raises(DataError, match=r"w\.json: missing keys \['starts_s'\]"):
        as_record({"rate_hz": 44_100}, "w.json", Window)
    assert as_record({"title": "a", "odd": 1}, "w.json", Title) == Title(title="a")


def test_integers_stay_integers_where_both_numbers_are_allowed() -> None:
    counts = checked("counts", {"a": 1, "b": 1.5}, Mapping[str, int | float])
    assert [type(value) for value in counts.values()] == [int, float]
    with pytest.raises(ConfigError, match=r"counts\.a: expected int, found True"):
        checked("counts", {"a": True}, Mapping[str, int | float])


@pytest.mark.parametrize("value", [list(range(100_000)), "x" * 100_000, {"a": {"b": [1] * 99}}])
def test_what_was_found_is_shortened(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        checked("n" * 1_000, value, int)
    assert len(str(caught.value)) < 1_200


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '{"a":' * 2_000 + "1" + "}" * 2_000,
        "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
        "1" + "0" * 400,
        "[-1" + "0" * 5_000 + "]",
        "1e400",
        "NaN",
        "[Infinity]",
        '{"a": 1, "a": 2}',
        "",
        "{",
        '"\\ud8',
        b"\xff\xfe",
    ],
)
def test_json_beyond_the_limits_is_refused(text: str | bytes) -> None:
    with pytest.raises(DataError, match=r"^a\.json: "):
        parse_json(text, "a.json")


@pytest.mark.parametrize(
    "text",
    [
        '!!int ""',
        "!!bool foo",
        '!!float ""',
        "!!timestamp foo",
        "!!binary ä",
        "a: 2001-99-99",
        "!!python/object/apply:os.system [true]",
        "!!python/tuple [1, 2]",
        "[" * 5_000,
        "{a: " * 200,
        "- " * 3_000,
        "? " * 3_000,
        "a: &a [*a]",
        "a: &a {b: [*a, *a]}",
        "a: *nowhere",
        "{[1]: 2}",
        "0x" + "f" * 400,
        "1" * 5_000,
        "a: 1\n  b: 2",
        "\x00",
        "x" * (MAX_YAML_BYTES + 1),
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]" for n in range(1, 9))]),
    ],
)
def test_yaml_beyond_the_limits_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^a\.yaml: "):
        parse_yaml(text, "a.yaml")


def test_yaml_that_is_used_is_read() -> None:
    text = "a: &a {b: [1, 2.5, on, text]}\nc: {<<: *a, d: null}\n"
    inner = {"b": [1, 2.5, True, "text"]}
    assert parse_yaml(text, "a.yaml") == {"a": inner, "c": inner | {"d": None}}
    assert parse_yaml("!!python/tuple [1, 2]", "a.yaml", has_tuples=True) == (1, 2)


def test_files_that_are_large_missing_or_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xe9")
    with pytest.raises(DataError, match=r"a\.json: .*utf-8"):
        read_text(path)
    with pytest.raises(DataError, match=r"a\.json: expected at most 0 bytes, found more"):
        read_text(path, max_bytes=0)
    with pytest.raises(ConfigError, match=r"/dev/zero: expected at most 262144 bytes"):
        read_text("/dev/zero", ConfigError, MAX_YAML_BYTES)
    with pytest.raises(DataError, match="no such file"):
        read_text(tmp_path / "no such file")
    with pytest.raises(DataError, match="Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["ingest: 5", "[]", "null", "ingest: {}\nprofiles: 3", "5: {}", "ingest: [1]", "a: !!int ''"],
)
def test_params_that_are_no_sections_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load_params(path, overrides=["ingest=5"])


@pytest.mark.parametrize("text", ["a.b=!!int ''", "a.b=[" + "[" * 100, "a.b=!!bool x"])
def test_overrides_that_are_no_yaml_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: {b: 1}")
    with pytest.raises(ConfigError, match="override"):
        load_params(path, overrides=[text])

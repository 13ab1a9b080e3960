import io
import sys
from pathlib import Path

import pytest

from comitia_sdk.cli.agents import agent_from
from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
from comitia_sdk.cli.reading import read_mapping, read_text


def refusal(path: Path) -> str:
    with pytest.raises(CommandFailed) as refused:
        read_mapping(path)
    assert refused.value.code == EXIT_USAGE
    return str(refused.value)


@pytest.mark.parametrize("text", ["name: Athena\n", '{"name": "Athena"}', "\ufeffname: Athena\n"])
def test_yaml_and_json_are_read_alike(tmp_path: Path, text: str) -> None:
    path = tmp_path / "agent"
    path.write_text(text, encoding="utf-8")

    assert read_mapping(path) == {"name": "Athena"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: Athena\n  tools: [a\n", ":2:8: mapping values are not allowed here"),
        (b'{"name": "Athena",\n  "tools": }', ":2:12: Expecting value"),
        (b"name: Athena\ndescription: caf\xe9\n", ":2: this is no UTF-8 text (byte 29); save the file as UTF-8"),
        (b"- a\n- b\n", " must hold names and values, such as `name: Athena`"),
        (b"", " must hold names and values, such as `name: Athena`"),
        (b"x" * 5_000_000, " is larger than 1 MB; nothing was sent"),
        (b'{"a": ' + b"[" * 100_000, " is nested too deeply"),
        (b"name: !!python/object/apply:os.system [echo]\n", ":1:7: could not determine a constructor for the tag"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_bytes(content)

    assert refusal(path).startswith(f"{path}{said}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml cannot be read: No such file or directory"
    assert refusal(tmp_path) == f"{tmp_path} cannot be read: Is a directory"


def test_standard_input_is_read_and_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"rules: []")))
    assert read_text(Path("-")) == "rules: []"

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 2_000_000)))
    with pytest.raises(CommandFailed, match="standard input is larger than 1 MB"):
        read_text(Path("-"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "A", "instruction": "x"}, "agent.yaml: there is no field 'instruction'; did you mean instructions?"),
        ({"name": "A", "zzz": 1}, "agent.yaml: there is no field 'zzz'; there are: create_time, description, "),
        ({"name": "A", "version": 1.0}, "agent.yaml: Failed to parse version field: "),
        ({"name": "A", "memory": {"recent": 1}}, "agent.yaml: Failed to parse memory field: "),
        ({"name": "A", "max_output_tokens": 10**12}, "agent.yaml: Failed to parse max_output_tokens field: "),
        ({"name": "A", "style": [1]}, "agent.yaml: "),
    ],
)
def test_a_definition_that_is_no_agent_is_refused_in_one_sentence(values: dict[str, object], said: str) -> None:
    with pytest.raises(CommandFailed) as refused:
        agent_from(values, where="agent.yaml")

    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)
    assert refused.value.code == EXIT_USAGE


def test_an_expanding_file_costs_nothing(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join([*lines, "name: A", "tools: *a11"]), encoding="utf-8")
    values = read_mapping(path)

    with pytest.raises(CommandFailed) as refused:
        agent_from({"name": "A", "tools": values["tools"]}, where="bomb.yaml")
    assert len(str(refused.value)) < 1000

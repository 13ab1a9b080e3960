"""The key of data keys is replaced on a mesh that runs, by its operator, and nothing becomes unreadable."""

import asyncio
import json
import os
import time

from comitia_sdk.aio import AsyncClient
from tests.e2e.conftest import until
from tests.support.mesh import RunningMesh


def use(mesh: RunningMesh) -> list[dict[str, object]]:
    return json.loads(mesh.comitia("kek", "status", "-o", "json").stdout)


async def test_the_key_is_replaced_while_the_mesh_works(mesh: RunningMesh, client: AsyncClient) -> None:
    remembered = await client.memories.remember("Rivers meet under a key.")
    [old, *_] = await asyncio.to_thread(use, mesh)
    assert old["current"]
    said = await asyncio.to_thread(mesh.comitia, "kek", "rotate")
    assert "wraps from now on" in said.stdout

    async def wrapped_anew() -> bool:
        [new, *others] = await asyncio.to_thread(use, mesh)
        left = [count for kek in others for count in kek["data_keys"].values()]  # type: ignore[attr-defined]
        assert (await client.memories.get(remembered.memory_id)).parts[0].text.text == "Rivers meet under a key."
        await client.memories.remember("Another one.")
        return new["id"] != old["id"] and not any(left)

    assert await until(wrapped_anew, seconds=60)
    refused = await asyncio.to_thread(mesh.comitia, "kek", "retire", check=1)
    assert "came just now" in refused.stderr
    hour_ago = time.time() - 3600
    os.utime(mesh.data_dir / "keys" / "kek", (hour_ago, hour_ago))
    assert str(old["id"]) in (await asyncio.to_thread(mesh.comitia, "kek", "retire")).stdout
    assert len(await asyncio.to_thread(use, mesh)) == 1
    assert (await client.memories.get(remembered.memory_id)).memory_id == remembered.memory_id
    assert "nothing to remove" in (await asyncio.to_thread(mesh.comitia, "kek", "retire")).stdout

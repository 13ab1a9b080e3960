"""What orders do to the world: one file for each effect, with its receipt."""

import os
from pathlib import Path
from typing import Final
from uuid import uuid4

#: Where the worker finds the folder of effects.
FOLDER: Final = "COMITIA_ORDERS_FOLDER"
POOL: Final = "orders"
#: A fact of more bytes lies in the object store: few enough for the output of a step, more than other facts have.
BIG_FACT_BYTES: Final = 96 * 1024


def effect_of(folder: Path, key: str) -> Path:
    """Gives the file of an effect."""
    return folder / key.replace("/", ".")


def act_once(folder: Path, key: str) -> str:
    """Acts on the world, unless an earlier attempt has. Returns the receipt of whichever did."""
    file = effect_of(folder, key)
    fresh = folder.with_name(f"{folder.name}-{uuid4().hex}")
    fresh.write_text(uuid4().hex, encoding="utf-8")
    try:
        os.link(fresh, file)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    return file.read_text(encoding="utf-8")

"""Terms on which a run of any kind starts: its money, its labels, and its model."""

from collections.abc import Mapping
from typing import Final

from services.meshkit.core.errors import Invalid
from services.meshkit.core.money import MAX_NANO_USD, NANO_PER_USD, NanoUsd

DEFAULT_MAX_COST: Final = NanoUsd(1 * NANO_PER_USD)
MAX_METADATA: Final = 32
MAX_METADATA_KEY: Final = 64
MAX_METADATA_VALUE: Final = 256
#: The value of the key `project`, to which every call of the run is charged.
MAX_PROJECT: Final = 128
MAX_MODEL: Final = 200


def check_terms(*, max_cost: NanoUsd, metadata: Mapping[str, str], model: str) -> None:
    """Refuses terms that no run can start on. Raises: Invalid, naming the field."""
    if not 0 <= max_cost <= MAX_NANO_USD:
        raise Invalid("max_cost_nano_usd", "must be > 0, or 0 for the default of 1 USD")
    if len(model) > MAX_MODEL:
        raise Invalid("model", f"must have at most {MAX_MODEL} characters")
    if len(metadata) > MAX_METADATA:
        raise Invalid("metadata", f"must have at most {MAX_METADATA} keys, has {len(metadata)}")
    for key, value in metadata.items():
        if not 1 <= len(key) <= MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise Invalid(
                f"metadata[{key[:MAX_METADATA_KEY]!r}]",
                f"must be a key of 1 to {MAX_METADATA_KEY} characters and a value of at most {MAX_METADATA_VALUE}",
            )
    project = metadata.get("project", "")
    if len(project) > MAX_PROJECT or "\x00" in project:
        raise Invalid("metadata['project']", f"must have at most {MAX_PROJECT} characters, none of them NUL")

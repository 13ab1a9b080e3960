"""Settings of the doors: HTTP in the dialects of model providers."""

from pydantic import Field

from services.meshkit.settings import HostPort, ServiceSettings


class DoorSettings(ServiceSettings):
    """What an installation decides about its doors."""

    doors_listen: HostPort | None = Field(
        default=None,
        description="Address at which `/v1/chat/completions` and the other doors are served, for the edge. Without it "
        "there are none.",
    )
    doors_output_tokens: int = Field(
        default=4096,
        ge=1,
        le=32_768,
        description="Longest answer of a request that names no limit, tokens. That much money is held for it.",
    )
    doors_body_bytes: int = Field(
        default=128 * 1024 * 1024,
        ge=40 * 1024 * 1024,
        description="Bodies of more than 64 KiB that are being answered at once, bytes in all; a tenant may have half. "
        "Beyond: 429. A body takes about five times its length of memory.",
    )

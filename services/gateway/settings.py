"""Every knob of the gateway."""

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.gateway.domain.oidc_issuer import is_loopback_http
from services.meshkit.settings import ServiceSettings

_GEN: Final = Path(__file__).parents[2] / "gen"


class GatewaySettings(ServiceSettings):
    """Settings of the gateway, `COMITIA_GATEWAY_…`."""

    model_config = SettingsConfigDict(
        env_prefix="COMITIA_GATEWAY_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    signing_key_path: Path = Field(
        description="Private JWK (Ed25519) that signs access tokens until the first rotation."
    )
    signing_key_lead_seconds: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="How long a new signing key is published before it signs: longer than any verifier takes to hear "
        "of it.",
    )
    bootstrap_key_path: Path | None = Field(
        default=None,
        description="File with the API key that a fresh installation starts with (tenant `local`, roles admin and "
        "operator), made by the launcher. Without it nothing is made.",
    )
    key_cache_seconds: float = Field(
        default=5.0, ge=0, le=5, description="How long a verified API key is trusted without another look."
    )
    max_cached_keys: int = Field(default=4096, ge=1, description="Verified API keys remembered at once.")
    max_api_keys: int = Field(default=5_000, ge=1, description="Working API keys that one tenant may have.")
    max_service_accounts: int = Field(
        default=2_000, ge=1, description="Service accounts that one tenant may have, beside disabled ones."
    )
    max_users: int = Field(default=50_000, ge=1, description="Users that one tenant may have, beside removed ones.")
    max_oidc_issuers: int = Field(default=20, ge=1, description="OpenID Connect issuers that one tenant may have.")
    max_relation_tuples: int = Field(
        default=1_000_000,
        ge=1,
        description="Relation tuples that one tenant may have; requests at one time may go beyond it by 100 each.",
    )
    pool_size: int = Field(default=4, ge=2, le=64, description="Connections of the role `app`.")
    audit_key_path: Path = Field(description="Private JWK (Ed25519) with which heads of the audit trail are signed.")
    audit_jwks_path: Path | None = Field(
        default=None,
        description="Key set with the public keys of earlier audit keys; without it exports hold the present one only.",
    )
    audit_store: str = Field(
        description="Where signed heads and archived entries lie, out of reach of the database: a directory, or "
        "`s3://bucket/prefix`, `gs://…`, `az://…`. Several gateways share one."
    )
    audit_collect_seconds: float = Field(
        default=1.0, gt=0, le=60, description="Pause between two rounds that fetch what the services wrote."
    )
    audit_head_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="Pause between two rounds that sign heads of chains that have grown."
    )
    audit_hot_days: float = Field(
        default=90.0, gt=0, description="Entries older than this move from the database to the archive."
    )
    audit_archive_seconds: float = Field(
        default=3600.0, gt=0, description="Pause between two rounds that look for entries to archive."
    )
    audit_read_through_seconds: float = Field(
        default=86_400.0, gt=0, description="Pause between two readings of all stored entries that hash them again."
    )
    openfga_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s]+$",
        description="HTTP address of an OpenFGA server that keeps and checks relations, such as "
        "`https://openfga:8080`; with a key, plain http is for this machine only. Without it the gateway does so by "
        "itself.",
    )
    openfga_store_id: str = Field(
        default="", pattern=r"^$|^[0-9A-Z]{26}$", description="Id of the store on that server. Required with it."
    )
    openfga_token: SecretStr = Field(default=SecretStr(""), description="Preshared key of that server, if it has one.")
    openfga_seconds: float = Field(default=3.0, gt=0, le=30, description="Longest wait for one of its answers.")
    oidc_reach_local: Literal["nobody", "operators", "everybody"] = Field(
        default="nobody",
        description="Whose issuers may lie on this machine or in a private network: those that an operator added, or "
        "those of every tenant. Say `everybody` only where tenants are trusted with what can be reached from here.",
    )
    oidc_keys_seconds: float = Field(
        default=600.0, ge=10, le=86_400, description="How long keys of an issuer are used before they are fetched anew."
    )
    oidc_outage_seconds: float = Field(
        default=86_400.0,
        ge=10,
        le=7 * 86_400,
        description="How long the last keys of an issuer that does not answer stay in use.",
    )
    erasure_seconds: float = Field(
        default=2.0, gt=0, le=60, description="Pause between two rounds that erase deleted tenants."
    )
    erasure_settle_seconds: float = Field(
        default=75.0,
        ge=0,
        description="A service counts as erased when it finds nothing more of a tenant so long after it was deleted: "
        "longer than the longest call may take, since what was under way then may have written.",
    )
    descriptors_path: Path = Field(
        default=_GEN / "descriptors" / "comitia.binpb", description="Descriptor set that reflection answers from."
    )
    openapi_path: Path = Field(
        default=_GEN / "openapi" / "comitia.json", description="OpenAPI document of the REST face."
    )

    def given_files(self) -> dict[str, Path]:
        """See `ServiceSettings.given_files`."""
        own = {
            "signing_key_path": self.signing_key_path,
            "bootstrap_key_path": self.bootstrap_key_path,
            "audit_key_path": self.audit_key_path,
            "audit_jwks_path": self.audit_jwks_path,
            "descriptors_path": self.descriptors_path,
            "openapi_path": self.openapi_path,
        }
        given = super().given_files() | {name: path for name, path in own.items() if path is not None}
        # The gateway writes it itself, before it verifies anything.
        given.pop("jwks_path", None)
        return given

    @model_validator(mode="after")
    def _names_a_store(self) -> Self:
        if self.openfga_url is not None and not self.openfga_store_id:
            raise ValueError("openfga_url needs openfga_store_id")
        url = self.openfga_url or "https://"
        if self.openfga_token.get_secret_value() and not url.startswith("https://") and not is_loopback_http(url):
            raise ValueError("openfga_url must be https where it is not on this machine: openfga_token goes with it")
        return self

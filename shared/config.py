"""Configuration, read once from `ENERGYFLEET_*`. A wrong value stops the start and names the variable.

An empty variable is as if it was not set.
"""

import ipaddress
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import quote, unquote

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.archive.archive_errors import BadArchiveUrl
from shared.archive.archive_url import ArchiveUrl, archive_url
from shared.errors import StartRefused
from shared.identity import CnTemplate, cn_templates
from shared.power_limits import LIMIT_MAX_KW, POWER_MAX_KW, POWER_MIN_INTERVAL_S, BadLimits, PowerLimits

RETENTION_DAYS = 400
"""Days that a reading may lie back: thirteen months, so that a year can be compared with the one before."""

ROLLUP_RETENTION_DAYS = 3_653
"""Days that hourly sums are kept: ten years, as long as a charger lasts; 60 bytes an hour of a device."""

SEAL_AFTER_DAYS = 2
"""Whole days that a day stays open: a device that was offline for a day finds its days open."""

LIMITS_BY_POWER_MAX = 20
"""Limits of healthy chargers by power: more than there are kinds of charger."""

MESSAGE_MAX_BYTES = 1_200_000
"""What 10,000 readings need, the largest that there are; of a compressed message, its size when it is unpacked."""


class ConfigError(StartRefused):
    """A variable of the environment is wrong. The message names it and says what is accepted."""


class Settings(BaseSettings):
    """What every process of the fleet reads."""

    model_config = SettingsConfigDict(env_prefix="ENERGYFLEET_", env_ignore_empty=True, frozen=True)

    database_schema: str = Field(
        "public",
        validation_alias="ENERGYFLEET_SCHEMA",  # a field named `schema` would hide a method of pydantic's
        pattern="^[a-z_][a-z0-9_]{0,62}$",
        description="the PostgreSQL schema of the fleet: up to 63 lower-case letters, digits and underscores",
    )
    database_url: str | None = Field(None, description="postgresql://user@host/name of a PostgreSQL >= 15")
    data_dir: Path = Field(
        Path(".energyfleet"), description="where the embedded PostgreSQL lives when there is no database URL"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="the least that is logged")

    def in_schema(self, url: str) -> str:
        """A database URL whose sessions find the fleet's schema and nothing else.

        The URLs of the settings are of this kind already, so that whoever connects by one cannot miss the schema.
        """
        return _in_schema(url, self.database_schema)

    @field_validator("database_url", "analytics_database_url", check_fields=False)
    @classmethod
    def _of_the_fleet(cls, url: str | None, info: ValidationInfo) -> str | None:
        schema = info.data.get("database_schema")  # none where it is refused
        return _in_schema(url, schema) if url and schema else url


class ServingSettings(Settings):
    """What every service reads."""

    tls_cert_file: Path | None = Field(None, description="PEM certificate chain; without it only loopback is served")
    tls_key_file: Path | None = Field(None, description="PEM private key of the certificate")
    tls_client_ca_file: Path | None = Field(
        None, description="PEM certificates of the authorities that sign clients' certificates; clients must have one"
    )
    tls_deny_file: Path | None = Field(None, description="the list of revoked certificates: serials in hex, one a line")
    tls_cn_template: str | None = Field(
        None,
        description="vehicle:{cn} or meter:{cn}, or both with a comma: the device of a certificate that names none by a"
        " URN of ours, from its subject's common name",
    )
    allow_anonymous: bool = Field(
        False, description="with TLS: serve clients that show no certificate, and let them do everything"
    )
    backend_address: str | None = Field(
        None, description="HOST:PORT for clients with tokens instead of certificates, over TLS; unset: none"
    )
    jwks_file: Path | None = Field(None, description="the public keys that sign tokens: a JSON Web Key Set")
    jwt_audience: str = Field("energyfleet", min_length=1, description="whom a token must be for (aud)")
    jwt_issuer: str | None = Field(None, description="who must have issued a token (iss); unset: anybody with a key")
    jwt_roles_claim: str = Field("roles", min_length=1, description="the claim that lists roles, or URNs of devices")
    reflection: bool = Field(True, description="tell readers and operators about the contract, as grpcurl asks")
    shutdown_grace_s: PositiveFloat = Field(10.0, description="seconds that calls have to end in on SIGTERM")
    health_interval_s: PositiveFloat = Field(1.0, description="seconds between looks at the database")

    def require_database_url(self) -> str:
        """The database URL, in SQLAlchemy's and psycopg's common form; ConfigError where there is none."""
        if not self.database_url:
            raise ConfigError(
                "ENERGYFLEET_DATABASE_URL is not set: postgresql://user@host/name of a PostgreSQL >= 15."
                " `energyfleet up` starts everything on an embedded one."
            )
        return self.database_url

    @model_validator(mode="after")
    def _safe(self) -> Self:
        for name in type(self).model_fields:
            address = getattr(self, name)
            if name.endswith("_address") and address is not None:
                self._require_safe(f"ENERGYFLEET_{name.upper()}", address)
        return self

    @model_validator(mode="after")
    def _identified(self) -> Self:
        """Whoever reaches a port over TLS is asked who he is, unless that is wanted otherwise."""
        tls, asks = self.tls_cert_file is not None, self.tls_client_ca_file is not None
        if not tls and (asks or self.backend_address is not None):
            raise ValueError(
                "ENERGYFLEET_TLS_CLIENT_CA_FILE and ENERGYFLEET_BACKEND_ADDRESS need ENERGYFLEET_TLS_CERT_FILE and"
                " ENERGYFLEET_TLS_KEY_FILE"
            )
        if self.allow_anonymous and (asks or self.backend_address is not None):
            raise ValueError(
                "ENERGYFLEET_ALLOW_ANONYMOUS contradicts ENERGYFLEET_TLS_CLIENT_CA_FILE and ENERGYFLEET_BACKEND_ADDRESS"
            )
        if tls and not asks and not self.allow_anonymous:
            raise ValueError(
                "ENERGYFLEET_TLS_CLIENT_CA_FILE is not set, so that nobody would be asked who he is: set it, or"
                " ENERGYFLEET_ALLOW_ANONYMOUS=true to let everybody do everything who reaches the port"
            )
        if not asks and (self.tls_deny_file is not None or self.tls_cn_template is not None):
            raise ValueError(
                "ENERGYFLEET_TLS_DENY_FILE and ENERGYFLEET_TLS_CN_TEMPLATE need ENERGYFLEET_TLS_CLIENT_CA_FILE"
            )
        if (self.backend_address is None) != (self.jwks_file is None):
            raise ValueError("ENERGYFLEET_BACKEND_ADDRESS and ENERGYFLEET_JWKS_FILE go together")
        return self

    @property
    def cn_templates(self) -> Sequence[CnTemplate]:
        """The devices of certificates by their common names."""
        return cn_templates(self.tls_cn_template) if self.tls_cn_template else ()

    @field_validator("tls_cn_template")
    @classmethod
    def _template(cls, text: str | None) -> str | None:
        if text is not None:
            cn_templates(text)
        return text

    def _require_safe(self, variable: str, address: str) -> None:
        host = address.rpartition(":")[0].strip("[]")
        if not host or not address.rpartition(":")[2].isdecimal():
            raise ValueError(f"{variable}: {address!r} is not HOST:PORT")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("ENERGYFLEET_TLS_CERT_FILE and ENERGYFLEET_TLS_KEY_FILE go together")
        if self.tls_cert_file is None and not _is_loopback(host):
            raise ValueError(
                f"{variable}: {address!r} is reachable from other machines; set ENERGYFLEET_TLS_CERT_FILE and"
                " ENERGYFLEET_TLS_KEY_FILE, or listen on a loopback address such as 127.0.0.1"
            )


class IngestionSettings(ServingSettings):
    ingestion_address: str = Field("127.0.0.1:50051", description="HOST:PORT to listen on; port 0: a free one")
    ingestion_metrics_address: str | None = Field(
        None, description="HOST:PORT to serve metrics on, over HTTPS where TLS is configured; unset: none are served"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="processes behind the port; one for each core that PostgreSQL leaves"
    )
    retention_days: PositiveInt = Field(
        RETENTION_DAYS, description="days that a reading may lie back; at least 30 are kept"
    )
    seal_after_days: Annotated[int, Field(ge=0, le=3_650)] = Field(
        SEAL_AFTER_DAYS,
        description="whole days after which a day's readings are sealed, which makes them 20 times smaller; 2 or more,"
        " or 0: never",
    )
    rollup_retention_days: PositiveInt = Field(
        ROLLUP_RETENTION_DAYS, description="days that hourly sums are kept, no fewer than readings"
    )
    archive_url: str | None = Field(
        None,
        description="where closed days are archived before retention may drop them: a directory, s3://BUCKET/PATH or"
        " gs://BUCKET/PATH; unset: nowhere",
    )
    archive_timeout_s: PositiveFloat = Field(
        600.0,
        description="seconds that the archive's store may take for a file: a day of 10,000 devices that report each"
        " minute is 15 MB, with noise in each value 200",
    )
    writers: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="database connections for meters, and as many for vehicles"
    )
    batch_max_readings: Annotated[int, Field(ge=1, le=50_000)] = Field(
        20_000,
        description="readings at which a transaction is full: two of each device of a fleet of 10,000 at full speed;"
        " a quarter of it costs PostgreSQL a third more per reading, more only delays the answers",
    )
    batch_max_age_s: Annotated[float, Field(ge=0, le=1)] = Field(
        0.002, description="seconds that a reading waits for company"
    )
    inflight_max_readings: PositiveInt = Field(
        100_000, description="readings held in memory at most, of each worker, about 1 KiB each; then streams wait"
    )
    inflight_max_readings_per_stream: PositiveInt = Field(
        20_000, description="readings of one stream held in memory at most; then this stream waits"
    )
    streams_max: PositiveInt = Field(
        12_000, description="open streams at most, of each worker, some 40 KiB each: a fleet of 10,000 and reconnects"
    )
    streams_per_peer_max: PositiveInt = Field(
        1_000,
        description="open streams of one peer at most, of each worker: a twelfth of all; a device has one, and a"
        " gateway sends the readings of thousands of devices on a few",
    )
    unary_calls_max: PositiveInt = Field(
        4_000,
        description="unary calls that wait for their commit at most, of each worker, some 30 KiB each: a fleet of"
        " 10,000 that reports every 30 seconds, through an outage's grace",
    )
    unary_bytes_max: PositiveInt = Field(
        8 * 1024 * 1024,
        description="bytes of these calls' messages at most, of each worker; in memory it is several times as many",
    )
    stream_max_age_s: PositiveFloat = Field(
        3_600.0, description="seconds after which a stream is ended, all of it acknowledged, less up to a fifth"
    )
    device_max_readings_per_s: PositiveFloat | None = Field(
        None, description="readings a second that one device may send, a minute of them at once; unset: any number"
    )
    new_devices_per_hour: PositiveInt = Field(
        20_000,
        description="meters, and as many vehicles, that each worker registers an hour at most, an hour's number at"
        " once: a fleet of 10,000 and as many more; of those whose certificate names them any number",
    )
    devices_max: PositiveInt = Field(
        200_000,
        description="meters, and as many vehicles, that are registered at most, some 1.4 KB each; of those whose"
        " certificate names them any number",
    )
    power_max_kw: Annotated[float, Field(gt=0, le=LIMIT_MAX_KW)] = Field(
        POWER_MAX_KW,
        description="kW above which the energy of a reading does not count: more than one charger delivers",
    )
    power_min_interval_s: Annotated[float, Field(gt=0, le=86_400)] = Field(
        POWER_MIN_INTERVAL_S,
        description="seconds that a reading's energy may stand for at least, however soon it follows another reading: a"
        " quarter-hour metering interval",
    )
    power_limits_file: Path | None = Field(
        None,
        description="other limits than power_max_kw, a line each: meter or vehicle, kW, and an id or the beginning of"
        " ids and *",
    )
    outage_grace_s: PositiveFloat = Field(
        5.0, description="seconds of an outage that are waited through before callers are told UNAVAILABLE"
    )
    write_timeout_s: PositiveFloat = Field(
        90.0, description="seconds that a transaction may take; longer than a careful migration holds a lock"
    )

    @field_validator("seal_after_days")
    @classmethod
    def _whole_days(cls, days: int) -> int:
        if days == 1:
            raise ValueError("at least 2, or 0: never")
        return days

    @model_validator(mode="after")
    def _archivable(self) -> Self:
        """Not of the field, whose errors repeat what it was set to: that may have a secret in it."""
        if self.archive_url is not None:
            try:
                archive_url(self.archive_url)
            except BadArchiveUrl as error:
                raise ValueError(f"ENERGYFLEET_ARCHIVE_URL: {error}") from None
        return self

    @property
    def archive(self) -> ArchiveUrl | None:
        """Where closed days are archived."""
        return archive_url(self.archive_url) if self.archive_url else None

    @property
    def power_limits(self) -> PowerLimits:
        """What the power of each device's readings may be; read from its file each time. ConfigError where that is
        wrong."""
        if self.power_limits_file is None:
            return PowerLimits(self.power_max_kw, self.power_min_interval_s)
        try:
            return PowerLimits.read(self.power_max_kw, self.power_min_interval_s, self.power_limits_file)
        except BadLimits as error:
            raise ConfigError(f"ENERGYFLEET_POWER_LIMITS_FILE: {error}") from None


class AnalyticsSettings(ServingSettings):
    analytics_database_url: str | None = Field(
        None, description="the database to answer from, for example a read replica; unset: ENERGYFLEET_DATABASE_URL"
    )
    replica_lag_max_s: PositiveFloat = Field(
        60.0,
        description="seconds that a replica may lag before the service is NOT_SERVING: twice what PostgreSQL lets a"
        " question hold up replay, so that a healthy replica never does",
    )
    analytics_address: str = Field("127.0.0.1:50052", description="HOST:PORT to listen on; port 0: a free one")
    analytics_metrics_address: str | None = Field(
        None, description="HOST:PORT to serve metrics on, over HTTPS where TLS is configured; unset: none are served"
    )
    pool_size: Annotated[int, Field(ge=1, le=100)] = Field(8, description="database connections at most")
    query_timeout_s: PositiveFloat = Field(10.0, description="seconds that a question to the database may take")
    low_efficiency_below: Annotated[float, Field(gt=0, le=1)] = Field(
        0.85, description="ratio below which somebody should look: expected losses are 10 to 15 %"
    )
    low_efficiency_by_power: Annotated[tuple[tuple[float, float], ...], NoDecode] = Field(
        (),
        description="limits by mean power of charging instead, kW:ratio from the least on, such as"
        " 2.3:0.72,3.7:0.78,7:0.85: on-board chargers lose more at low power",
    )
    implausible_above: Annotated[float, Field(ge=1, le=2)] = Field(
        1.02, description="ratio above which the numbers cannot be right: each of two meters of class 1 may err by 1 %"
    )
    plausible_min: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.3, description="ratio below which the numbers cannot be right: no charger loses so much"
    )
    standby_kw: Annotated[float, Field(ge=0, le=5)] = Field(
        0.2, description="kW on average up to which a meter stands by: a car charges at 1.4 kW or more"
    )
    evidence_min_kwh: Annotated[float, Field(ge=0)] = Field(
        0.5, description="kWh drawn, of what can be compared, below which no ratio is judged"
    )
    evidence_min_coverage: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of what was charged that must be comparable for a verdict; 0: whatever the share"
    )
    returned_max_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.01,
        description="share of the energy that flowed back above which a verdict compares charging with charging:"
        " a counter that steps back stays below, vehicle-to-grid does not",
    )
    baseline_min_kwh: Annotated[float, Field(ge=0)] = Field(
        20.0,
        description="kWh drawn in the charges of the 28 days before below which nothing is normal for a vehicle: two or"
        " three charges",
    )
    ratio_drop_min: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.03,
        description="by how much less than normal for it a vehicle's ratio has to be to be told: more than meters,"
        " clocks and standby move it by",
    )
    session_pause_minutes: Annotated[float, Field(ge=1, le=1_440)] = Field(
        15.0,
        description="minutes, 1 to 1,440, that a pause may last within a charging session: a quarter-hour interval",
    )
    stale_after_s: Annotated[float, Field(gt=0, le=RETENTION_DAYS * 86_400)] = Field(
        1_800.0,
        description="seconds of age above which a device's newest reading is stale: two quarter-hour metering"
        " intervals, so that a single late reading is no outage",
    )

    @field_validator("low_efficiency_by_power", mode="before")
    @classmethod
    def _limits_by_power(cls, limits: object) -> object:
        """From `kW:ratio,...`; the powers ascend."""
        if not isinstance(limits, str):
            return limits
        try:
            found = tuple(
                (float(power), float(ratio)) for power, _, ratio in (each.partition(":") for each in limits.split(","))
            )
        except ValueError:
            raise ValueError("expected kW:ratio,kW:ratio") from None
        if not all(0 <= power < 10_000 and 0 < ratio <= 1 for power, ratio in found):
            raise ValueError("expected powers from 0 to 10,000 kW, and ratios above 0 and up to 1")
        if len(found) > LIMITS_BY_POWER_MAX or any(a[0] >= b[0] for a, b in pairwise(found)):
            raise ValueError(f"expected up to {LIMITS_BY_POWER_MAX} powers, from the least on")
        return found

    @property
    def database_variable(self) -> str:
        return "ENERGYFLEET_ANALYTICS_DATABASE_URL" if self.analytics_database_url else "ENERGYFLEET_DATABASE_URL"

    def require_database_url(self) -> str:
        """The URL of the database to answer from; ConfigError where there is none."""
        return self.analytics_database_url or super().require_database_url()


AnySettings = TypeVar("AnySettings", bound=Settings)


def read_settings(kind: type[AnySettings]) -> AnySettings:
    """The settings of the environment; ConfigError with every wrong variable, a line each."""
    try:
        return kind()
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(kind, dict(each)) for each in error.errors())) from None


def _explained(kind: type[Settings], problem: dict[str, object]) -> str:
    location = problem["loc"]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not isinstance(location, tuple) or not location:
        return message
    for name, field in kind.model_fields.items():
        if location[0] in (name, field.validation_alias):
            variable = field.validation_alias or f"ENERGYFLEET_{name.upper()}"
            return f"{variable}: {message}, got {problem['input']!r} ({field.description})"
    return message


def _in_schema(url: str, schema: str) -> str:
    """libpq takes a session's settings from a URL's `options`; the last one wins."""
    address, _, query = url.partition("?")
    parameters = [each for each in query.split("&") if each]
    others = [each for each in parameters if not each.startswith("options=")]
    options = [unquote(each.removeprefix("options=")) for each in parameters if each not in others]
    options.append(f"-c search_path={schema},pg_temp")
    return f"{address}?{'&'.join([*others, 'options=' + quote(' '.join(options))])}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

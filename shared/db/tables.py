"""The schema as SQLAlchemy Core tables. The migrations create it; a test holds the two against each other.

Units are the contract's: kWh, volts, percent, degrees Celsius. Times are `timestamptz`; `ts` ends a reading's interval,
and `hour_start` begins the hour `(hour_start, hour_start + 1 h]`.

Devices, history, current status and the views `meter_energy_hourly` and `vehicle_energy_hourly`, which people look at,
have the names of the contract (`meter_key`, `kwh_consumed_ac`). Tables for the services alone have the same names for
both kinds of device (`device_key`, `kwh`), so that one statement serves both.

History has no foreign key to its devices: the writer resolves keys in the transaction that inserts, devices are never
deleted, and the check would cost as much as the insert.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, ExcludeConstraint

from shared.db.device_kind import KINDS, DeviceKind

metadata = MetaData(naming_convention={"pk": "%(table_name)s_pkey", "uq": "%(table_name)s_%(column_0_name)s_key"})

_HOT = {"fillfactor": 70}
"""Room on each page for the next version of its rows, so that updates stay HOT and touch no index."""


def _key(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, autoincrement=False)


def _timestamptz(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _measurements(kind: DeviceKind) -> list[Column[Any]]:
    return [Column(name, Double, nullable=name != kind.energy) for name in kind.measurements]


def _totals(kind: DeviceKind, prefix: str = "", **options: Any) -> Iterator[Column[Any]]:
    for name in kind.totals:
        yield Column(prefix + name, Integer if name.endswith("readings") else Double, **options)


def _add_tables(kind: DeviceKind) -> None:
    name, key = kind.name, f"{kind.name}_key"
    Table(
        f"{name}s",
        metadata,
        Column(key, Integer, Identity(always=True), primary_key=True),
        Column(f"{name}_id", Text(collation="C"), nullable=False),
        UniqueConstraint(f"{name}_id"),
        Index(f"{name}s_lower_id", text(f"lower({name}_id)"), f"{name}_id"),
    )
    Table(
        kind.history,
        metadata,
        _key(key),
        _timestamptz("ts"),
        *_measurements(kind),
        # The energy that was sent where it is not what counts, and why what counts is not simply that or the register's
        # rise: what the function `counting_of` says, or `corrected` by an operator.
        Column("sent_kwh", Double),
        Column("counting", Text),
        PrimaryKeyConstraint(key, "ts", postgresql_include=[kind.energy, *kind.averaged]),
        Index(
            f"{kind.history}_counting",
            key,
            "ts",
            postgresql_include=["counting"],
            postgresql_where=text("counting IS NOT NULL"),
        ),
        postgresql_partition_by="RANGE (ts)",
    )
    # The readings of closed days, a row for each device and day: a day of a device is here or in history, never both.
    # The sums are those of the readings that the day has by their timestamps. `gaps_us` are the microseconds from the
    # start of the day to the first reading and from each to the next; of a measurement that no reading has there is no
    # array. The views `meter_readings` and `vehicle_readings` have open and sealed readings one by one.
    Table(
        kind.sealed,
        metadata,
        _key("device_key"),
        Column("day", Date, nullable=False),
        *(_timestamptz(f"{end}_ts") for end in ("first", "last")),
        *_totals(kind, nullable=False),
        Column("gaps_us", ARRAY(BigInteger), nullable=False),
        *(Column(name, ARRAY(Double), nullable=name != kind.energy) for name in (*kind.measurements, "sent_kwh")),
        Column("counting", ARRAY(Text)),
        PrimaryKeyConstraint("device_key", "day"),
        postgresql_partition_by="RANGE (day)",
    )
    # A device's newest reading, with the energy that was sent where another one counts, and the one that the energies
    # before it have risen from, or less, see `ingestion_svc.rises`; null where it is not above 0. And what was reported
    # in the hour of it so far: its rollup, until a reading of a later hour comes. `closed_` is what the last change of
    # the row had to add to the closed hours, for the statement that made it.
    Table(
        f"{name}_current_status",
        metadata,
        _key(key),
        _timestamptz("ts"),
        *_measurements(kind),
        Column("sent_kwh", Double),
        Column("rising_from_kwh", Double),
        _timestamptz("hour_start"),
        *_totals(kind, "hour_", nullable=False, server_default=text("0")),
        _timestamptz("closed_hour_start", nullable=True),
        _timestamptz("closed_last_ts", nullable=True),
        *_totals(kind, "closed_"),
        PrimaryKeyConstraint(key),
        postgresql_with=_HOT,
    )
    # The rollups of all other hours: an hour of a device is in one of the two places. The view has both. `last_ts`
    # is the timestamp of the hour's last reading; that of an hour in the status is the row's `ts`.
    Table(
        f"{name}_closed_hours",
        metadata,
        _key("device_key"),
        _timestamptz("hour_start"),
        _timestamptz("last_ts"),
        *_totals(kind, nullable=False),
        PrimaryKeyConstraint("device_key", "hour_start"),
        Index(f"{name}_closed_hours_hour_start", "hour_start"),
        postgresql_with=_HOT,
    )
    # Which hours of the rollups changed: a mark of each session that changed them, see `shared.db.hour_changes`.
    Table(
        f"{name}_hour_changes",
        metadata,
        _timestamptz("hour_start"),
        Column("writer", Integer, nullable=False, autoincrement=False),
        Column("mark", Uuid, nullable=False),
        PrimaryKeyConstraint("hour_start", "writer"),
        postgresql_with=_HOT,
    )
    Table(
        f"{name}_clock_evidence",
        metadata,
        _key("device_key"),
        _timestamptz("newest_ts", nullable=True),
        Column("newest_age_us", BigInteger),
        Column("late_readings", BigInteger, nullable=False),
        Column("future_readings", BigInteger, nullable=False),
        Column("conflicting_readings", BigInteger, nullable=False),
        PrimaryKeyConstraint("device_key"),
        postgresql_with=_HOT,
    )
    # What was refused of a device's readings, also of one that is not registered: whole readings, and optional values.
    # `last_at` is the service's clock.
    Table(
        f"{name}_refusals",
        metadata,
        Column("device_id", Text(collation="C"), nullable=False),
        Column("field", Text(collation="C"), nullable=False),
        Column("reason", Text(collation="C"), nullable=False),
        Column("count", BigInteger, nullable=False),
        _timestamptz("last_at"),
        Column("last_description", Text, nullable=False),
        PrimaryKeyConstraint("device_id", "field", "reason"),
        postgresql_with=_HOT,
    )


for _kind in KINDS:
    _add_tables(_kind)

# One row. Readings of the UTC days before the floor are dropped and refused, those of days before `sealed_before` may
# be sealed.
retention = Table(
    "retention",
    metadata,
    Column("one_row", Boolean, primary_key=True, server_default=text("true")),
    Column("floor_day", Date, nullable=False),
    Column("sealed_before", Date, nullable=False, server_default=text("'0001-01-01'")),
    CheckConstraint("one_row", name="retention_one_row"),
)

# One row: the primary's time, written about once a second. What a replica shows of it, its answers reach.
heartbeat = Table(
    "heartbeat",
    metadata,
    Column("one_row", Boolean, primary_key=True, server_default=text("true")),
    _timestamptz("beat_at"),
    CheckConstraint("one_row", name="heartbeat_one_row"),
    postgresql_with=_HOT,
)

_valid = text("tstzrange(effective_from, effective_until, '(]')")

vehicle_meter_map = Table(
    "vehicle_meter_map",
    metadata,
    Column("vehicle_key", Integer, ForeignKey("vehicles.vehicle_key"), nullable=False),
    Column("meter_key", Integer, ForeignKey("meters.meter_key"), nullable=False),
    _timestamptz("effective_from"),
    _timestamptz("effective_until", nullable=True),
    # The changes that registered it as long as it is, or longer, and that gave it its end; null where nobody knows, and
    # `ended_change` also where it has had its end from the start, or none.
    Column("registered_change", BigInteger, ForeignKey("mapping_changes.change_id")),
    Column("ended_change", BigInteger, ForeignKey("mapping_changes.change_id")),
    PrimaryKeyConstraint("vehicle_key", "meter_key", "effective_from"),
    CheckConstraint("effective_from < effective_until", name="vehicle_meter_map_not_empty"),
    ExcludeConstraint(("meter_key", "="), (_valid, "&&"), name="vehicle_meter_map_one_vehicle_per_meter"),
)

# What became of each mapping, kept for good: without `from_before` it is new, without `from_after` it was removed, and
# two rows with the same before tell that it became two. `identity` is the caller's.
mapping_changes = Table(
    "mapping_changes",
    metadata,
    Column("change_id", BigInteger, Identity(always=True), primary_key=True),
    *(Column(name, Text(collation="C"), nullable=False) for name in ("vehicle_id", "meter_id")),
    *(_timestamptz(f"{end}_{when}", nullable=True) for when in ("before", "after") for end in ("from", "until")),
    Column("identity", Text, nullable=False),
    Column("note", Text),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    CheckConstraint(
        "(from_before, until_before) IS DISTINCT FROM (from_after, until_after)",
        name="mapping_changes_changed_something",
    ),
    Index("mapping_changes_vehicle", "vehicle_id", "change_id"),
    Index("mapping_changes_meter", "meter_id", "change_id"),
)

# What operators said of readings' energy, kept for good. Each is about what counts from then on.
corrections = Table(
    "corrections",
    metadata,
    Column("correction_id", BigInteger, Identity(always=True), primary_key=True),
    Column("device_kind", Text, nullable=False),
    Column("device_id", Text(collation="C"), nullable=False),
    _timestamptz("ts"),
    *(Column(name, Double, nullable=False) for name in ("sent_kwh", "kwh_before", "kwh")),
    Column("voided", Boolean, nullable=False),
    Column("author", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("corrected_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("identity", Text),  # the caller's; null where nobody knows
    Index("corrections_reading", "device_kind", "device_id", "ts"),
)

# Which days of readings are archived, where, and what each file was when it was read back: see `shared.archive`.
# `version` is what `meter_day_version` or `vehicle_day_version` said in the snapshot that was archived.
archived_days = Table(
    "archived_days",
    metadata,
    Column("kind", Text(collation="C"), nullable=False),
    Column("day", Date, nullable=False),
    Column("url", Text(collation="C"), nullable=False),
    Column("file", Text, nullable=False),
    Column("readings", BigInteger, nullable=False),
    *(Column(name, Double, nullable=False) for name in ("kwh", "kwh_returned")),
    *(_timestamptz(f"{end}_ts") for end in ("first", "last")),
    Column("bytes", BigInteger, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("sha256", "version")),
    Column("archived_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    PrimaryKeyConstraint("kind", "day", "url"),
)

"""The schema as SQLAlchemy Core tables. The migrations create it; a test holds the two against each other.

Units are the contract's: kWh, volts, percent, degrees Celsius. Times are `timestamptz`; `ts` ends a reading's interval,
and `hour_start` begins the hour `(hour_start, hour_start + 1 h]`.

History has no foreign key to its devices: the writer resolves keys in the transaction that inserts, devices are never
deleted, and the check would cost as much as the insert.
"""

from datetime import datetime

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
from sqlalchemy.dialects.postgresql import ExcludeConstraint

metadata = MetaData(naming_convention={"pk": "%(table_name)s_pkey", "uq": "%(table_name)s_%(column_0_name)s_key"})

_HOT = {"fillfactor": 70}
"""Room on each page for the next version of its rows, so that updates stay HOT and touch no index."""


def _timestamptz(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


meters = Table(
    "meters",
    metadata,
    Column("meter_key", Integer, Identity(always=True), primary_key=True),
    Column("meter_id", Text(collation="C"), nullable=False),
    UniqueConstraint("meter_id"),
)

vehicles = Table(
    "vehicles",
    metadata,
    Column("vehicle_key", Integer, Identity(always=True), primary_key=True),
    Column("vehicle_id", Text(collation="C"), nullable=False),
    UniqueConstraint("vehicle_id"),
)

meter_telemetry_history = Table(
    "meter_telemetry_history",
    metadata,
    Column("meter_key", Integer, nullable=False, autoincrement=False),
    _timestamptz("ts"),
    Column("kwh_consumed_ac", Double, nullable=False),
    Column("voltage", Double),
    PrimaryKeyConstraint("meter_key", "ts", postgresql_include=["kwh_consumed_ac"]),
    postgresql_partition_by="RANGE (ts)",
)

vehicle_telemetry_history = Table(
    "vehicle_telemetry_history",
    metadata,
    Column("vehicle_key", Integer, nullable=False, autoincrement=False),
    _timestamptz("ts"),
    Column("kwh_delivered_dc", Double, nullable=False),
    Column("soc", Double),
    Column("battery_temp", Double),
    PrimaryKeyConstraint("vehicle_key", "ts", postgresql_include=["kwh_delivered_dc", "battery_temp"]),
    postgresql_partition_by="RANGE (ts)",
)

# A device's newest reading, and what was reported in the hour of it so far: its rollup, until a reading of a later hour
# comes. `closed_` is what the last change of the row had to add to the closed hours, for the statement that made it.
meter_current_status = Table(
    "meter_current_status",
    metadata,
    Column("meter_key", Integer, primary_key=True, autoincrement=False),
    _timestamptz("ts"),
    Column("kwh_consumed_ac", Double, nullable=False),
    Column("voltage", Double),
    _timestamptz("hour_start"),
    Column("hour_kwh", Double, nullable=False, server_default=text("0")),
    Column("hour_readings", Integer, nullable=False, server_default=text("0")),
    _timestamptz("closed_hour_start", nullable=True),
    Column("closed_kwh", Double),
    Column("closed_readings", Integer),
    postgresql_with=_HOT,
)

vehicle_current_status = Table(
    "vehicle_current_status",
    metadata,
    Column("vehicle_key", Integer, primary_key=True, autoincrement=False),
    _timestamptz("ts"),
    Column("kwh_delivered_dc", Double, nullable=False),
    Column("soc", Double),
    Column("battery_temp", Double),
    _timestamptz("hour_start"),
    Column("hour_kwh", Double, nullable=False, server_default=text("0")),
    Column("hour_readings", Integer, nullable=False, server_default=text("0")),
    Column("hour_battery_temp_sum", Double, nullable=False, server_default=text("0")),
    Column("hour_battery_temp_readings", Integer, nullable=False, server_default=text("0")),
    _timestamptz("closed_hour_start", nullable=True),
    Column("closed_kwh", Double),
    Column("closed_readings", Integer),
    Column("closed_battery_temp_sum", Double),
    Column("closed_battery_temp_readings", Integer),
    postgresql_with=_HOT,
)

# The rollups of all other hours: an hour of a device is in one of the two places. The views meter_energy_hourly and
# vehicle_energy_hourly have both.
meter_closed_hours = Table(
    "meter_closed_hours",
    metadata,
    Column("meter_key", Integer, nullable=False, autoincrement=False),
    _timestamptz("hour_start"),
    Column("kwh_consumed_ac", Double, nullable=False),
    Column("readings", Integer, nullable=False),
    PrimaryKeyConstraint("meter_key", "hour_start"),
    Index("meter_closed_hours_hour_start", "hour_start"),
    postgresql_with=_HOT,
)

vehicle_closed_hours = Table(
    "vehicle_closed_hours",
    metadata,
    Column("vehicle_key", Integer, nullable=False, autoincrement=False),
    _timestamptz("hour_start"),
    Column("kwh_delivered_dc", Double, nullable=False),
    Column("readings", Integer, nullable=False),
    Column("battery_temp_sum", Double, nullable=False),
    Column("battery_temp_readings", Integer, nullable=False),
    PrimaryKeyConstraint("vehicle_key", "hour_start"),
    Index("vehicle_closed_hours_hour_start", "hour_start"),
    postgresql_with=_HOT,
)

# Which hours of the rollups changed: a mark of each session that changed them, see `shared.db.hour_changes`.
meter_hour_changes = Table(
    "meter_hour_changes",
    metadata,
    _timestamptz("hour_start"),
    Column("writer", Integer, nullable=False, autoincrement=False),
    Column("mark", Uuid, nullable=False),
    PrimaryKeyConstraint("hour_start", "writer"),
    postgresql_with=_HOT,
)

vehicle_hour_changes = Table(
    "vehicle_hour_changes",
    metadata,
    _timestamptz("hour_start"),
    Column("writer", Integer, nullable=False, autoincrement=False),
    Column("mark", Uuid, nullable=False),
    PrimaryKeyConstraint("hour_start", "writer"),
    postgresql_with=_HOT,
)

meter_clock_evidence = Table(
    "meter_clock_evidence",
    metadata,
    Column("meter_key", Integer, primary_key=True, autoincrement=False),
    _timestamptz("newest_ts", nullable=True),
    Column("newest_age_us", BigInteger),
    Column("late_readings", BigInteger, nullable=False),
    Column("future_readings", BigInteger, nullable=False),
    Column("conflicting_readings", BigInteger, nullable=False),
    postgresql_with=_HOT,
)

vehicle_clock_evidence = Table(
    "vehicle_clock_evidence",
    metadata,
    Column("vehicle_key", Integer, primary_key=True, autoincrement=False),
    _timestamptz("newest_ts", nullable=True),
    Column("newest_age_us", BigInteger),
    Column("late_readings", BigInteger, nullable=False),
    Column("future_readings", BigInteger, nullable=False),
    Column("conflicting_readings", BigInteger, nullable=False),
    postgresql_with=_HOT,
)

# One row. Readings of the UTC days before the floor are dropped and refused.
retention = Table(
    "retention",
    metadata,
    Column("one_row", Boolean, primary_key=True, server_default=text("true")),
    Column("floor_day", Date, nullable=False),
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
    Column("vehicle_key", Integer, ForeignKey(vehicles.c.vehicle_key), nullable=False),
    Column("meter_key", Integer, ForeignKey(meters.c.meter_key), nullable=False),
    _timestamptz("effective_from"),
    _timestamptz("effective_until", nullable=True),
    PrimaryKeyConstraint("vehicle_key", "effective_from"),
    CheckConstraint("effective_from < effective_until", name="vehicle_meter_map_not_empty"),
    ExcludeConstraint(("vehicle_key", "="), (_valid, "&&"), name="vehicle_meter_map_one_meter_per_vehicle"),
    ExcludeConstraint(("meter_key", "="), (_valid, "&&"), name="vehicle_meter_map_one_vehicle_per_meter"),
)

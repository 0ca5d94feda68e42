"""An index for the hours of the whole fleet: without it their cost grows with all hours that are stored."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# The hour of a rollup never changes, so updates stay HOT: the index is touched once a device and hour.
_INDEXES = """
CREATE INDEX meter_energy_hourly_hour_start ON meter_energy_hourly (hour_start);
CREATE INDEX vehicle_energy_hourly_hour_start ON vehicle_energy_hourly (hour_start);
"""


def upgrade() -> None:
    op.execute(_INDEXES)


def downgrade() -> None:
    op.execute("DROP INDEX meter_energy_hourly_hour_start, vehicle_energy_hourly_hour_start")

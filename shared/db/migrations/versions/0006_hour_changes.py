"""Marks by which a reader knows the hours of the rollups that changed since it read them."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE meter_hour_changes (
    hour_start timestamptz NOT NULL,
    writer integer NOT NULL,
    mark uuid NOT NULL,
    PRIMARY KEY (hour_start, writer)
) WITH (fillfactor = 70);
CREATE TABLE vehicle_hour_changes (
    hour_start timestamptz NOT NULL,
    writer integer NOT NULL,
    mark uuid NOT NULL,
    PRIMARY KEY (hour_start, writer)
) WITH (fillfactor = 70);
"""

_RIGHTS = """
GRANT SELECT ON meter_hour_changes, vehicle_hour_changes TO energyfleet_ingestion, energyfleet_analytics;
GRANT INSERT, UPDATE, DELETE ON meter_hour_changes, vehicle_hour_changes TO energyfleet_ingestion;
"""


def upgrade() -> None:
    for statements in (_TABLES, _RIGHTS):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP TABLE meter_hour_changes, vehicle_hour_changes")

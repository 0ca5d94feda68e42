"""The heartbeat, by which a replica's answers say how far they reach."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLE = """
CREATE TABLE heartbeat (
    one_row boolean PRIMARY KEY DEFAULT true CONSTRAINT heartbeat_one_row CHECK (one_row),
    beat_at timestamptz NOT NULL
) WITH (fillfactor = 70);
INSERT INTO heartbeat (beat_at) VALUES (clock_timestamp());
"""

_RIGHTS = """
GRANT SELECT ON heartbeat TO energyfleet_ingestion, energyfleet_analytics;
GRANT UPDATE (beat_at) ON heartbeat TO energyfleet_ingestion;
"""


def upgrade() -> None:
    for statements in (_TABLE, _RIGHTS):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP TABLE heartbeat")

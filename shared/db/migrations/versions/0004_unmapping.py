"""The right to unmap: a mapping of which nothing is left is removed."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("GRANT DELETE ON vehicle_meter_map TO energyfleet_ingestion")


def downgrade() -> None:
    op.execute("REVOKE DELETE ON vehicle_meter_map FROM energyfleet_ingestion")

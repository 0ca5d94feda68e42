"""Who changed mappings and corrected readings, when and why.

Ingestion services of the version before go on, and who changes something through them stays unknown, as of all that was
there before: null, and no row in `mapping_changes`. Mappings and corrections are locked for a moment.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "ALTER TABLE corrections ADD COLUMN identity text",
    # What became of each mapping. No from_before: it is new. No from_after: it was removed. Two rows with the same
    # before: it became two. Ids, not keys: a row stays true whatever becomes of the mapping and of its devices.
    """
    CREATE TABLE mapping_changes (
        change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        vehicle_id text COLLATE "C" NOT NULL,
        meter_id text COLLATE "C" NOT NULL,
        from_before timestamptz,
        until_before timestamptz,
        from_after timestamptz,
        until_after timestamptz,
        identity text NOT NULL,
        note text,
        changed_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT mapping_changes_changed_something CHECK (
            (from_before, until_before) IS DISTINCT FROM (from_after, until_after)
        )
    )
    """,
    "CREATE INDEX mapping_changes_vehicle ON mapping_changes (vehicle_id, change_id)",
    "CREATE INDEX mapping_changes_meter ON mapping_changes (meter_id, change_id)",
    "ALTER TABLE vehicle_meter_map ADD COLUMN registered_change bigint REFERENCES mapping_changes",
    "ALTER TABLE vehicle_meter_map ADD COLUMN ended_change bigint REFERENCES mapping_changes",
    "GRANT SELECT ON mapping_changes TO energyfleet_ingestion",
    # Neither its number nor its time is the service's to say, and what is written is never changed.
    """
    GRANT INSERT (vehicle_id, meter_id, from_before, until_before, from_after, until_after, identity, note)
        ON mapping_changes TO energyfleet_ingestion
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("this revision holds who changed what; it is kept for good")

"""Alembic's entry: runs the migrations over the connection that `shared.db.migrate` holds its lock on."""

from alembic import context

from shared.db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()

"""Run by alembic, inside the transaction that `kinitro.storage.schema` opened."""

from alembic import context

from kinitro.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()

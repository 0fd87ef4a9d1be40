"""What an episode ran under, and what happened in it, so that it can be replayed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "conditions",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("document", pg.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_conditions")),
    )
    op.create_table(
        "records",
        sa.Column("task_id", pg.UUID(as_uuid=True), nullable=False),
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("conditions", sa.LargeBinary(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("facts", pg.JSONB(), nullable=False),
        sa.Column("steps", sa.LargeBinary(), nullable=True),
        sa.Column("steps_url", sa.Text(), nullable=True),
        sa.Column("steps_sha256", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["task_id"], ["verdicts.task_id"], name=op.f("fk_records_task_id_verdicts")),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_records_cycle_id_cycles")),
        sa.ForeignKeyConstraint(["conditions"], ["conditions.digest"], name=op.f("fk_records_conditions_conditions")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_records")),
    )
    op.create_index(
        "ix_records_steps", "records", ["cycle_id"], unique=False, postgresql_where=sa.text("steps is not null")
    )
    # Compressed already: PostgreSQL's own attempt would only cost time.
    op.execute("alter table records alter column steps set storage external")

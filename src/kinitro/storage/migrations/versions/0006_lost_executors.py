"""When an executor last let a lease run out: it is not counted on until it is heard of again."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("executors", sa.Column("lost_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.execute("""
        create view present_executors as
        select executor_id, env_ids from executors
        where last_seen_at > clock_timestamp() - interval '120 seconds'
          and last_seen_at > coalesce(lost_at, '-infinity')
    """)


def downgrade() -> None:
    op.execute("drop view present_executors")
    op.drop_column("executors", "lost_at")

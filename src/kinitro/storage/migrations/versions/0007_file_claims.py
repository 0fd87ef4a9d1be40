"""What executors say policies' files are, each word by itself, instead of the first word that came."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_claims",
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Integer(), nullable=False),
        sa.Column("executor_id", sa.Text(), nullable=False),
        sa.Column("tree_digest", sa.Text(), nullable=False),
        sa.Column("hotkey", sa.Text(), nullable=False),
        sa.Column("repo_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_file_claims_cycle_id_cycles")),
        sa.PrimaryKeyConstraint("cycle_id", "uid", "executor_id", "tree_digest", name=op.f("pk_file_claims")),
    )
    op.create_index("ix_file_claims_policy", "file_claims", ["repo_key", "revision", "cycle_id"])
    # Of verdicts that still count, and of each policy's last cycle: what is known already stays known, if it is agreed.
    op.execute("""
        insert into file_claims (cycle_id, uid, executor_id, tree_digest, hotkey, repo_key, revision)
        select distinct cycle_id, uid, executor_id, tree_digest, hotkey, repo_key, revision
        from (
            select v.cycle_id, v.uid, v.executor_id, v.tree_digest, t.hotkey, lower(t.repo) as repo_key, t.revision,
                   max(v.cycle_id) over (partition by lower(t.repo), t.revision) as latest
            from verdicts v join tasks t on t.id = v.task_id
            where v.tree_digest is not null and v.executor_id is not null
        ) said
        where cycle_id = latest
    """)
    op.drop_table("snapshots")


def downgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("repo_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("tree_digest", sa.Text(), nullable=False),
        sa.Column(
            "recorded_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("repo_key", "revision", name=op.f("pk_snapshots")),
    )
    op.execute("""
        insert into snapshots (repo_key, revision, tree_digest)
        select repo_key, revision, min(tree_digest) from file_claims
        group by repo_key, revision having count(distinct tree_digest) = 1
    """)
    op.drop_table("file_claims")

"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cycles",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("netuid", sa.Integer(), nullable=False),
        sa.Column("genesis", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("salt_sha256", sa.Text(), nullable=False),
        sa.Column("target_block", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.Text(), nullable=True),
        sa.Column("episodes_per_env", sa.Integer(), nullable=False),
        sa.Column("environments", pg.JSONB(), nullable=False),
        sa.Column("rule", pg.JSONB(), nullable=False),
        sa.Column("miner_time_budget_s", sa.Float(), nullable=False),
        sa.Column("timeout_s", sa.Float(), nullable=False),
        sa.Column("task_max_attempts", sa.Integer(), nullable=False),
        sa.Column("active_s", sa.Float(), server_default="0", nullable=False),
        sa.Column("n_miners", sa.Integer(), nullable=False),
        sa.Column(
            "started_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("completed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("status in ('pending', 'running', 'completed', 'failed')", name=op.f("ck_cycles_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cycles")),
    )
    op.create_index(
        "uq_cycles_open",
        "cycles",
        [sa.literal_column("(true)")],
        unique=True,
        postgresql_where=sa.text("status in ('pending', 'running')"),
    )
    op.create_table(
        "executors",
        sa.Column("executor_id", sa.Text(), nullable=False),
        sa.Column(
            "last_seen_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("env_ids", pg.JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("executor_id", name=op.f("pk_executors")),
    )
    op.create_table(
        "ledgers",
        sa.Column("singleton", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("genesis", sa.Text(), nullable=False),
        sa.Column("netuid", sa.Integer(), nullable=False),
        sa.CheckConstraint("singleton", name=op.f("ck_ledgers_one_row")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_ledgers")),
    )
    op.create_table(
        "notices",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("since", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("topic", name=op.f("pk_notices")),
    )
    op.create_table(
        "snapshots",
        sa.Column("repo_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("tree_digest", sa.Text(), nullable=False),
        sa.Column(
            "recorded_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("repo_key", "revision", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "submissions",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("hotkey", sa.Text(), nullable=False),
        sa.Column("repo", sa.Text(), nullable=False),
        sa.Column("repo_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("first_seen_block", sa.BigInteger(), nullable=False),
        sa.Column("first_seen_uid", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_submissions")),
        sa.UniqueConstraint("hotkey", "repo_key", "revision", name="uq_submissions_policy"),
    )
    op.create_table(
        "cycle_miners",
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Integer(), nullable=False),
        sa.Column("hotkey", sa.Text(), nullable=False),
        sa.Column("submission_id", sa.Integer(), nullable=True),
        sa.Column("repo", sa.Text(), nullable=True),
        sa.Column("revision", sa.Text(), nullable=True),
        sa.Column("committed_block", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_cycle_miners_cycle_id_cycles")),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["submissions.id"], name=op.f("fk_cycle_miners_submission_id_submissions")
        ),
        sa.PrimaryKeyConstraint("cycle_id", "uid", name=op.f("pk_cycle_miners")),
    )
    op.create_index("ix_cycle_miners_submission", "cycle_miners", ["submission_id", "cycle_id"], unique=False)
    op.create_table(
        "outcome_bits",
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("submission_id", sa.Integer(), nullable=False),
        sa.Column("env_id", sa.Text(), nullable=False),
        sa.Column("env_version", sa.Text(), nullable=False),
        sa.Column("episodes", sa.Integer(), nullable=False),
        sa.Column("evaluated", sa.LargeBinary(), nullable=False),
        sa.Column("success", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_outcome_bits_cycle_id_cycles")),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["submissions.id"], name=op.f("fk_outcome_bits_submission_id_submissions")
        ),
        sa.PrimaryKeyConstraint("cycle_id", "submission_id", "env_id", name=op.f("pk_outcome_bits")),
    )
    op.create_table(
        "places",
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("submission_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["submissions.id"], name=op.f("fk_places_submission_id_submissions")
        ),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_places")),
        sa.UniqueConstraint("submission_id", name=op.f("uq_places_submission_id")),
    )
    op.create_table(
        "scores",
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Integer(), nullable=False),
        sa.Column("env_id", sa.Text(), nullable=False),
        sa.Column("hotkey", sa.Text(), nullable=False),
        sa.Column("success_rate", sa.Float(), nullable=False),
        sa.Column("mean_reward", sa.Float(), nullable=False),
        sa.Column("episodes_completed", sa.Integer(), nullable=False),
        sa.Column("episodes_failed", sa.Integer(), nullable=False),
        sa.Column("wilson_low", sa.Float(), nullable=False),
        sa.Column("wilson_high", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_scores_cycle_id_cycles")),
        sa.PrimaryKeyConstraint("cycle_id", "uid", "env_id", name=op.f("pk_scores")),
    )
    op.create_table(
        "standings",
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("pareto_frontier", pg.JSONB(), nullable=False),
        sa.Column("prizes", pg.JSONB(), nullable=False),
        sa.Column("points", pg.JSONB(), nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_standings_cycle_id_cycles")),
        sa.PrimaryKeyConstraint("cycle_id", name=op.f("pk_standings")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", pg.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Integer(), nullable=False),
        sa.Column("hotkey", sa.Text(), nullable=False),
        sa.Column("repo", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("env_id", sa.Text(), nullable=False),
        sa.Column("episode_index", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("policy_seed", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "not_before", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("lease_token", pg.UUID(), nullable=True),
        sa.Column("executor_id", sa.Text(), nullable=True),
        sa.Column("leased_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lease_expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("started", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("avoid_executor", sa.Text(), nullable=True),
        sa.Column("avoid_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("status in ('pending', 'assigned', 'completed', 'failed')", name=op.f("ck_tasks_status")),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_tasks_cycle_id_cycles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("cycle_id", "uid", "env_id", "episode_index", name="uq_tasks_episode"),
    )
    op.create_index(
        "ix_tasks_leases", "tasks", ["lease_expires_at"], unique=False, postgresql_where=sa.text("status = 'assigned'")
    )
    op.create_index(
        "ix_tasks_pending",
        "tasks",
        ["cycle_id", "position"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "weights",
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column(
            "published_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("weights", pg.JSONB(), nullable=False),
        sa.Column("u16_uids", pg.JSONB(), nullable=False),
        sa.Column("u16_values", pg.JSONB(), nullable=False),
        sa.Column("hotkeys", pg.JSONB(), nullable=False),
        sa.Column("netuid", sa.Integer(), nullable=False),
        sa.Column("genesis", sa.Text(), nullable=False),
        sa.Column("expires_at_block", sa.BigInteger(), nullable=False),
        sa.Column("notes", pg.JSONB(), nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_weights_cycle_id_cycles")),
        sa.PrimaryKeyConstraint("cycle_id", name=op.f("pk_weights")),
    )
    op.create_index(op.f("ix_weights_block_number"), "weights", ["block_number"], unique=False)
    op.create_table(
        "reports",
        sa.Column("lease_token", pg.UUID(), nullable=False),
        sa.Column("task_id", pg.UUID(), nullable=False),
        sa.Column("executor_id", sa.Text(), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("error_kind", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "received_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_reports_task_id_tasks")),
        sa.PrimaryKeyConstraint("lease_token", name=op.f("pk_reports")),
    )
    op.create_index(op.f("ix_reports_task_id"), "reports", ["task_id"], unique=False)
    op.create_table(
        "verdicts",
        sa.Column("task_id", pg.UUID(), nullable=False),
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Integer(), nullable=False),
        sa.Column("env_id", sa.Text(), nullable=False),
        sa.Column("episode_index", sa.Integer(), nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("total_reward", sa.Float(), nullable=False),
        sa.Column("timesteps", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_kind", sa.Text(), nullable=True),
        sa.Column("trace_digest", sa.Text(), nullable=True),
        sa.Column("tree_digest", sa.Text(), nullable=True),
        sa.Column("image_digest", sa.Text(), nullable=True),
        sa.Column("policy_seconds", sa.Float(), nullable=True),
        sa.Column("executor_id", sa.Text(), nullable=True),
        sa.Column(
            "decided_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("error_kind is null or error_kind = 'policy'", name=op.f("ck_verdicts_error_kind")),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_verdicts_cycle_id_cycles")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_verdicts_task_id_tasks")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_verdicts")),
    )
    op.create_index(
        "ix_verdicts_miner", "verdicts", ["cycle_id", "uid"], unique=False, postgresql_include=["policy_seconds"]
    )

"""Audits: verdicts that another executor checks, and what follows for one that is contradicted."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")
_TIMESTAMP = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "audits",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("task_id", pg.UUID(), nullable=False),
        sa.Column("hotkey", sa.Text(), nullable=False),
        sa.Column("executor_id", sa.Text(), nullable=False),
        sa.Column("other_id", sa.Text(), nullable=True),
        sa.Column("contradicted", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("is_moot", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("opened_at", _TIMESTAMP, server_default=_NOW, nullable=False),
        sa.Column("closed_at", _TIMESTAMP, nullable=True),
        sa.CheckConstraint(
            "state in ('open', 'agreed', 'contradicted', 'void', 'undecided', 'lapsed')", name=op.f("ck_audits_state")
        ),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_audits_cycle_id_cycles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audits")),
    )
    op.create_index("uq_audits_verdict", "audits", ["task_id"], unique=True, postgresql_where=sa.text("not is_moot"))
    op.create_index("ix_audits_cycle", "audits", ["cycle_id"])
    op.create_index(
        "ix_audits_contradicted", "audits", ["closed_at"], postgresql_where=sa.text("state = 'contradicted'")
    )
    op.add_column("tasks", sa.Column("is_drawn", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("tasks", sa.Column("audit_id", sa.BigInteger(), nullable=True))
    op.add_column("tasks", sa.Column("barred", pg.ARRAY(sa.Text()), nullable=True))
    op.add_column("tasks", sa.Column("only_executor", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_tasks_audit_id_audits"), "tasks", "audits", ["audit_id"], ["id"])
    op.drop_constraint("uq_tasks_episode", "tasks", type_="unique")
    op.create_index(
        "uq_tasks_episode",
        "tasks",
        ["cycle_id", "uid", "env_id", "episode_index"],
        unique=True,
        postgresql_where=sa.text("audit_id is null"),
    )
    op.create_index("ix_tasks_drawn", "tasks", ["cycle_id"], postgresql_where=sa.text("is_drawn"))
    op.create_index("ix_tasks_audit", "tasks", ["audit_id"], postgresql_where=sa.text("audit_id is not null"))
    op.create_table(
        "withdrawn_verdicts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("task_id", pg.UUID(), nullable=False),
        sa.Column("executor_id", sa.Text(), nullable=True),
        sa.Column("verdict", pg.JSONB(), nullable=False),
        sa.Column("record", pg.JSONB(), nullable=True),
        sa.Column("withdrawn_at", _TIMESTAMP, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_withdrawn_verdicts_task_id_tasks")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_withdrawn_verdicts")),
    )
    op.create_index(op.f("ix_withdrawn_verdicts_task_id"), "withdrawn_verdicts", ["task_id"])
    op.create_table(
        "audit_runs",
        sa.Column("task_id", pg.UUID(), nullable=False),
        sa.Column("audit_id", sa.BigInteger(), nullable=False),
        sa.Column("executor_id", sa.Text(), nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("total_reward", sa.Float(), nullable=False),
        sa.Column("timesteps", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("trace_digest", sa.Text(), nullable=True),
        sa.Column("tree_digest", sa.Text(), nullable=True),
        sa.Column("image_digest", sa.Text(), nullable=True),
        sa.Column("conditions", sa.LargeBinary(), nullable=True),
        sa.Column("decided_at", _TIMESTAMP, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audits.id"], name=op.f("fk_audit_runs_audit_id_audits")),
        sa.ForeignKeyConstraint(
            ["conditions"], ["conditions.digest"], name=op.f("fk_audit_runs_conditions_conditions")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_audit_runs_task_id_tasks")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_audit_runs")),
    )
    op.create_index(op.f("ix_audit_runs_audit_id"), "audit_runs", ["audit_id"])
    op.create_table(
        "unsteady_policies",
        sa.Column("repo_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("audit_id", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", _TIMESTAMP, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audits.id"], name=op.f("fk_unsteady_policies_audit_id_audits")),
        sa.PrimaryKeyConstraint("repo_key", "revision", name=op.f("pk_unsteady_policies")),
    )
    op.create_table(
        "quarantines",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("executor_id", sa.Text(), nullable=False),
        sa.Column("hotkey", sa.Text(), nullable=True),
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("withdrawn", sa.Integer(), server_default="0", nullable=False),
        sa.Column("since", _TIMESTAMP, server_default=_NOW, nullable=False),
        sa.Column("lifted_at", _TIMESTAMP, nullable=True),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_quarantines_cycle_id_cycles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantines")),
    )
    op.create_index(
        "uq_quarantines_active",
        "quarantines",
        ["executor_id", sa.text("coalesce(hotkey, '')")],
        unique=True,
        postgresql_where=sa.text("lifted_at is null"),
    )

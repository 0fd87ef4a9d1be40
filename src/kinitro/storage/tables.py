"""The schema. `tasks` and `executors` are working state; everything money depends on is written once.

`migrations/` brings a database here; a test proves that both agree.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

NOW = sa.func.clock_timestamp()
TIMESTAMP = sa.TIMESTAMP(timezone=True)


ledgers = sa.Table(
    "ledgers",
    metadata,
    # One row at most: a database belongs to one subnet of one chain for ever.
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("genesis", sa.Text, nullable=False),
    sa.Column("netuid", sa.Integer, nullable=False),
    sa.CheckConstraint("singleton", name="one_row"),
)

submissions = sa.Table(
    "submissions",
    metadata,
    # A (hotkey, repo, revision) from the first block at which it was seen. `repo_key` is the lower-case repo.
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("hotkey", sa.Text, nullable=False),
    sa.Column("repo", sa.Text, nullable=False),
    sa.Column("repo_key", sa.Text, nullable=False),
    sa.Column("revision", sa.Text, nullable=False),
    sa.Column("first_seen_block", sa.BigInteger, nullable=False),
    sa.Column("first_seen_uid", sa.Integer, nullable=False),
    sa.UniqueConstraint("hotkey", "repo_key", "revision", name="uq_submissions_policy"),
)

places = sa.Table(
    "places",
    metadata,
    # Serial numbers in the line of challengers, given once, never reused (contracts section 8).
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("submission_id", sa.Integer, sa.ForeignKey("submissions.id"), nullable=False, unique=True),
)

owners = sa.Table(
    "owners",
    metadata,
    # Which hotkey a (repo, revision) says it belongs to, as the hub answered; null when it names none.
    sa.Column("repo_key", sa.Text, primary_key=True),
    sa.Column("revision", sa.Text, primary_key=True),
    sa.Column("hotkey", sa.Text),
    sa.Column("recorded_at", TIMESTAMP, nullable=False, server_default=NOW),
)

turned_away = sa.Table(
    "turned_away",
    metadata,
    # Working state: who could not take part when the scheduler last looked at the chain, for /v1/miners.
    sa.Column("uid", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("hotkey", sa.Text, nullable=False),
    sa.Column("repo", sa.Text),
    sa.Column("revision", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
)

cycles = sa.Table(
    "cycles",
    metadata,
    # Everything a cycle is judged by is frozen here when it is planned.
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("block_number", sa.BigInteger, nullable=False),
    sa.Column("netuid", sa.Integer, nullable=False),
    sa.Column("genesis", sa.Text, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("salt_sha256", sa.Text, nullable=False),
    sa.Column("target_block", sa.BigInteger, nullable=False),
    sa.Column("block_hash", sa.Text),
    sa.Column("episodes_per_env", sa.Integer, nullable=False),
    sa.Column("environments", pg.JSONB, nullable=False),  # [{"env_id", "version"}], in order
    sa.Column("rule", pg.JSONB, nullable=False),
    sa.Column("miner_time_budget_s", sa.Float, nullable=False),
    sa.Column("timeout_s", sa.Float, nullable=False),
    sa.Column("task_max_attempts", sa.Integer, nullable=False),
    sa.Column("active_s", sa.Float, nullable=False, server_default="0"),  # time a scheduler was up for it
    sa.Column("n_miners", sa.Integer, nullable=False),
    sa.Column("started_at", TIMESTAMP, nullable=False, server_default=NOW),
    sa.Column("completed_at", TIMESTAMP),
    sa.Column("failure_reason", sa.Text),
    sa.CheckConstraint("status in ('pending', 'running', 'completed', 'failed')", name="status"),
    # At most one cycle is open.
    sa.Index(
        "uq_cycles_open", sa.text("(true)"), unique=True, postgresql_where=sa.text("status in ('pending', 'running')")
    ),
)

cycle_miners = sa.Table(
    "cycle_miners",
    metadata,
    # Every registered hotkey with a commitment at the cycle's block, evaluated or not, and why.
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), primary_key=True),
    sa.Column("uid", sa.Integer, primary_key=True),
    sa.Column("hotkey", sa.Text, nullable=False),
    sa.Column("submission_id", sa.Integer, sa.ForeignKey("submissions.id")),  # null when the text is not readable
    sa.Column("repo", sa.Text),
    sa.Column("revision", sa.Text),
    sa.Column("committed_block", sa.BigInteger, nullable=False),
    sa.Column("place", sa.Integer),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    # A submission's latest evaluation, for /v1/miners, without reading every cycle.
    sa.Index("ix_cycle_miners_submission", "submission_id", "cycle_id"),
)

audits = sa.Table(
    "audits",
    metadata,
    # One check of the verdict of one task, from its first other run to what came out. `executor_id` gave the verdict,
    # `other_id` ran it next; `contradicted` is the one of both against whom a third decided.
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), nullable=False),
    sa.Column("task_id", pg.UUID(as_uuid=True), nullable=False),  # no foreign key: tasks refer to audits
    sa.Column("hotkey", sa.Text, nullable=False),
    sa.Column("executor_id", sa.Text, nullable=False),
    sa.Column("other_id", sa.Text),
    sa.Column("contradicted", sa.Text),
    sa.Column("state", sa.Text, nullable=False, server_default="open"),
    sa.Column("is_moot", sa.Boolean, nullable=False, server_default=sa.false()),  # its verdict was withdrawn
    sa.Column("opened_at", TIMESTAMP, nullable=False, server_default=NOW),
    sa.Column("closed_at", TIMESTAMP),
    sa.CheckConstraint("state in ('open', 'agreed', 'contradicted', 'void', 'undecided', 'lapsed')", name="state"),
    sa.Index("uq_audits_verdict", "task_id", unique=True, postgresql_where=sa.text("not is_moot")),
    sa.Index("ix_audits_cycle", "cycle_id"),
    sa.Index("ix_audits_contradicted", "closed_at", postgresql_where=sa.text("state = 'contradicted'")),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", pg.UUID(as_uuid=True), primary_key=True, server_default=sa.text("gen_random_uuid()")),
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),  # the order in which tasks are handed out
    sa.Column("uid", sa.Integer, nullable=False),
    sa.Column("hotkey", sa.Text, nullable=False),
    sa.Column("repo", sa.Text, nullable=False),
    sa.Column("revision", sa.Text, nullable=False),
    sa.Column("env_id", sa.Text, nullable=False),
    sa.Column("episode_index", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("policy_seed", sa.BigInteger, nullable=False),
    sa.Column("created_at", TIMESTAMP, nullable=False, server_default=NOW),
    sa.Column("status", sa.Text, nullable=False, server_default="pending"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("not_before", TIMESTAMP, nullable=False, server_default=NOW),
    # The latest lease. Kept after it ended, so that a late result can be told from a lost one.
    sa.Column("lease_token", pg.UUID(as_uuid=True)),
    sa.Column("executor_id", sa.Text),
    sa.Column("leased_at", TIMESTAMP),
    sa.Column("lease_expires_at", TIMESTAMP),
    sa.Column("started", sa.Boolean, nullable=False, server_default=sa.false()),
    # Until then only other executors get it.
    sa.Column("avoid_executor", sa.Text),
    sa.Column("avoid_until", TIMESTAMP),
    sa.Column("last_error", sa.Text),
    # Drawn from the salt at planning, told to nobody: this episode's verdict will be checked by another run.
    sa.Column("is_drawn", sa.Boolean, nullable=False, server_default=sa.false()),
    # A run of an audit. It is no episode of the cycle: everything that counts leaves it out.
    sa.Column("audit_id", sa.BigInteger, sa.ForeignKey("audits.id")),
    sa.Column("barred", pg.ARRAY(sa.Text)),  # executors that never get it
    sa.Column("only_executor", sa.Text),  # the one that gets it
    sa.CheckConstraint("status in ('pending', 'assigned', 'completed', 'failed')", name="status"),
    sa.Index(
        "uq_tasks_episode",
        *("cycle_id", "uid", "env_id", "episode_index"),
        unique=True,
        postgresql_where=sa.text("audit_id is null"),
    ),
    sa.Index("ix_tasks_drawn", "cycle_id", postgresql_where=sa.text("is_drawn")),
    sa.Index("ix_tasks_audit", "audit_id", postgresql_where=sa.text("audit_id is not null")),
    sa.Index("ix_tasks_pending", "cycle_id", "position", postgresql_where=sa.text("status = 'pending'")),
    sa.Index("ix_tasks_leases", "lease_expires_at", postgresql_where=sa.text("status = 'assigned'")),
)

reports = sa.Table(
    "reports",
    metadata,
    # Every result that was taken, verdict or infrastructure fault, by the lease it came under. Append-only.
    sa.Column("lease_token", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("task_id", pg.UUID(as_uuid=True), sa.ForeignKey("tasks.id"), nullable=False, index=True),
    sa.Column("executor_id", sa.Text, nullable=False),
    sa.Column("content_sha256", sa.LargeBinary, nullable=False),
    sa.Column("error_kind", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("received_at", TIMESTAMP, nullable=False, server_default=NOW),
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    # The one verdict of a task: an episode that ran, or a policy's time budget that ran out. Append-only.
    sa.Column("task_id", pg.UUID(as_uuid=True), sa.ForeignKey("tasks.id"), primary_key=True),
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), nullable=False),
    sa.Column("uid", sa.Integer, nullable=False),
    sa.Column("env_id", sa.Text, nullable=False),
    sa.Column("episode_index", sa.Integer, nullable=False),
    sa.Column("success", sa.Boolean, nullable=False),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("total_reward", sa.Float, nullable=False),
    sa.Column("timesteps", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("error_kind", sa.Text),
    sa.Column("trace_digest", sa.Text),
    sa.Column("tree_digest", sa.Text),
    sa.Column("image_digest", sa.Text),
    sa.Column("policy_seconds", sa.Float),
    sa.Column("executor_id", sa.Text),  # null when no executor ran it (time budget)
    sa.Column("decided_at", TIMESTAMP, nullable=False, server_default=NOW),
    sa.CheckConstraint("error_kind is null or error_kind = 'policy'", name="error_kind"),
    # A miner's time in a cycle is summed at each submit, from the index alone.
    sa.Index("ix_verdicts_miner", "cycle_id", "uid", postgresql_include=["policy_seconds"]),
)

file_claims = sa.Table(
    "file_claims",
    metadata,
    # What each executor said a miner's files are: equal ones are copies, when it is agreed. Of a policy's latest cycle.
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), primary_key=True),
    sa.Column("uid", sa.Integer, primary_key=True),
    sa.Column("executor_id", sa.Text, primary_key=True),
    sa.Column("tree_digest", sa.Text, primary_key=True),
    sa.Column("hotkey", sa.Text, nullable=False),
    sa.Column("repo_key", sa.Text, nullable=False),
    sa.Column("revision", sa.Text, nullable=False),
    sa.Index("ix_file_claims_policy", "repo_key", "revision", "cycle_id"),
)

conditions = sa.Table(
    "conditions",
    metadata,
    # What episodes ran under, each different one once, by the SHA-256 of its JSON. Append-only.
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("document", pg.JSONB, nullable=False),
)

records = sa.Table(
    "records",
    metadata,
    # What a replay needs of an episode that ran. Append-only, but that `steps` go after a while.
    sa.Column("task_id", pg.UUID(as_uuid=True), sa.ForeignKey("verdicts.task_id"), primary_key=True),
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), nullable=False),
    sa.Column("conditions", sa.LargeBinary, sa.ForeignKey("conditions.digest"), nullable=False),
    sa.Column("error_code", sa.Text),
    sa.Column("facts", pg.JSONB, nullable=False),
    sa.Column("steps", sa.LargeBinary),  # compressed (environments.trace)
    sa.Column("steps_url", sa.Text),
    sa.Column("steps_sha256", sa.Text),
    sa.Index("ix_records_steps", "cycle_id", postgresql_where=sa.text("steps is not null")),
)

withdrawn_verdicts = sa.Table(
    "withdrawn_verdicts",
    metadata,
    # Verdicts that count no more, as they were; their tasks were run again. Append-only.
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("task_id", pg.UUID(as_uuid=True), sa.ForeignKey("tasks.id"), nullable=False, index=True),
    sa.Column("executor_id", sa.Text),
    sa.Column("verdict", pg.JSONB, nullable=False),
    sa.Column("record", pg.JSONB),  # without its steps
    sa.Column("withdrawn_at", TIMESTAMP, nullable=False, server_default=NOW),
)

audit_runs = sa.Table(
    "audit_runs",
    metadata,
    # What the further runs of an audit came to; never counted as an episode. Append-only.
    sa.Column("task_id", pg.UUID(as_uuid=True), sa.ForeignKey("tasks.id"), primary_key=True),
    sa.Column("audit_id", sa.BigInteger, sa.ForeignKey("audits.id"), nullable=False, index=True),
    sa.Column("executor_id", sa.Text, nullable=False),
    sa.Column("success", sa.Boolean, nullable=False),
    sa.Column("total_reward", sa.Float, nullable=False),
    sa.Column("timesteps", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("trace_digest", sa.Text),
    sa.Column("tree_digest", sa.Text),
    sa.Column("image_digest", sa.Text),
    sa.Column("conditions", sa.LargeBinary, sa.ForeignKey("conditions.digest")),
    sa.Column("decided_at", TIMESTAMP, nullable=False, server_default=NOW),
)

unsteady_policies = sa.Table(
    "unsteady_policies",
    metadata,
    # Policies of which one executor saw two different runs under one seed.
    sa.Column("repo_key", sa.Text, primary_key=True),
    sa.Column("revision", sa.Text, primary_key=True),
    sa.Column("audit_id", sa.BigInteger, sa.ForeignKey("audits.id"), nullable=False),
    sa.Column("recorded_at", TIMESTAMP, nullable=False, server_default=NOW),
)

quarantines = sa.Table(
    "quarantines",
    metadata,
    # An executor that gets no more tasks, or none of one miner's, until an operator lifts it.
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("executor_id", sa.Text, nullable=False),
    sa.Column("hotkey", sa.Text),  # null: every miner's
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("withdrawn", sa.Integer, nullable=False, server_default="0"),  # verdicts
    sa.Column("since", TIMESTAMP, nullable=False, server_default=NOW),
    sa.Column("lifted_at", TIMESTAMP),
    sa.Index(
        "uq_quarantines_active",
        "executor_id",
        sa.text("coalesce(hotkey, '')"),
        unique=True,
        postgresql_where=sa.text("lifted_at is null"),
    ),
)

outcome_bits = sa.Table(
    "outcome_bits",
    metadata,
    # A completed cycle's outcomes, packed: the evidence later cycles build on (index i: bit i mod 8 of byte i div 8).
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), primary_key=True),
    sa.Column("submission_id", sa.Integer, sa.ForeignKey("submissions.id"), primary_key=True),
    sa.Column("env_id", sa.Text, primary_key=True),
    sa.Column("env_version", sa.Text, nullable=False),
    sa.Column("episodes", sa.Integer, nullable=False),
    sa.Column("evaluated", sa.LargeBinary, nullable=False),
    sa.Column("success", sa.LargeBinary, nullable=False),
)

scores = sa.Table(
    "scores",
    metadata,
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), primary_key=True),
    sa.Column("uid", sa.Integer, primary_key=True),
    sa.Column("env_id", sa.Text, primary_key=True),
    sa.Column("hotkey", sa.Text, nullable=False),
    sa.Column("success_rate", sa.Float, nullable=False),
    sa.Column("mean_reward", sa.Float, nullable=False),
    sa.Column("episodes_completed", sa.Integer, nullable=False),
    sa.Column("episodes_failed", sa.Integer, nullable=False),
    sa.Column("wilson_low", sa.Float, nullable=False),
    sa.Column("wilson_high", sa.Float, nullable=False),
)

standings = sa.Table(
    "standings",
    metadata,
    # One row a completed cycle: who holds what, and who is on the frontier.
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), primary_key=True),
    sa.Column("pareto_frontier", pg.JSONB, nullable=False),
    sa.Column("prizes", pg.JSONB, nullable=False),
    sa.Column("points", pg.JSONB, nullable=False),
)

weights = sa.Table(
    "weights",
    metadata,
    sa.Column("cycle_id", sa.Integer, sa.ForeignKey("cycles.id"), primary_key=True),
    sa.Column("block_number", sa.BigInteger, nullable=False, index=True),
    sa.Column("published_at", TIMESTAMP, nullable=False, server_default=NOW),
    sa.Column("weights", pg.JSONB, nullable=False),
    sa.Column("u16_uids", pg.JSONB, nullable=False),
    sa.Column("u16_values", pg.JSONB, nullable=False),
    sa.Column("hotkeys", pg.JSONB, nullable=False),
    sa.Column("netuid", sa.Integer, nullable=False),
    sa.Column("genesis", sa.Text, nullable=False),
    sa.Column("expires_at_block", sa.BigInteger, nullable=False),
    sa.Column("notes", pg.JSONB, nullable=False),
)

executors = sa.Table(
    "executors",
    metadata,
    sa.Column("executor_id", sa.Text, primary_key=True),
    sa.Column("last_seen_at", TIMESTAMP, nullable=False, server_default=NOW),
    sa.Column("env_ids", pg.JSONB),  # null: serves everything
    sa.Column("lost_at", TIMESTAMP),  # when it last let a lease run out
)

# A view: those that can be counted on now. Who is killed with leases in hand is gone with the first that runs out, who
# had none when it was not heard of for two minutes.
present_executors = sa.table("present_executors", sa.column("executor_id", sa.Text), sa.column("env_ids", pg.JSONB))

notices = sa.Table(
    "notices",
    metadata,
    # What the scheduler presently waits for or could not do, one sentence a topic, for /v1/status.
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("since", TIMESTAMP, nullable=False, server_default=NOW),
)

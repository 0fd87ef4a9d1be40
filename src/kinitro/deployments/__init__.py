"""From `(repo, revision)` to a policy server that answers: snapshots, and the servers made of them."""

from kinitro.deployments.cache import Snapshot
from kinitro.deployments.manager import DeploymentManager
from kinitro.deployments.snapshots import SnapshotSource, SnapshotStore
from kinitro.deployments.starts import Deployment, DeploymentSettings
from kinitro.deployments.trees import tree_digest

__all__ = [
    "Deployment",
    "DeploymentManager",
    "DeploymentSettings",
    "Snapshot",
    "SnapshotSource",
    "SnapshotStore",
    "tree_digest",
]

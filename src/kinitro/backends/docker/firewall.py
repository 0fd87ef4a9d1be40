"""The rule that keeps containers off this host.

An internal network keeps its containers from the outside and from other networks, but the host itself is one of the
network's members: every service that listens on 0.0.0.0 answers them. One rule in the INPUT chain for each run drops
whatever a container of the run begins; answers to what the host began pass. A one-shot container with the host's
network installs it, so that the executor needs no root, only the docker group.
"""

from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.settings import RUN_LABEL, DockerSettings, bridge_prefix
from kinitro.errors import InfrastructureError

_TIMEOUT_S = 60.0
_INSTALL = """
for table in iptables ip6tables; do
    for kind in "$table" "$table-legacy"; do
        # First of all rules, or one that accepts may come before it.
        $kind -w 5 -S INPUT 1 2>/dev/null | grep -qF -- "-i $BRIDGES " && break
        $kind -w 5 -I INPUT 1 $RULE && break
    done
done
iptables -w 5 -C INPUT $RULE || iptables-legacy -w 5 -C INPUT $RULE
"""
_REMOVE = """
for kind in iptables iptables-legacy ip6tables ip6tables-legacy; do
    while $kind -w 5 -D INPUT $RULE 2>/dev/null; do :; done
done
"""


def install(engine: Engine, settings: DockerSettings, run: str) -> None:
    """Installs the run's rule, or puts it back into the first place.

    `InfrastructureError` (`firewall`) when it can't.
    """
    code, output = _helper(engine, settings, run, _INSTALL)
    if code != 0:
        raise InfrastructureError(
            f"The firewall rule that keeps policies off this host can't be installed: {output.strip()[-500:]}",
            code="firewall",
            advice="The engine must be able to run a container with --network host and --cap-add NET_ADMIN, and its "
            "host must have iptables in the kernel.",
        )


def remove(engine: Engine, settings: DockerSettings, run: str) -> None:
    """Removes the run's rule, if there is one and the helper's image is still here."""
    from docker.errors import ImageNotFound

    try:
        _helper(engine, settings, run, _REMOVE)
    except ImageNotFound:
        return


def _helper(engine: Engine, settings: DockerSettings, run: str, script: str) -> tuple[int, str]:
    bridges = f"{bridge_prefix(run)}+"
    rule = f"-i {bridges} -m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP"
    return engine.run_to_end(
        settings.image,
        ["sh", "-c", script],
        _TIMEOUT_S,
        user="0:0",
        network_mode="host",
        cap_drop=["ALL"],
        cap_add=["NET_ADMIN", "NET_RAW"],
        environment={"RULE": rule, "BRIDGES": bridges},
        labels={RUN_LABEL: run},
        working_dir="/",
        tmpfs={"/run": "size=1m"},
        read_only=True,
    )

from kinitro.api.metrics import Metrics
from kinitro.schemas import DeploymentUsage

USAGE = {"policy": DeploymentUsage(created=3, alive=1, seconds=60.0)}


def test_an_executor_that_is_silent_is_forgotten_with_its_deployments() -> None:
    now = [0.0]
    metrics = Metrics(clock=lambda: now[0])
    metrics.note_usage("gone", USAGE)
    now[0] = 200.0
    metrics.note_usage("here", USAGE)
    metrics.note_usage("silent", None)
    now[0] = 400.0
    text = metrics.expose(None).decode()
    assert 'executor="here"' in text
    assert 'executor="gone"' not in text
    assert 'executor="silent"' not in text


def test_no_number_of_executors_makes_the_metrics_endless() -> None:
    metrics = Metrics()
    for number in range(1500):
        metrics.note_usage(f"executor-{number}", USAGE)
    assert metrics.expose(None).decode().count("kinitro_deployments_alive{") == 1000

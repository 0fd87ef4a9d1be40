import pytest

from kinitro.errors import ConfigurationError
from kinitro.executor.stage import docker_hosts
from kinitro.settings import ExecutorSettings


def test_hosts_come_as_a_json_list_and_each_gets_its_own_settings(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path))
    monkeypatch.setenv("KINITRO_EXECUTOR_EVAL_HOSTS", '["localhost", "ssh://kinitro@sim-2.example:2222"]')
    here, there = docker_hosts(ExecutorSettings.load())
    assert (here.host, there.host) == ("localhost", "ssh://kinitro@sim-2.example:2222")
    assert here.runs != there.runs


@pytest.mark.parametrize(
    "value",
    ["localhost", "[]", '["tcp://1.2.3.4:2375"]', '["localhost", "localhost"]', '["ssh://-oProxyCommand=x@h"]',
     '["ssh://user@-oProxyCommand=x"]', '["ssh://host"]', "[1]"],
)  # fmt: skip
def test_anything_that_is_no_list_of_docker_hosts_is_refused_with_an_example(monkeypatch, value) -> None:
    monkeypatch.setenv("KINITRO_EXECUTOR_EVAL_HOSTS", value)
    with pytest.raises(ConfigurationError, match=r'"ssh://user@host".*KINITRO_EXECUTOR_EVAL_HOSTS'):
        ExecutorSettings.load()

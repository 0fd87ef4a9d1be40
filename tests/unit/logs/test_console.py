import pytest
import structlog

from kinitro.logs import configure_logging, get_logger


@pytest.fixture(autouse=True)
def unconfigured():
    yield
    structlog.reset_defaults()


def test_a_line_reads_as_it_was_written_what_happened_first_and_where_last(capsys) -> None:
    configure_logging()
    get_logger("scheduler").info("tasks_created", total_tasks=16, cycle_id=1)
    assert capsys.readouterr().err.endswith("tasks_created            total_tasks=16 cycle_id=1 part=scheduler\n")

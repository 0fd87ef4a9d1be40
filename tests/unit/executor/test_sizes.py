import pytest

from kinitro.errors import ConfigurationError
from kinitro.executor.sizes import docker_size, kubernetes_size, parse_size

VARIABLE = "KINITRO_EXECUTOR_EVAL_MEM_LIMIT"


@pytest.mark.parametrize(
    ("text", "size"), [("4Gi", 4 * 2**30), ("8g", 8 * 2**30), ("512Mi", 2**29), ("1.5G", 3 * 2**29), ("1024", 1024)]
)
def test_sizes_are_read_as_docker_and_kubernetes_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4 apples", "-1g", "g", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    for read in (parse_size, lambda text: docker_size(text, VARIABLE), lambda text: kubernetes_size(text, VARIABLE)):
        with pytest.raises(ConfigurationError, match="is not a size"):
            read(text)


@pytest.mark.parametrize("text", ["8g", "8G", "8gb", "512m", "1.5g", "1073741824"])
def test_docker_mode_takes_dockers_way(text: str) -> None:
    assert docker_size(text, VARIABLE) == parse_size(text)


@pytest.mark.parametrize("text", ["8Gi", "512Mi", "1.5Gi", "1024Ki"])
def test_basilica_mode_takes_kubernetes_way(text: str) -> None:
    assert kubernetes_size(text, VARIABLE) == parse_size(text)


@pytest.mark.parametrize(("wrong", "right"), [("8Gi", "8g"), ("512Mi", "512m"), ("1.5gib", "1.5g")])
def test_docker_mode_says_how_the_other_spelling_is_right(wrong: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match=f"in Docker mode.*Set {VARIABLE}={right}\\."):
        docker_size(wrong, VARIABLE)


@pytest.mark.parametrize(
    ("wrong", "right"), [("8g", "8Gi"), ("8G", "8Gi"), ("512m", "512Mi"), ("1.5g", "1.5Gi"), ("8gi", "8Gi")]
)
def test_basilica_mode_says_how_the_other_spelling_is_right(wrong: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match=f"in Basilica mode.*Set {VARIABLE}={right}\\."):
        kubernetes_size(wrong, VARIABLE)

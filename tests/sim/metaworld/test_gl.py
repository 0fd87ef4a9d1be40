"""Finding a way to draw: forced, missing, or broken, it is said in one line."""

import pytest

from kinitro.environments import gl
from kinitro.errors import ConfigurationError, EnvironmentFault


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not drawn anything yet."""
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    monkeypatch.delenv("KINITRO_GL", raising=False)


def test_an_unknown_forced_library_is_refused_with_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINITRO_GL", "vulkan")
    with pytest.raises(ConfigurationError, match=r"KINITRO_GL=vulkan.*egl or osmesa"):
        gl.context_class()


def test_a_library_that_is_missing_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINITRO_GL", "osmesa")
    monkeypatch.setattr(gl, "_PROBE", "raise ImportError('no libOSMesa.so here')")
    with pytest.raises(EnvironmentFault, match=r"no libOSMesa.so here.*apt-get install -y libosmesa6") as caught:
        gl.context_class()
    assert caught.value.code == "gl_missing"


def test_a_driver_that_hangs_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(gl, "PROBE_TIMEOUT_S", 0.3)
    assert gl.probe("egl") == "no picture within 0.3 s"


def test_a_driver_that_crashes_takes_only_the_probe_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl, "_PROBE", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert gl.probe("egl") == "it crashed (signal 11)"


def test_at_least_one_library_draws_here() -> None:
    assert any(gl.probe(backend) is None for backend in gl.BACKENDS)

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from kinitro.deployments.requirements import read_requirements
from kinitro.errors import ConfigurationError
from kinitro.miner.lock import lock_requirements


def wheel(folder: Path, name: str, version: str, *requires: str) -> str:
    """Writes a tiny wheel and returns its SHA-256."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {name}\n" for name in requires)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(params=["uv", "pip"])
def tool(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A locker that finds packages in the folder `wheels` only."""
    found = shutil.which(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not installed here")
    monkeypatch.setattr(shutil, "which", lambda name: found if name == request.param else None)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for prefix in ("UV", "PIP"):
        monkeypatch.setenv(f"{prefix}_NO_INDEX", "1")
        monkeypatch.setenv(f"{prefix}_FIND_LINKS", str(wheels))
    return request.param


def test_locking_pins_all_that_is_needed_but_what_is_provided(tool: str, tmp_path: Path) -> None:
    digests = {
        "grasp_net": wheel(tmp_path / "wheels", "grasp_net", "1.2", "tensor_lite", "numpy"),
        "tensor_lite": wheel(tmp_path / "wheels", "tensor_lite", "0.3"),
    }
    wheel(tmp_path / "wheels", "numpy", "2.0")
    (tmp_path / "requirements.in").write_text("grasp_net\n")
    locked = lock_requirements(tmp_path)
    assert locked.tool == tool
    assert [(each.key, each.version, each.hashes) for each in read_requirements(tmp_path)] == [
        ("grasp-net", "1.2", (digests["grasp_net"],)),
        ("tensor-lite", "0.3", (digests["tensor_lite"],)),
    ]


def test_a_package_without_a_wheel_is_said_in_the_tools_own_words(tool: str, tmp_path: Path) -> None:
    (tmp_path / "requirements.in").write_text("nowhere-to-be-found\n")
    with pytest.raises(ConfigurationError, match="nowhere-to-be-found") as caught:
        lock_requirements(tmp_path)
    assert "requirements.in" in caught.value.advice
    assert not (tmp_path / "requirements.txt").exists()


def test_without_a_file_to_lock_or_a_tool_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"no requirements\.in"):
        lock_requirements(tmp_path)
    (tmp_path / "requirements.in").write_text("x\n")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigurationError, match="needs uv or pip") as caught:
        lock_requirements(tmp_path)
    assert caught.value.advice == "pip install uv"

"""The program of a policy's pod: fetches the policy, checks it as the executor does, installs its packages, serves it.

It uses the very code of the executor for that, packed into one archive with nothing but the standard library around it,
so that any image with a Python will do.
"""

import io
import zipfile
from pathlib import Path

import kinitro

_PACKAGE = Path(kinitro.__file__).parent
_MODULES = (
    *("errors.py", "types.py", "backends/installing.py", "backends/wheels.py", "backends/basilica/protocol.py"),
    *("deployments/trees.py", "deployments/limits.py", "deployments/listing.py", "deployments/requirements.py"),
    *("deployments/pod/main.py", "deployments/pod/prepare.py", "deployments/pod/download.py"),
    *("deployments/pod/front.py", "deployments/pod/replies.py"),
)
FOLDER = "folder/"
"""Where in the archive a policy's own files are, when no hub has them."""


def pod_program(folder: Path | None = None) -> bytes:
    """The program as a zip archive that Python can run; with the files of a policy's folder, if one is given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("__main__.py", "from kinitro.deployments.pod.main import main\n\nmain()\n")
        for module in _MODULES:
            archive.write(_PACKAGE / module, f"kinitro/{module}")
        for package in {parent for module in _MODULES for parent in Path("kinitro", module).parents} - {Path()}:
            archive.writestr(f"{package.as_posix()}/__init__.py", "")
        for path in sorted(folder.rglob("*")) if folder else ():
            if path.is_file():
                archive.write(path, FOLDER + path.relative_to(folder or path).as_posix())
    return buffer.getvalue()

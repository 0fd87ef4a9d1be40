"""An episode as an H.264 video: every camera at full quality, with step count, reward and verdict under them.

The one file that imports PyAV. The pictures are drawn in a simulator of their own that repeats the run's actions, so
that nothing which a policy sees or decides depends on whether anybody films it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinitro.environments import Environment
from kinitro.environments.base import Step
from kinitro.environments.preview import Pictured
from kinitro.environments.trace import Steps
from kinitro.errors import ConfigurationError, how_to_install
from kinitro.policy.messages import Image
from kinitro.replay.compare import Run
from kinitro.replay.recorded import Recorded
from kinitro.replay.resimulate import resimulate

STEPS_A_FRAME: Final = 2
FRAMES_A_SECOND: Final = 20
"""MetaWorld's control step is 12.5 ms: half its own speed."""
_REST_FRAMES: Final = 3 * FRAMES_A_SECOND
_BAR: Final = 64
_MARGIN: Final = 10
_TEXT: Final = (235, 235, 235)
_GOOD: Final = (46, 160, 67)
_BAD: Final = (200, 60, 50)
_ENCODER: Final = {"crf": "18", "preset": "medium"}


def film(recorded: Recorded, run: Run, path: Path) -> Run:
    """Writes the run, which must have steps, to `path` (.mp4) and returns what its actions came to here.

    Where that is not the run's own trace digest, this machine's simulator is not the one that it ran in, and the video
    shows only nearly what happened.

    Raises:
        ConfigurationError: the `video` extra or the simulator is not installed, no such folder, or no pictures.
        EnvironmentFault: no OpenGL library works, or the simulator failed.
    """
    assert run.steps is not None
    with _projector(path) as projector:
        shown = _Captions(recorded, run, run.steps, projector)
        played = resimulate(recorded, run.steps, shown.watch)
        shown.finish()
    return played


def check_packages() -> None:
    """Raises `ConfigurationError` unless the `video` extra is installed."""
    try:
        import av  # noqa: F401, PLC0415 - only people who want videos need it
        import PIL  # noqa: F401, PLC0415 - likewise
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Videos need the Python package {error.name!r}, which is not installed.",
            advice=how_to_install("video"),
        ) from None


@contextmanager
def _projector(path: Path) -> "Iterator[_Projector]":
    """Writes beside `path` and renames at the end: nobody meets half a video."""
    check_packages()
    half = path.with_name(f".{path.name}.part")
    projector = _Projector(half)
    try:
        yield projector
        projector.close()
        half.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror or error}.") from error
    finally:
        projector.close()
        half.unlink(missing_ok=True)


class _Projector:
    """One MP4 file of H.264, made at its first frame."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container: Any = None  # PyAV's types differ from version to version
        self._stream: Any = None

    def show(self, frame: Image) -> None:
        """Adds a frame; both its sides must be even."""
        import av  # noqa: PLC0415 - optional

        if self._container is None:
            self._container = av.open(str(self._path), "w", format="mp4", options={"movflags": "faststart"})
            self._stream = self._container.add_stream("libx264", rate=FRAMES_A_SECOND, options=_ENCODER)
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def close(self) -> None:
        """Writes what is still in the encoder. Safe to call twice."""
        if self._container is not None:
            container, self._container = self._container, None
            container.mux(self._stream.encode())
            container.close()


class _Captions:
    """Turns each step into a frame: the cameras side by side, and a bar with what they don't show."""

    def __init__(self, recorded: Recorded, run: Run, steps: Steps, projector: _Projector) -> None:
        self._recorded = recorded
        self._run = run
        self._count = len(steps)
        self._projector = projector
        self._sum = 0.0
        self._last: Image | None = None

    def watch(self, environment: Environment, number: int, step: Step | None) -> None:
        """Draws the present state, at every second step and at the last."""
        reward = step.reward if step else 0.0
        self._sum += reward
        if number % STEPS_A_FRAME and number != self._count:
            return
        if not isinstance(environment, Pictured):
            raise ConfigurationError(f"{environment.spec.env_id} has no pictures to show.")
        views = [self._labelled(environment.picture(camera), camera) for camera in environment.spec.cameras]
        self._last = np.hstack(views)
        line = f"step {number} of {self._count}    reward {reward:+.3f}    sum {self._sum:+.2f}"
        self._projector.show(self._with_bar(self._last, line, None))

    def finish(self) -> None:
        """Rests on the last state, with the verdict."""
        assert self._last is not None
        run = self._run
        line = f"{run.timesteps} steps    sum of rewards {run.total_reward:+.2f}"
        frame = self._with_bar(self._last, line, run.verdict)
        for _ in range(_REST_FRAMES):
            self._projector.show(frame)

    def _labelled(self, view: Image, camera: str) -> Image:
        from PIL import Image as Pillow  # noqa: PLC0415 - optional
        from PIL import ImageDraw, ImageFont  # noqa: PLC0415 - optional

        picture = Pillow.fromarray(view)
        ImageDraw.Draw(picture).text(
            (_MARGIN, _MARGIN),
            camera,
            fill=_TEXT,
            font=ImageFont.load_default(14),
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
        return np.asarray(picture)

    def _with_bar(self, views: Image, line: str, verdict: str | None) -> Image:
        from PIL import Image as Pillow  # noqa: PLC0415 - optional
        from PIL import ImageDraw, ImageFont  # noqa: PLC0415 - optional

        height, width = views.shape[:2]
        bar = Pillow.new("RGB", (width + width % 2, _BAR + height % 2), (24, 24, 28))
        draw, episode = ImageDraw.Draw(bar), self._recorded.out.episode
        title = f"{episode.env_id}    uid {episode.uid}    episode {episode.index}    {self._recorded.task_uuid}"
        draw.text((_MARGIN, 8), title, fill=_TEXT, font=ImageFont.load_default(13))
        draw.text((_MARGIN, 34), line, fill=_TEXT, font=ImageFont.load_default(17))
        if verdict is not None:
            font = ImageFont.load_default(19)
            wide = draw.textlength(verdict.upper(), font)
            left = bar.width - _MARGIN - wide
            colour = _GOOD if self._run.success else _BAD
            draw.rounded_rectangle((left - 10, 28, bar.width - 4, _BAR - 6), radius=6, fill=colour)
            draw.text((left - 2, 31), verdict.upper(), fill=(255, 255, 255), font=font)
        padded = np.zeros((height, bar.width, 3), np.uint8)
        padded[:, :width] = views
        return np.vstack([padded, np.asarray(bar)])

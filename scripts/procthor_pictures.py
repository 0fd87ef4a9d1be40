"""Makes docs/images/procthor-*.png: plans of houses, and what the stand-in draws along an episode."""

import tempfile
from pathlib import Path

from PIL import Image

from kinitro.environments.base import EnvironmentOptions
from kinitro.environments.procthor.plan import draw_plan
from kinitro.environments.procthor.tasks import draw_task
from kinitro.testing.procthor import build_on_stand_in, stand_in_specs

OUT = Path(__file__).parent.parent / "docs" / "images"
SEEDS = (0, 1, 2, 3, 4, 5)
EPISODE = 3
WIDTH = 560


def plans() -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for seed in SEEDS:
            draw_plan(draw_task(seed), Path(folder) / f"{seed}.png")
            picture = Image.open(Path(folder) / f"{seed}.png").convert("RGB")
            picture.thumbnail((WIDTH, WIDTH))
            made.append(picture)
    return sheet(made, columns=3)


def episode() -> Image.Image:
    environment = build_on_stand_in(stand_in_specs()[0], EnvironmentOptions())
    try:
        views = [environment.reset(EPISODE).rgb["ego"]]
        while len(views) < 200:
            step = environment.step(environment.expert_action())
            views.append(step.observation.rgb["ego"])
            if step.success:
                break
    finally:
        environment.close()
    chosen = [views[round(index * (len(views) - 1) / 7)] for index in range(8)]
    return sheet([Image.fromarray(view) for view in chosen], columns=4)


def sheet(pictures: list[Image.Image], columns: int) -> Image.Image:
    width, height = max(each.width for each in pictures), max(each.height for each in pictures)
    rows = -(-len(pictures) // columns)
    made = Image.new("RGB", (columns * width, rows * height), "white")
    for index, picture in enumerate(pictures):
        made.paste(picture, (index % columns * width, index // columns * height))
    return made


if __name__ == "__main__":
    for name, picture in (("houses", plans()), ("stand-in", episode())):
        picture.quantize(64, method=Image.Quantize.FASTOCTREE).save(OUT / f"procthor-{name}.png", optimize=True)

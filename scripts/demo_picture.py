"""Runs `kinitro demo` and saves what it shows as docs/images/demo.svg."""

import asyncio
import re
from pathlib import Path

from rich.console import Console

from kinitro.demo import DemoOptions, run_demo

OUTPUT = Path(__file__).parent.parent / "docs" / "images" / "demo.svg"


def main() -> None:
    console = Console(record=True, width=92, highlight=False)
    asyncio.run(run_demo(DemoOptions(), console))
    svg = console.export_svg(title="make demo")
    # The reader's own monospace font, fetched from nowhere.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(svg)


if __name__ == "__main__":
    main()

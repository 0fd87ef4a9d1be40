"""Seconds to draw a ProcTHOR house with its task, over many seeds: `python bench/houses.py [COUNT]`."""

import statistics
import sys
import time
from collections import Counter

from kinitro.environments.procthor.houses import digest
from kinitro.environments.procthor.tasks import draw_task

BUDGET_S = 0.2


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    seconds, types, rooms = [], Counter(), Counter()
    for seed in range(count):
        began = time.process_time()
        task = draw_task(seed)
        digest(task.document())
        seconds.append(time.process_time() - began)
        types[task.goal.task_type.value] += 1
        rooms[len(task.house.plan.rooms)] += 1
    ordered = sorted(seconds)
    print(f"{count} houses with task, document and digest; processor time, one core")
    print(f"  mean {statistics.mean(ordered) * 1000:.1f} ms, median {statistics.median(ordered) * 1000:.1f} ms")
    print(
        f"  99 % {ordered[int(0.99 * count)] * 1000:.1f} ms, "
        f"worst {ordered[-1] * 1000:.1f} ms (budget {BUDGET_S * 1000:.0f})"
    )
    print(f"  over the budget: {sum(each > BUDGET_S for each in ordered)}")
    print("  rooms:", dict(sorted(rooms.items())))
    print("  tasks:", dict(sorted(types.items())))


if __name__ == "__main__":
    main()

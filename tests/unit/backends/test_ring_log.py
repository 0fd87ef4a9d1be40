from contextlib import closing
from pathlib import Path

from kinitro.backends.supervisor import LOG_BYTES, RingLog, previous_log


def test_the_last_output_is_kept_and_the_disk_is_not_filled(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    with closing(RingLog(path)) as log:
        for number in range(20_000):
            log.write(f"line {number}\n".encode())
    kept = previous_log(path).read_bytes() + path.read_bytes()
    assert kept.endswith(b"line 19999\n")
    assert LOG_BYTES <= len(kept) <= 2 * LOG_BYTES


def test_one_huge_write_is_cut_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    with closing(RingLog(path)) as log:
        log.write(b"a" * 10 * LOG_BYTES + b"end")
    assert path.stat().st_size == LOG_BYTES
    assert path.read_bytes().endswith(b"end")

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kinitro.cli.app import app
from kinitro.errors import ConfigurationError
from kinitro.schemas import CycleExport
from kinitro.scoring.check import Outcome, all_passed, check_export, render_checks
from kinitro.scoring.compare import Verdict, compare_miners, render_comparison
from kinitro.scoring.explain import Standing, explain_miner, render_explanation
from kinitro.types import MinerState

from .conftest import MakeExport, Table


def draws(*rates: float, seed: int = 0, episodes: int = 100) -> Table:
    """Outcomes in which a higher rate succeeds wherever a lower one does."""
    table = np.random.default_rng(seed).random((len(rates), episodes)) < np.array(rates)[:, None]
    return np.asarray(table)


def found(export: CycleExport, outcome: Outcome) -> dict[str, str]:
    return {check.name: check.detail for check in check_export(export) if check.outcome is outcome}


def failed(export: CycleExport) -> dict[str, str]:
    return found(export, Outcome.FAILED)


def noted(export: CycleExport) -> dict[str, str]:
    assert all_passed(check_export(export))
    return found(export, Outcome.NOTED)


# Check


@pytest.fixture
def export(make_export: MakeExport) -> CycleExport:
    return make_export({0: draws(0.5, 0.5), 1: draws(0.52, 0.5), 2: draws(0.9, 0.1)}, earlier=[{0: draws(0.5, 0.5)}])


def test_an_honest_export_passes_and_says_what_was_checked(export: CycleExport) -> None:
    checks = check_export(export)
    assert all_passed(checks)
    assert {check.name: check.outcome for check in checks} == {
        "structure": Outcome.PASSED,
        "salt": Outcome.PASSED,
        "seeds": Outcome.PASSED,
        "policy seeds": Outcome.PASSED,
        "policy files": Outcome.PASSED,
        "images": Outcome.SKIPPED,
    }
    assert "600 follow from the salt and the hash of block 103" in render_checks(checks)


def test_another_salt_than_the_published_one_is_found(export: CycleExport) -> None:
    assert "salt" in failed(export.model_copy(update={"salt": "00" * 32}))
    assert "salt" in failed(export.model_copy(update={"salt": "00"}))
    assert "salt" in failed(export.model_copy(update={"salt": "not hex"}))


def test_a_seed_that_does_not_follow_is_found_and_named(export: CycleExport) -> None:
    episodes = [export.episodes[0].model_copy(update={"seed": 7}), *export.episodes[1:]]
    problems = failed(export.model_copy(update={"episodes": episodes}))
    assert problems == {"seeds": "episode 0 of sim/task-0 for uid 0 has seed 7"}


def test_a_policy_seed_that_does_not_follow_is_found(export: CycleExport) -> None:
    episodes = [e.model_copy(update={"policy_seed": e.seed}) for e in export.episodes]
    assert "and 597 more" in failed(export.model_copy(update={"episodes": episodes}))["policy seeds"]


def test_another_block_hash_breaks_the_seeds(export: CycleExport) -> None:
    assert "seeds" in failed(export.model_copy(update={"block_hash": "0x" + "22" * 32}))
    assert "seeds" in failed(export.model_copy(update={"block_hash": "0x12"}))


def test_a_cycle_that_ended_before_its_target_block_has_no_seeds_to_check(export: CycleExport) -> None:
    checks = check_export(export.model_copy(update={"block_hash": None, "episodes": []}))
    assert all_passed(checks)
    assert {c.name for c in checks if c.outcome is Outcome.SKIPPED} == {
        "seeds",
        "policy seeds",
        "policy files",
        "images",
    }


def test_two_miners_that_compete_with_the_same_files_are_noted_with_who_said_so(export: CycleExport) -> None:
    episodes = [e.model_copy(update={"tree_digest": "sha256:same", "executor_id": "one"}) for e in export.episodes]
    said = noted(export.model_copy(update={"episodes": episodes}))["policy files"]
    assert "uids 0, 1, 2 compete with the same files: sha256:same by one" in said


def test_a_miner_whose_files_changed_within_the_cycle_is_noted_with_who_said_so(export: CycleExport) -> None:
    changed = export.episodes[0].model_copy(update={"tree_digest": "sha256:other", "executor_id": "two\n"})
    said = noted(export.model_copy(update={"episodes": [changed, *export.episodes[1:]]}))["policy files"]
    assert "uid 0 ran with 2 different sets of files" in said
    assert "sha256:other by two?" in said


def test_a_copy_whose_files_nobody_that_competes_has_was_left_out_and_that_is_found(export: CycleExport) -> None:
    miners = [
        miner.model_copy(update={"state": MinerState.COPY, "place": None}) if miner.uid == 1 else miner
        for miner in export.miners
    ]
    accused = export.model_copy(update={"miners": miners})
    assert "uid 1 is listed as a copy, but no miner" in failed(accused)["policy files"]
    same = [e.model_copy(update={"tree_digest": "sha256:same"}) if e.uid < 2 else e for e in export.episodes]
    assert failed(accused.model_copy(update={"episodes": same})) == {}
    doubtful = [same[0].model_copy(update={"tree_digest": "sha256:else"}), *same[1:]]
    assert "policy files" in failed(accused.model_copy(update={"episodes": doubtful}))


def test_an_environment_that_ran_from_two_images_is_noted(export: CycleExport) -> None:
    episodes = [e.model_copy(update={"image_digest": f"sha256:{e.index % 2}"}) for e in export.episodes]
    said = noted(export.model_copy(update={"episodes": episodes}))["images"]
    assert "sim/task-0, sim/task-1 ran from 2 different images" in said


def test_a_broken_structure_is_reported_and_not_raised(export: CycleExport) -> None:
    assert (
        "twice" in failed(export.model_copy(update={"episodes": [*export.episodes, export.episodes[0]]}))["structure"]
    )


# Compare


def test_a_better_miner_is_shown_to_be_better_and_the_other_worse(make_export: MakeExport) -> None:
    export = make_export({0: draws(0.3, 0.3), 1: draws(0.8, 0.8)})
    found = compare_miners(export, 1, 0)
    assert found.overall.verdict is Verdict.BETTER
    assert found.overall.episodes == 200
    assert found.overall.low < found.overall.difference < found.overall.high
    opposite = compare_miners(export, 0, 1)
    assert opposite.overall.verdict is Verdict.WORSE
    assert "Uid 0 is worse than uid 1" in render_comparison(opposite)


def test_equals_stay_undecided(make_export: MakeExport) -> None:
    found = compare_miners(make_export({0: draws(0.5, 0.5), 1: draws(0.5, 0.5, seed=1)}), 0, 1)
    assert found.overall.verdict is Verdict.UNDECIDED
    assert "not shown to differ" in render_comparison(found)


@pytest.mark.parametrize(("one", "other", "verdict"), [(1, 0, "better"), (0, 1, "worse"), (0, 2, "undecided")])
def test_the_command_says_the_verdict_and_its_exit_code_only_whether_it_could(
    make_export: MakeExport, tmp_path: Path, one: int, other: int, verdict: str
) -> None:
    file = tmp_path / "cycle.json"
    file.write_text(make_export({0: draws(0.3), 1: draws(0.8), 2: draws(0.3, seed=1)}).model_dump_json())
    for more in ([], ["--json"]):
        shown = CliRunner().invoke(app, ["compare", str(one), str(other), str(file), *more])
        assert shown.exit_code == 0
        assert verdict in shown.stdout.lower()
    assert json.loads(shown.stdout)["verdict"] == verdict


def test_each_environment_is_judged_by_itself(make_export: MakeExport) -> None:
    found = compare_miners(make_export({0: draws(0.2, 0.8), 1: draws(0.8, 0.2)}), 0, 1)
    assert [row.verdict for row in found.environments] == [Verdict.WORSE, Verdict.BETTER]
    assert found.overall.verdict is Verdict.UNDECIDED


def test_earlier_cycles_count_in_a_comparison(make_export: MakeExport) -> None:
    cycle = {0: draws(0.5), 1: draws(0.6)}
    assert compare_miners(make_export(cycle), 1, 0).overall.verdict is Verdict.UNDECIDED
    assert compare_miners(make_export(cycle, earlier=[cycle] * 5), 1, 0).overall.verdict is Verdict.BETTER


def test_only_two_different_miners_that_compete_can_be_compared(make_export: MakeExport) -> None:
    export = make_export({0: draws(0.5), 1: draws(0.5)}, states={1: MinerState.COPY}, places={0: 1, 1: None})
    with pytest.raises(ConfigurationError, match="no miner with uid 9"):
        compare_miners(export, 0, 9)
    with pytest.raises(ConfigurationError, match="Uid 1 was not evaluated in cycle 1: copy"):
        compare_miners(export, 0, 1)
    with pytest.raises(ConfigurationError, match="itself"):
        compare_miners(export, 0, 0)


# Explain


def test_a_holder_is_told_who_stands_closest_behind_it(make_export: MakeExport) -> None:
    told = explain_miner(make_export({0: draws(0.5), 1: draws(0.1), 2: draws(0.55)}), 0)
    assert (told.points, told.weight) == (2, 1.0)
    crown = told.prizes[0]
    assert (crown.standing, crown.holder) == (Standing.HOLDS, 0)
    assert crown.duel is not None
    assert crown.duel.challenger == 2
    assert "closest behind it is uid 2" in render_explanation(told)


def test_a_challenger_is_told_what_it_has_what_it_needs_and_for_how_long(make_export: MakeExport) -> None:
    cycle = {0: draws(0.50), 1: draws(0.56)}
    crown = explain_miner(make_export(cycle), 1).prizes[0]
    assert crown.standing is Standing.BEHIND
    assert crown.improving
    assert crown.duel is not None
    assert crown.evidence == crown.duel.evidence < crown.duel.needed
    assert crown.cycles_to_go is not None
    # The forecast comes true when later cycles are like this one.
    late = make_export(cycle, earlier=[cycle] * crown.cycles_to_go)
    early = make_export(cycle, earlier=[cycle] * (crown.cycles_to_go - 1))
    assert explain_miner(late, 1).prizes[0].standing is Standing.HOLDS
    assert explain_miner(early, 1).prizes[0].standing is Standing.BEHIND


def test_a_challenger_that_is_no_better_is_told_that_it_is_not_improving(make_export: MakeExport) -> None:
    told = explain_miner(make_export({0: draws(0.5), 1: draws(0.5)}), 1)
    assert not told.prizes[0].improving
    assert told.prizes[0].cycles_to_go is None
    assert "not improving" in render_explanation(told)


def test_a_challenger_shown_to_be_worse_somewhere_is_told_where(make_export: MakeExport) -> None:
    told = explain_miner(make_export({0: draws(0.2, 0.2, 0.8), 1: draws(0.9, 0.9, 0.3)}), 1)
    assert told.prizes[0].worse_in == ("sim/task-2",)
    assert "shown to be worse in sim/task-2; the evidence is enough" in render_explanation(told)


def test_an_overtaken_miner_is_told_by_whom(make_export: MakeExport) -> None:
    told = explain_miner(make_export({0: draws(0.3), 1: draws(0.9)}), 0)
    assert told.prizes[0].standing is Standing.OVERTAKEN
    assert "uid 1 overtook it" in render_explanation(told)


def test_a_miner_between_two_holders_is_told_about_both(make_export: MakeExport) -> None:
    told = explain_miner(make_export({0: draws(0.5), 1: draws(0.52), 2: draws(0.95)}), 1)
    assert "uid 0 held the prize at its turn; uid 2, later in line, has taken it since" in render_explanation(told)


def test_episodes_lost_to_infrastructure_are_shown_and_can_cost_eligibility(make_export: MakeExport) -> None:
    ran = np.ones((1, 100), dtype=bool)
    ran[0, :20] = False
    told = explain_miner(make_export({0: draws(0.5), 1: draws(0.5)}, evaluated={0: ran}), 0)
    assert told.episodes_lost == 20
    assert told.prizes[0].standing is Standing.NOT_ELIGIBLE
    assert "only 80 of 100 episodes of sim/task-0" in told.prizes[0].reason
    assert "20 episodes reached no verdict" in render_explanation(told)


def test_a_miner_without_success_is_told_so(make_export: MakeExport) -> None:
    told = explain_miner(make_export({0: draws(0.0)}), 0)
    assert told.prizes[0].reason == "no success yet"
    assert "nobody holds it" in render_explanation(told)


def test_a_copy_is_told_that_it_does_not_compete(make_export: MakeExport) -> None:
    export = make_export({0: draws(0.5), 1: draws(0.5)}, states={1: MinerState.COPY}, places={0: 1, 1: None})
    told = explain_miner(export, 1)
    assert told.prizes == ()
    assert "does not compete: copy" in render_explanation(told)


def test_a_uid_that_the_cycle_does_not_have_is_refused_with_those_it_has(make_export: MakeExport) -> None:
    with pytest.raises(ConfigurationError, match=r"no miner with uid 8.*uids 0"):
        explain_miner(make_export({0: draws(0.5)}), 8)

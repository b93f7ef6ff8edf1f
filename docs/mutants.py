"""Break the code where a promise would break unseen, and see that the promise's own test fails.

python docs/mutants.py [TEXT]…    every mutant, or those whose promise or file holds one of the texts, each in a copy
                                  of the sources; exit status 1 if one survives
python docs/mutants.py --write    write docs/mutants.md, which lists them
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "mutants.md"


class Mutant(NamedTuple):
    """A change that must not pass.

    Attributes:
        promise: what it breaks.
        file: in `src/factedit`.
        old, new: the text and what it becomes, once.
        test: in `tests`; the one that names the promise.
    """

    promise: str
    file: str
    old: str
    new: str
    test: str


INSERT, TRACE, VALUE = (f"property/test_promises_{name}.py::test_" for name in ("insert", "trace", "value"))
EVALUATE, ENGINE = (f"property/test_promises_{name}.py::test_" for name in ("evaluate", "engine"))
TRUST = "unit/stack/test_stack_trust.py::test_"
SOLVER = "unit/edit/many/test_solver.py::test_"

MUTANTS = (
    Mutant(
        "ΔW is added in float32 and only the sum is rounded", "edit/effects/weights.py",
        "(weight.float() + effect.delta().to(weight.device))", "(weight + effect.delta().to(weight))",
        INSERT + "a_change_is_added_in_float32_and_only_the_sum_is_rounded",
    ),
    Mutant(
        "the ridge is in units of the mean eigenvalue", "stats/second_moment.py",
        "diagonal + ridge * diagonal.mean()", "diagonal + ridge",
        INSERT + "the_ridge_is_a_share_of_the_mean_eigenvalue",
    ),
    Mutant(
        "the spill is a root of a mean square", "edit/methods/rome.py",
        "(solved @ value.key.double()).sqrt()", "(solved @ value.key.double())",
        INSERT + "the_spill_is_the_root_of_the_mean_square_share_that_other_keys_feel",
    ),
    Mutant(
        "contexts are joined by a full stop and a space", "edit/key.py",
        '+ ". {}" for', '+ " {}" for',
        INSERT + "contexts_are_the_models_texts_joined_to_the_prompt_by_a_full_stop_and_a_space",
    ),
    Mutant(
        "σ is without start tokens", "trace/corrupt.py", "add_special_tokens=False", "add_special_tokens=True",
        TRACE + "sigma_is_of_the_subjects_own_tokens_without_start_tokens",
    ),
    Mutant(
        "a fact is known by its answer's first token", "trace/sweep.py",
        "if token != asked[n][0][at]}", "if token != asked[n][0][-1]}",
        TRACE + "a_fact_is_known_where_the_clean_run_ranks_the_answers_first_token_first",
    ),
    Mutant(
        "the window has half its width before the layer", "trace/restore.py",
        "layer - window // 2", "layer - (window - 1) // 2",
        TRACE + "the_window_is_half_its_width_before_the_layer_and_the_rest_from_it_on",
    ),
    Mutant(
        "GE's texts have their length with the prompt", "evaluate/texts.py",
        "row.tokens - len(text.ids)", "row.tokens",
        EVALUATE + "ge_is_of_one_text_per_prompt_so_many_tokens_long_prompt_included_and_seeded",
    ),
    Mutant(
        "GE's texts are drawn with the run's seed", "evaluate/texts.py", "seed + row.number", "row.number",
        EVALUATE + "ge_is_of_one_text_per_prompt_so_many_tokens_long_prompt_included_and_seeded",
    ),
    Mutant(
        "a run's key holds the model's setup", "evaluate/circumstances.py",
        '        "setup": model.setup_fingerprint(),\n', "",
        EVALUATE + "a_run_is_of_one_model_with_its_setup_and_its_attention",
    ),
    Mutant(
        "a run's key holds the attention", "evaluate/circumstances.py",
        'str(getattr(model.lm.config, "_attn_implementation", ""))', '""',
        EVALUATE + "a_run_is_of_one_model_with_its_setup_and_its_attention",
    ),
    Mutant(
        "seconds per edit are of the edits that were made", "evaluate/chunk.py",
        "turn.cost.seconds / turn.cost.facts", "turn.cost.seconds / len(turn.made or ())",
        EVALUATE + "seconds_per_edit_are_of_the_edits_that_were_made",
    ),
    Mutant(
        "somebody else's forward of a matrix acts", "engine/products.py",
        ' and "forward" not in module.__dict__', "",
        ENGINE + "a_patched_forward_acts_in_a_resumed_run_and_is_put_back",
    ),
    Mutant(
        "somebody else's forward of the head acts", "engine/head.py", ' or "forward" in head.__dict__', "",
        ENGINE + "a_patched_forward_acts_in_a_resumed_run_and_is_put_back",
    ),
    Mutant(
        "a module has no forward of its own afterwards", "engine/products.py",
        'module.__dict__.pop("forward", None)', "pass",
        ENGINE + "a_module_that_nobody_patched_has_no_forward_of_its_own_afterwards",
    ),
    Mutant(
        "KE reads the old answer, the new one, the prompt", "edit/hypernetwork.py",
        "(answer, *to, *row.targets,", "(*row.targets, *to, answer,",
        "property/test_promises_networks.py::test_ke_reads_the_old_answer_then_the_new_one_then_the_prompt",
    ),
    Mutant(
        "eq. 4: the decay is over the squared norm of v0", "edit/objective.py", "self._norms**2", "self._norms",
        VALUE + "the_decay_is_the_norm_over_the_squared_norm_of_the_bare_prompts_value",
    ),
    Mutant(
        "eq. 4: the KL is of the edited from the original", "edit/objective.py",
        "kl = (p * drift).sum(1)", "kl = -((essence_log_p - drift).exp() * drift).sum(1)",
        VALUE + "the_divergence_is_of_the_edited_from_the_original",
    ),
    Mutant(
        "eq. 4: the KL's gradient has a mean term", "edit/objective.py", "(drift - kl[:, None])", "drift",
        VALUE + "every_step_goes_down_the_gradient_of_the_whole_objective",
    ),
    Mutant(
        "eq. 4: the essence is read at the subject's last token", "edit/value_rows.py",
        "Row(fact, -1, essence.ids[: where + 1], where, (where,), ())",
        "Row(fact, -1, essence.ids, where, (len(essence.ids) - 1,), ())",
        VALUE + "the_essence_is_read_at_the_subjects_last_token",
    ),
    Mutant(
        "eq. 4: the likelihood is a mean over contexts of means over tokens", "edit/objective.py",
        "1 / (n * rows[fact]) if n", "1 / rows[fact] if n",
        VALUE + "the_likelihood_is_the_mean_over_contexts_of_the_mean_over_the_targets_tokens",
    ),
    Mutant(
        "joint: the edited subjects' own names need not stay", "edit/many/solver.py",
        "self.penalty.without(past.left_out)", "self.penalty",
        SOLVER + "the_edited_subjects_own_names_need_not_stay_for_the_rest_of_the_sequence",
    ),
    Mutant(
        "joint: without a history earlier keys do not stay", "edit/many/solver.py", "if not self.history:", "if False:",
        SOLVER + "without_a_history_earlier_keys_do_not_stay",
    ),
    Mutant(
        "joint: the weight makes a mean fact reach its share", "stats/penalty.py",
        "mean * (1 - share) / share", "mean * share / (1 - share)",
        SOLVER + "the_weight_is_what_makes_a_mean_fact_reach_its_share",
    ),
    Mutant(
        "revert builds on checked files", "stack/work.py", "    stack.check_files()\n    before", "    before",
        TRUST + "a_flipped_bit_is_found_before_anything_is_built_on_it",
    ),
    Mutant(
        "two folders of edits share no file", "stack/folder.py",
        "take = link_or_copy if here else shutil.copyfile", "take = link_or_copy",
        TRUST + "two_folders_share_no_file",
    ),
    Mutant(
        "what others wrote is text in the card", "export/card.py", "return _OBEYED.sub(", "return (lambda _f, t: t)(",
        "unit/export/test_card_and_names.py::test_a_requests_text_is_text",
    ),
    Mutant(
        "one evaluation at a time on a store", "work/evaluate.py",
        "with locked(folder / STORE), ResultStore", "with ResultStore",
        "property/test_results_at_once.py::test_the_second_takes_what_the_first_computed",
    ),
    Mutant(
        "a forged list gives no file away", "outputs.py", " and sha256_file(path) == sha256:", ":",
        "unit/test_outputs.py::test_a_forged_or_outdated_list_gives_no_file_away",
    ),
    Mutant(
        "no edit inside an edit", "edit/place.py", "    check_outside(folder)\n    whole", "    whole",
        "unit/edit/test_artefact.py::test_no_edit_inside_an_edit",
    ),
    Mutant(
        "who builds keeps what it is building", "folders.py", "temporary.is_symlink() or is_held(folder)",
        "temporary.is_symlink()", "unit/test_folders.py::test_one_process_keeps_what_it_is_building_itself",
    ),
    *(Mutant(*row) for row in runpy.run_path(str(ROOT / "docs" / "metric_mutants.py"))["MUTANTS"]),
)  # fmt: skip


def survives(mutant: Mutant) -> bool:
    """Whether the mutant's test passes in a copy of the repository's sources and tests with the change made.

    Raises:
        SystemExit: the text to change is not there, or the test does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        path = Path(folder) / "src" / "factedit" / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.file} holds {mutant.old!r} {text.count(mutant.old)} times: correct the mutant.")
        path.write_text(text.replace(mutant.old, mutant.new, 1), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(Path(folder) / "src")}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{mutant.test}"]
        status = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode
        if status not in (0, 1):
            raise SystemExit(f"{mutant.test} does not run (status {status}).")
        return status == 0


def table() -> str:
    """The list, as Markdown."""
    rows = [f"| {m.promise} | `{m.file}` | `{m.test.partition('::')[2]}` |" for m in MUTANTS]
    return "\n".join(
        (
            "# Mutants",
            "",
            "Each is a change that would break a promise unseen. `python docs/mutants.py` makes one after the other "
            "in a copy of the sources and runs the test that names the promise, which must fail. This list is written "
            "by `python docs/mutants.py --write`.",
            "",
            "| promise | where | test |",
            "|---|---|---|",
            *rows,
            "",
        )
    )


def main() -> None:
    """Run mutants, or write the list."""
    if "--write" in sys.argv[1:]:
        TABLE.write_text(table(), encoding="utf-8")
        return
    alive = []
    asked = sys.argv[1:] or [""]
    for mutant in (each for each in MUTANTS if any(text in each.promise or text in each.file for text in asked)):
        alive += [mutant] if survives(mutant) else []
        print(f"{'SURVIVES' if alive and alive[-1] is mutant else 'killed':9}{mutant.promise}", flush=True)
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()

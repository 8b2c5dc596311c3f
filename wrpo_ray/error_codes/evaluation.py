"""Codes of benchmarks, lm-eval, the safety slice, and of what is sent to the hub."""

from __future__ import annotations

from wrpo_ray.error_codes.entry import Entry

EVALUATION = {
    "WRPO-D060": Entry(
        "the question file of a benchmark cannot be read",
        "It is not there, is no text in UTF-8, holds no question, or no file is named at all.",
        "Correct the path under evaluation.benchmarks, or leave the section out.",
    ),
    "WRPO-D061": Entry(
        "a row of a benchmark's question file is not a question",
        "Its id, its text or its turns are missing, or another row has the same id.",
        "Take the file as the benchmark publishes it; docs/benchmarks.md says where.",
    ),
    "WRPO-D062": Entry(
        "no harmful prompt was answered by all models",
        "Refusal rates are compared on prompts that every model has answered.",
        "Look into the quarantine folders of the steps evaluation-safety-sample-... for the reasons.",
    ),
    "WRPO-S050": Entry(
        "an evaluation is of another format",
        "evaluation.json was written by another version of wrpo_ray.",
        "Read it with the version that made the run.",
    ),
    "WRPO-S051": Entry(
        "an evaluation lacks what its format has",
        "evaluation.json is as it was written, but a field that its format has is missing or is of another kind.",
        "Remove the folder that the message names; `python jobs/evaluate.py` makes it anew from the answers.",
    ),
    "WRPO-C090": Entry(
        "lm-eval does not know a task",
        "No task, group or tag has this name in the installed version or below evaluation.lm_eval.include_path.",
        "Take a name that `lm_eval ls tasks` lists.",
    ),
    "WRPO-C091": Entry(
        "the data of an lm-eval task cannot be read",
        "Most tasks read a data set of the Hugging Face hub, which cannot be reached or does not have it.",
        "Fetch it once where the hub can be reached, with the HF_HOME that the nodes have; then set HF_HUB_OFFLINE=1.",
    ),
    "WRPO-C092": Entry(
        "what is to be exported is not there",
        "The steps fuse and export of the run, or select_sft of one with SFT, are not complete.",
        "Run it to its end with its config; `wrpo-ray status RUN` says what is missing.",
    ),
    "WRPO-C093": Entry(
        "the folder of an export holds something else",
        "wrpo-ray export writes into an empty folder, or over what it wrote there before.",
        "Name an empty folder on this machine.",
    ),
    "WRPO-C094": Entry(
        "the hub did not take what was sent",
        "The token may be missing or may not write there, the name may be wrong, or the hub cannot be reached.",
        "Log in with `hf auth login` or set HF_TOKEN to a token that may write, and check the name.",
    ),
    "WRPO-C095": Entry(
        "what is pushed would be public",
        "A repository of this name exists on the hub, and everybody can read it.",
        "Say --public if that is meant; else choose another name.",
    ),
}

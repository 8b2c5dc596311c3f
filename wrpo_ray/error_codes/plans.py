"""Codes of planning, adaptive allocation and evaluation: what is not known, does not fit, or cannot be used."""

from __future__ import annotations

from wrpo_ray.error_codes.entry import Entry

PLANS = {
    "WRPO-C044": Entry(
        "adaptive allocation cannot work with these settings",
        "A slice has fewer than 20 prompts, waves need num_samples of 2 or more, or token_costs names no source.",
        "Make the change that the message names, or leave sampling.allocation out.",
    ),
    "WRPO-C045": Entry(
        "the evaluation names a model that it does not compare",
        "evaluation.sources holds names of sources or is `all`; evaluation.pairs holds pairs of two models of target, "
        "target-sft, fused and these sources.",
        "Correct the name, or add the source to evaluation.sources.",
    ),
    "WRPO-C046": Entry(
        "the judge's template cannot be used",
        "The file cannot be read, or lacks {{conversation}}, {{answer_a}}, {{answer_b}} or {{mark}}.",
        "Correct the path or the file; docs/evaluation.md has an example.",
    ),
    "WRPO-C047": Entry(
        "there is no evaluation to make or to show",
        "The config has no section `evaluation`, or the run has not made its step `evaluate` yet.",
        "Add evaluation.prompts to the config and run `python jobs/evaluate.py --config X.yaml`.",
    ),
    "WRPO-C048": Entry(
        "there is no run to evaluate",
        "The folder run.root/run.name holds no start of a run, so there is no fused model to compare.",
        "Correct run.root and run.name, or run `python jobs/fuse.py --config X.yaml` first.",
    ),
    "WRPO-D040": Entry(
        "a reward has no place in the allocation's table",
        "It is there twice, was not asked for, is not finite, or belongs to a prompt or source the run does not know.",
        "`wrpo-ray inspect RUN` says which step is damaged; --repair has it made again.",
    ),
    "WRPO-C060": Entry(
        "the shape of a model is not known",
        "A plan needs the model's config.json; it is not at hand (or does not tell a size), and the built-in table has "
        "the models of the paper alone.",
        "Give the model's folder, or fetch its config.json with `hf download`.",
    ),
    "WRPO-C061": Entry(
        "the figures of an accelerator are not known",
        "Memory, bandwidth and FLOP per second of this type are not in the built-in table.",
        "Correct the name, or give the figures in planning.accelerators.",
    ),
    "WRPO-C062": Entry(
        "the prompts are too large to be measured for a plan",
        "Counting and measuring them would take longer than a plan should.",
        "Set planning.num_prompts and planning.mean_prompt_tokens.",
    ),
    "WRPO-C063": Entry(
        "the plan does not know this quantization",
        "It cannot tell how many bytes a weight takes then.",
        "Choose one of those that the message names, or plan without it.",
    ),
    "WRPO-C064": Entry(
        "a step needs more accelerators at once than the planned cluster has",
        "Training takes all of its workers at once, an engine all of its accelerators.",
        "Enlarge planning.cluster (or ray.num_cpus), or let the step take fewer.",
    ),
    "WRPO-C065": Entry(
        "a model does not fit into the memory of its accelerators",
        "Weights, cache, activations or optimizer states take more than there is; the message says how much each "
        "takes. An estimate: see docs/planning.md.",
        "Make the smallest change that the message names.",
    ),
    "WRPO-C066": Entry(
        "a picture of the plan is an .svg or .html file",
        "The ending of --out says which of the two is written.",
        "Choose one of these endings.",
    ),
}

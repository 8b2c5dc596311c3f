"""Codes of models, tokenizers and chat templates (M)."""

from __future__ import annotations

from wrpo_ray.error_codes.entry import Entry

MODELS = {
    "WRPO-M001": Entry(
        "a model cannot be used",
        "A model, tokenizer or reward model cannot do what its place in the run asks of it; the message says why.",
        "Choose another model or repair its folder.",
    ),
    "WRPO-M002": Entry(
        "no model at this path",
        "The path is neither a folder nor a name on the Hugging Face hub.",
        "Correct it; every node must see a local folder.",
    ),
    "WRPO-M003": Entry(
        "config.json is missing or broken",
        "A folder in Hugging Face format has a config.json with an object.",
        "Fetch the model again, or name the right folder.",
    ),
    "WRPO-M004": Entry(
        "the model has no chat template",
        "Neither chat_template.jinja nor tokenizer_config.json holds one, so that nobody knows how to ask it.",
        "Set `chat_template: path/to/template.jinja` for the model, or choose an instruct model.",
    ),
    "WRPO-M005": Entry(
        "weights are missing",
        "The folder has no *.safetensors, or not all files that its index lists.",
        "Fetch the model again; an interrupted download can be resumed.",
    ),
    "WRPO-M006": Entry(
        "weights of a kind that is not read",
        "Pickles can run code when they are read, and GGUF files cannot be trained.",
        "Save the model again as safetensors.",
    ),
    "WRPO-M007": Entry(
        "the model brings code of its own",
        "config.json has an auto_map, and trust_remote_code is false.",
        "Read that code, then set trust_remote_code and code_sha256 with a pinned revision, or choose another model.",
    ),
    "WRPO-M008": Entry(
        "more tokens than the model has positions",
        "A length of the config is over max_position_embeddings.",
        "Lower it to the number in the message.",
    ),
    "WRPO-M009": Entry(
        "no reward model",
        "The reward comes from a sequence classifier; config.json names another architecture.",
        "Name a reward model.",
    ),
    "WRPO-M010": Entry(
        "a reward model with several labels",
        "The reward is the logit of the only label.",
        "Name a reward model with one label.",
    ),
    "WRPO-M011": Entry(
        "the hub has no such model or revision",
        "The name is wrong, or the model is private and you are not logged in.",
        "Correct it, or log in with `hf auth login`.",
    ),
    "WRPO-M012": Entry(
        "the hub refuses access",
        "The model is given only to accounts that accepted its terms, or the token is not accepted.",
        "Accept the terms on its page and log in with `hf auth login`.",
    ),
    "WRPO-M013": Entry(
        "the hub cannot be reached",
        "There is no network or the hub does not answer, and no copy is in the cache.",
        "Fetch the model where there is a network, or try again later.",
    ),
    "WRPO-M014": Entry(
        "the tokenizer cannot be loaded",
        "A tokenizer file is missing or broken.",
        "Fetch the model again.",
    ),
    "WRPO-M015": Entry(
        "the chat template does not work",
        "It cannot be read, is no valid Jinja, fails on a plain conversation, begins with two BOS, or never ends an "
        "answer.",
        "Name a working template in chat_template.",
    ),
    "WRPO-M016": Entry(
        "tokenizer and weights do not belong together",
        "The tokenizer gives ids for which the model has no embedding.",
        "Fetch model and tokenizer again from the same place and revision.",
    ),
    "WRPO-M017": Entry(
        "no language model",
        "Sources and target write text; config.json names an architecture that does not.",
        "Name a causal language model.",
    ),
    "WRPO-M018": Entry(
        "a file of a model is not the one that the hub lists",
        "Its hash is another one, also after it was fetched again: the download or the disk is broken, or somebody has "
        "changed it.",
        "Remove the file that the message names and fetch the model again; if it stays so, do not use the model.",
    ),
    "WRPO-M019": Entry(
        "code of a model that is not known by its hash",
        "With trust_remote_code every Python file of the model must stand in code_sha256, so that nothing runs but "
        "what was read.",
        "Read the files; if they may run, copy the line of the message into the model's section.",
    ),
    "WRPO-M020": Entry(
        "a model asks for code or for another model",
        "A file of its settings names code of another repository, a kernel that would be fetched and run, or a model "
        "loaded beside or instead of this one (adapters, drafts); none of them is pinned by revision or hash.",
        "Take it out of the file if the model works without it, merge the adapter, or choose another model.",
    ),
    "WRPO-M021": Entry(
        "a model is not in the store of models",
        "`models.store` is set, so that the run reads the hub's models there and asks the hub for nothing.",
        "`wrpo-ray fetch CONFIG` puts them there.",
    ),
    "WRPO-M022": Entry(
        "the chat template takes more than it may, or tries what none may",
        "Templates are other people's programs: each rendering has limits of CPU time, memory and length, and a "
        "sandbox without files and modules.",
        "Name another template in chat_template; do not use a model whose own template does this.",
    ),
    "WRPO-M030": Entry(
        "the reward model is broken",
        "More of its rewards are NaN or infinite than rows.max_reward_not_finite_fraction allows.",
        "Check its dtype (float16 overflows where bfloat16 does not), its files and reward.score_field.",
    ),
    "WRPO-M031": Entry(
        "a model answers no prompt at all",
        "Every prompt of the step was left out, so the model would count as a source and give nothing.",
        "The step's quarantine folder says why; often engine.max_model_len is too small for sampling.max_tokens.",
    ),
}

"""Codes of configs (C001 to C049) and of input data (D)."""

from __future__ import annotations

from wrpo_ray.error_codes.entry import Entry

INPUTS = {
    "WRPO-C001": Entry(
        "the configuration cannot be run",
        "A setting does not fit; the message says which one. Most settings have a code of their own.",
        "Change what the message names.",
    ),
    "WRPO-C002": Entry(
        "the config file cannot be read",
        "There is no such file, it is no regular file, it may not be read, it is not UTF-8, or it is over 1 MiB.",
        "Correct the path of --config, or save the file as UTF-8.",
    ),
    "WRPO-C003": Entry(
        "unknown field",
        "Every key of a config must be known: a misspelt one would otherwise be ignored in silence.",
        "Take the suggested name, or remove the key.",
    ),
    "WRPO-C004": Entry(
        "a field is missing",
        "This field has no default.",
        "Add it; the configs in jobs/configs show every section.",
    ),
    "WRPO-C005": Entry(
        "the file is not valid YAML",
        "The text cannot be parsed; the message gives line and column. A tab, a missing quote or bracket is typical.",
        "Correct that line.",
    ),
    "WRPO-C006": Entry(
        "a value breaks its rule",
        "The value has the right type, but is out of range, is none of the choices, or is not finite.",
        "Change it to a value that keeps the rule.",
    ),
    "WRPO-C007": Entry(
        "a value has the wrong type",
        "Types are strict: \"8\" is no number, true is no 1, 8.5 is no integer. Scalars are read as YAML 1.2 does, so "
        "1e-5 is a number, while 010, 1_000 and 5GB are text.",
        "Write the value without quotes and units, or put text into quotes.",
    ),
    "WRPO-C008": Entry(
        "a form of YAML that configs do not use",
        "A key that stands twice or is no text, an alias, a tag, or very deep nesting. Each of them hides what a "
        "config says.",
        "Write the value out where it is meant.",
    ),
    "WRPO-C009": Entry(
        "a config is a mapping of sections",
        "The file is empty, a list or a single value.",
        "Begin with `run:`; jobs/configs has examples.",
    ),
    "WRPO-C010": Entry(
        "model_defaults holds something else than sections",
        "`model_defaults` lies under each source and the target; it may hold engine, sampling and resources.",
        "Move the other keys to the models themselves.",
    ),
    "WRPO-C011": Entry(
        "an override cannot be applied",
        "Overrides look like section.key=value; items of a list are called by number or by `name`.",
        "Correct the override, for example sources.mistral.sampling.num_samples=8.",
    ),
    "WRPO-C012": Entry(
        "half of a surrogate pair",
        "An escape such as \"\\ud800\" stands for half a character, which UTF-8 cannot hold.",
        "Write the character itself.",
    ),
    "WRPO-C013": Entry(
        "a name stands for two models",
        "Names of models become names of folders and tables; case does not count. `target-sft` and `fused` are taken.",
        "Give each model its own name.",
    ),
    "WRPO-C014": Entry(
        "a model is listed twice",
        "Two sources have the same files, so that the second one only repeats the first.",
        "List the model once and raise its sampling.num_samples.",
    ),
    "WRPO-C015": Entry(
        "code of a hub model that is not pinned",
        "With trust_remote_code the model's Python code runs in the engines; a branch may change under you.",
        "Read the code and set `revision` to that commit, or give a local folder.",
    ),
    "WRPO-C016": Entry(
        "GPUs of a replica do not fit its engine",
        "A replica takes tensor_parallel_size * pipeline_parallel_size GPUs, equally many on each of num_nodes nodes, "
        "or a fraction of one whose memory it shares.",
        "Set resources.num_gpus, resources.num_nodes or engine.gpu_memory_utilization, as the message says.",
    ),
    "WRPO-C017": Entry(
        "the token budget of an engine step is too small",
        "Every sequence takes a token of each step, and without a GPU a prompt is read in one piece.",
        "Raise engine.max_num_batched_tokens, or lower max_num_seqs or max_model_len.",
    ),
    "WRPO-C018": Entry(
        "an engine argument that the run sets itself",
        "The argument has a field of its own, or must be the run's for its results to be what was asked for.",
        "Remove it from extra_args or deepspeed.",
    ),
    "WRPO-C110": Entry(
        "an engine argument that is not let through",
        "It would run code, load another model or other weights, read files or media, or open connections.",
        "Remove it; wrpo_ray/config_engine_rules.py has the whole list.",
    ),
    "WRPO-C111": Entry(
        "an environment variable that switches a protection off or names code",
        "With it an engine would unpickle messages or weights, skip its own checks, or load code that it names.",
        "Remove it from resources.env_vars or cluster.env; what the nodes need belongs into their own environment.",
    ),
    "WRPO-C033": Entry(
        "settings of sharding, offload or kernels do not go together",
        "Some need a ZeRO stage, a GPU or a precision that this training section does not have.",
        "Make the change that the message names.",
    ),
    "WRPO-C034": Entry(
        "a run to be reused is not there",
        "run.reuse names no other run below run.root, this run itself, or one run twice.",
        "Correct the name, or take it out.",
    ),
    "WRPO-C037": Entry(
        "the fused head cannot run here",
        "The kernel of cut-cross-entropy runs on a GPU in bf16 alone.",
        "Set num_gpus_per_worker: 1 and precision: bf16, or head_kernel: chunked.",
    ),
    "WRPO-C036": Entry(
        "a setting needs a package that is not installed",
        "Some settings (trackers, adapters, kernels) need a package that the others do without.",
        "Install the extra that the message names on all nodes, or leave the setting out.",
    ),
    "WRPO-C080": Entry(
        "the key of an endpoint is not set",
        "The environment variable that a source's api_key_env names is not there, or holds what cannot be a key.",
        "Set it where the run is started and on all nodes; without api_key_env no key is sent.",
    ),
    "WRPO-C081": Entry(
        "base_url is no usable address",
        "A source's base_url must begin with http:// or https:// and a host, and have neither a user nor a query.",
        "Write https://host/v1, say, without /chat/completions.",
    ),
    "WRPO-C082": Entry(
        "api_key_env is no name of a secret variable",
        "It is the name of a variable, never the key itself; a name with KEY, TOKEN or SECRET as a word makes sure that"
        " its value is taken out of logs and errors.",
        "Write OPENAI_API_KEY, say, and put the key into that variable.",
    ),
    "WRPO-C083": Entry(
        "an endpoint's limit lets no request through",
        "limits.tokens_per_minute must be more than sampling.max_tokens, which each running request counts with.",
        "Raise the limit to the account's, or lower max_tokens.",
    ),
    "WRPO-C019": Entry(
        "the global batch is smaller than the number of workers",
        "Every worker takes rows of each optimizer step, so there must be at least one for each.",
        "Raise global_batch_size, or lower num_workers.",
    ),
    "WRPO-C020": Entry(
        "lengths leave no room",
        "A prompt must leave room for a response within max_length (training) or max_model_len (sampling).",
        "Lower the shorter of the two or raise the longer.",
    ),
    "WRPO-C021": Entry(
        "too few or too many samples",
        "The best and the worst response of the target must be two responses; at temperature 0 all are the same.",
        "Change num_samples or the temperature.",
    ),
    "WRPO-C022": Entry(
        "the verifier's rewards are out of order",
        "A right answer must earn more than one that merely contains it, and that at least as much as a wrong one.",
        "Order correct_reward > contained_reward >= wrong_reward.",
    ),
    "WRPO-C023": Entry(
        "the verifier has no answers",
        "A rule-based reward compares with a reference answer, whose column is not named.",
        "Set answer_column, or choose a reward model.",
    ),
    "WRPO-C024": Entry(
        "a secret in the config",
        "A value looks like a token, key or password, or is that of such an environment variable. The config is "
        "stored with the run, and environments of replicas are shown by Ray.",
        "Set secrets in the environment of the nodes, or name a file there; replace the one that was written down.",
    ),
    "WRPO-C025": Entry(
        "min_sources is more than there are",
        "The run could not even begin.",
        "Lower it, or leave it out: then all sources are needed.",
    ),
    "WRPO-C026": Entry(
        "the lease times out too soon",
        "A driver renews its lease every few seconds. With a shorter time-out a slow store looks like a dead driver.",
        "Set run.lease_timeout_s to 10 or more, or to 0 for no lease at all.",
    ),
    "WRPO-C027": Entry(
        "run.root is no place for runs",
        "It must be a path, s3://bucket/prefix or gs://bucket/prefix, without user, port or query.",
        "Correct it; endpoints and credentials come from the environment.",
    ),
    "WRPO-C028": Entry(
        "the cluster is too small",
        "A process asks for more than any node has, so that it would wait for ever.",
        "Ask for less, use a larger cluster, or raise ray.num_cpus of a local one.",
    ),
    "WRPO-C030": Entry(
        "export.path holds other files",
        "The model would lie among files that are not its own.",
        "Name an empty folder.",
    ),
    "WRPO-C031": Entry(
        "a step lacks its inputs",
        "--only runs one step, and a step before it is not complete.",
        "Run the steps that are named first, or leave --only out.",
    ),
    "WRPO-C032": Entry(
        "no such error code or field",
        "`wrpo-ray explain` was asked for something that is neither an error code nor a field of a config.",
        "List all codes with `wrpo-ray explain`; docs/config.md lists all fields.",
    ),
    "WRPO-C040": Entry(
        "the folder is no run",
        "It holds no submissions/ folder, which every run writes first.",
        "Name the run's own folder: run.root/run.name of its config.",
    ),
    "WRPO-C041": Entry(
        "the run has no such step",
        "`wrpo-ray inspect RUN STEP` was asked for a step that the run does not have.",
        "Name one of the steps in the message.",
    ),
    "WRPO-D001": Entry(
        "input data breaks a rule",
        "The message says which file and row; most rules have a code of their own.",
        "Repair the data.",
    ),
    "WRPO-D002": Entry(
        "no prompts at this path",
        "Prompts are read from .parquet and .jsonl files, a folder of them, or a saved Hugging Face dataset, on a "
        "file system that the driver sees.",
        "Correct the path, or convert the file.",
    ),
    "WRPO-D003": Entry(
        "a prompt file cannot be read",
        "It is cut, damaged, or not what its name says.",
        "Write or copy the file again.",
    ),
    "WRPO-D004": Entry(
        "a column of an Arrow extension type",
        "Such types may run code when they are read (CVE-2026-41486, pickled objects of Ray), so the file is refused "
        "before anything reads its columns.",
        "Write the file again with plain columns.",
    ),
    "WRPO-D005": Entry(
        "a column is missing or ambiguous",
        "The column that the config names is not there, or stands twice.",
        "Correct `column` or `answer_column`, or the file.",
    ),
    "WRPO-D006": Entry(
        "a column of the wrong type",
        "Prompts and answers are text, numbers or lists of {role, content}; bytes and other types are refused.",
        "Write the column again as text.",
    ),
    "WRPO-D007": Entry(
        "a line is no JSON object",
        "Each line of a .jsonl file holds one object.",
        "Repair the line; it may be cut, or the file may be one big JSON list.",
    ),
    "WRPO-D008": Entry(
        "text is not UTF-8",
        "Bytes that are no UTF-8 are never guessed at.",
        "Save the file again as UTF-8.",
    ),
    "WRPO-D009": Entry(
        "no prompts",
        "The files were read and hold no row.",
        "Correct the path.",
    ),
    "WRPO-D010": Entry(
        "a prompt is no conversation",
        "A prompt is text, or a list of {role, content} with roles system (first only), user and assistant, which "
        "ends with the user.",
        "Repair the row.",
    ),
    "WRPO-D011": Entry(
        "a text is empty",
        "A prompt, message or answer of white space alone.",
        "Remove the row.",
    ),
    "WRPO-D012": Entry(
        "text is not valid Unicode",
        "A lone surrogate: JSON can write it, UTF-8 cannot hold it. Other text is passed on byte for byte.",
        "Repair the text at its origin.",
    ),
    "WRPO-D013": Entry(
        "one prompt with two answers",
        "Equal prompts are one prompt; which answer is right cannot be told.",
        "Keep one of the two rows.",
    ),
    "WRPO-D014": Entry(
        "an answer is missing or no answer",
        "The verifier needs a text or a finite number in every row.",
        "Add the answer or remove the row.",
    ),
    "WRPO-D015": Entry(
        "further rows are wrong",
        "Twenty problems are shown; so many more were found.",
        "Repair those shown and try again.",
    ),
    "WRPO-D016": Entry(
        "a part of the run gets no prompt",
        "The split is a hash of each prompt; with few prompts one part may be empty.",
        "Add prompts, or change prompts.sft_fraction.",
    ),
    "WRPO-D017": Entry(
        "answers without a number",
        "mode numeric of a verifier (reward, evaluation.verifier) compares numbers.",
        "Correct these answers, or set its mode to exact.",
    ),
    "WRPO-D018": Entry(
        "every prompt is too long",
        "Longer prompts than max_prompt_length are left out of training; nothing would be left.",
        "Raise it as the message says.",
    ),
    "WRPO-D019": Entry(
        "evaluation prompts are training prompts",
        "Rewards on prompts of the training say nothing about new ones.",
        "Take them out of one of the two.",
    ),
    "WRPO-D020": Entry(
        "a step has no prompt to work on",
        "The splits that the step draws from are empty.",
        "Give more prompts, or change prompts.sft_fraction.",
    ),
    "WRPO-D021": Entry(
        "a chat template refuses a conversation",
        "The template raises an error for these roles or for what a message holds. The row is left out as "
        "rows.prompt_template_refused says.",
        "Correct the template, or leave such prompts out.",
    ),
    "WRPO-D022": Entry(
        "text that would become control tokens",
        "The text holds what looks like a control token of the model, and it cannot be told apart from the template's.",
        "Remove that text from the prompt, or use a template that passes contents on unchanged.",
    ),
    "WRPO-D023": Entry(
        "a chat template was stopped",
        "For this conversation it took more CPU time, memory or text than a rendering may, or tried what none may.",
        "Name another template in chat_template; the row is set aside.",
    ),
    "WRPO-D030": Entry(
        "no prompt has a response to learn from",
        "Every source response was left out, so that SFT has no example.",
        "See the counts and the quarantine folders of the steps score-*.",
    ),
    "WRPO-D031": Entry(
        "no prompt gives a quadruple",
        "A quadruple needs a source response and two target responses of different reward.",
        "Draw more target responses, or see the counts of the steps before.",
    ),
    "WRPO-D032": Entry(
        "the evaluated models share no prompt",
        "Means are compared on prompts for which all models have a finite reward; there is none.",
        "See the quarantine folder of the step evaluation-score.",
    ),
}  # fmt: skip

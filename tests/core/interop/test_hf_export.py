"""``dlm export --format hf``: transformers alone computes our logits to the bit, and writes our texts."""

import builtins
import dis
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import dlm
from dlm.errors import ModelError
from dlm.interop.hf_code import MODULE
from dlm.interop.hf_export import export_hugging_face
from dlm.model import Qwen3LLadaConfig, Qwen3LLadaForMaskedLM
from dlm.sampling.arguments import component

from .conftest import SHAPE

END, MASK = 100, 101
SMALL: dict[str, Any] = {**SHAPE, "vocab_size": 104, "eos_token_id": END, "mask_token_id": MASK}
BLOCKS = {"block_length": 4, "block_origin": "document"}
CASES: dict[str, dict[str, Any]] = {
    "full, tied": {"tie_word_embeddings": True},
    "full, shifted": {"logit_shift": True, "tie_word_embeddings": False},
    "block_causal": {"attention_bias_component": {"name": "builtin:block_causal"}, **BLOCKS},
    "block, bfloat16": {"attention_bias_component": {"name": "builtin:block"}, "block_length": 4, "dtype": "bfloat16"},
    "by layer, in shards": {
        "attention_bias_component": {
            "name": "builtin:per_layer",
            "plan": [{"name": "builtin:alternating", "first": "full", "second": "block"}, "builtin:block"],
        },
        "block_length": 4,
    },
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7, "seed": 3, "remasking": {"name": "random_topk", "temperature": 0.5}},
    {"cfg_scale": 1.0, "steps": 6, "eos": "free"},
    {"remasking": {"name": "threshold", "threshold": 0.3}, "cache": "off", "eos": "late"},
]
PROMPTS = torch.tensor([[5, 6, 7, 8, 9, 10], [END, END, 3, 1, 4, 1]])
PADDING = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
CHILD = """
import sys

HIDDEN = ("dlm", "dlm_cli", "dlm_plugins", "dlm_builtin_plugins", "attr", "attrs", "cattrs")

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Without())
for name in HIDDEN:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

request, answer = sys.argv[1:]
asked, found = torch.load(request), {}
for folder in asked["folders"]:
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        logits = model(input_ids=asked["ids"], attention_mask=asked["mask"]).logits
    wide = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float64).eval()
    rows = {"attention_mask": asked["mask"], "max_new_tokens": 12, "return_dict_in_generate": True}
    texts = [wide.generate(asked["ids"], **rows, **each) for each in asked["settings"]]
    mask = AutoTokenizer.from_pretrained(folder, trust_remote_code=True).mask_token_id
    found[folder] = {
        "class": type(model).__name__, "dtype": model.dtype, "logits": logits, "mask": mask,
        "sequences": [text.sequences for text in texts], "caches": [text.cache for text in texts],
    }
torch.save(found, answer)
"""


def small_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"w{index}": index for index in range(100)} | {"<|endoftext|>": END, "<|mask|>": MASK}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "w0", "mask_token": "<|mask|>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def write_model(folder: Path, **changes: Any) -> Path:
    """What a run leaves in ``final``: a random model with opinions."""
    torch.manual_seed(0)
    model = Qwen3LLadaForMaskedLM(Qwen3LLadaConfig(**{**SMALL, "head_dim": 8, "mask_token": "<|mask|>", **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    if changes.get("dtype") == "bfloat16":
        model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="10kB" if changes.get("block_length") else "5GB")
    small_tokenizer().save_pretrained(folder)
    return folder


def write_llama(folder: Path, tmp: Path) -> Path:
    """A converted decoder, which keeps its own class."""
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**{**SMALL, "num_key_value_heads": 4})).save_pretrained(tmp / "llama")
    small_tokenizer().save_pretrained(tmp / "llama")
    dlm.convert(tmp / "llama", folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Our folder and the published one of each case."""
    root = tmp_path_factory.mktemp("hf")
    ours = {case: write_model(root / f"ours-{index}", **CASES[case]) for index, case in enumerate(CASES)}
    ours["llama"] = write_llama(root / "ours-llama", root)
    folders = {case: (folder, root / folder.name.replace("ours", "hf")) for case, folder in ours.items()}
    for source, folder in folders.values():
        export_hugging_face(source, folder)
    return folders


@pytest.fixture(scope="module")
def elsewhere(
    exported: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What a process finds that has transformers, and neither dlm nor attrs."""
    work = tmp_path_factory.mktemp("elsewhere")
    folders = [str(folder) for _, folder in exported.values()]
    torch.save({"folders": folders, "ids": PROMPTS, "mask": PADDING, "settings": SETTINGS}, work / "request.pt")
    command = [sys.executable, "-c", CHILD, str(work / "request.pt"), str(work / "answer.pt")]
    environment = {**os.environ, "HF_HOME": str(work), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "Do you wish" not in done.stdout
    found = torch.load(work / "answer.pt", weights_only=False)
    return {case: found[str(folder)] for case, (_, folder) in exported.items()}


@pytest.mark.parametrize("case", [*CASES, "llama"])
def test_logits_are_equal_to_the_bit(
    exported: dict[str, tuple[Path, Path]], elsewhere: dict[str, dict[str, Any]], case: str
) -> None:
    model = dlm.load(exported[case][0])
    with torch.no_grad():
        ours = model(input_ids=PROMPTS, attention_mask=PADDING).logits
    assert torch.equal(ours, elsewhere[case]["logits"])
    assert elsewhere[case]["dtype"] == model.dtype
    assert elsewhere[case]["mask"] == MASK


@pytest.mark.parametrize("case", [*CASES, "llama"])
def test_texts_are_those_of_generate(
    exported: dict[str, tuple[Path, Path]], elsewhere: dict[str, dict[str, Any]], case: str
) -> None:
    model = dlm.load(exported[case][0], dtype="float64")
    for index, settings in enumerate(SETTINGS):
        ours = dlm.generate(model, PROMPTS, attention_mask=PADDING, gen_length=12, **settings)
        assert ours.sequences.tolist() == elsewhere[case]["sequences"][index].tolist()
        assert ours.cache == elsewhere[case]["caches"][index]


def test_the_published_folder_is_one_of_ours_too(exported: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    for case in ("full, tied", "llama"):  # what is made of it does not name the code that stays behind
        dlm.convert(exported[case][1], tmp_path / case)
        assert "auto_map" not in json.loads((tmp_path / case / "config.json").read_text())
        dlm.load(exported[case][1]).save_pretrained(tmp_path / f"saved {case}")
        assert "auto_map" not in json.loads((tmp_path / f"saved {case}" / "config.json").read_text())
    for source, folder in exported.values():
        ours, theirs = dlm.load(source), dlm.load(folder)
        assert type(ours) is type(theirs)
        pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
        assert all(one == other and torch.equal(a, b) for (one, a), (other, b) in pairs)


def test_weights_are_the_same_files(exported: dict[str, tuple[Path, Path]]) -> None:
    source, folder = exported["by layer, in shards"]
    files = sorted(path.name for path in source.glob("*.safetensors*"))
    assert len(files) > 2
    assert all((source / name).read_bytes() == (folder / name).read_bytes() for name in files)
    tied, _ = exported["full, tied"]
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")


@pytest.fixture(scope="module")
def module(exported: dict[str, tuple[Path, Path]]) -> ModuleType:
    """The modelling file, in this process."""
    module = ModuleType(MODULE)
    sys.modules[MODULE] = module
    text = (exported["full, tied"][1] / f"{MODULE}.py").read_text(encoding="utf-8")
    exec(compile(text, MODULE, "exec"), module.__dict__)
    return module


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def test_the_file_needs_nothing_that_is_not_in_it(exported: dict[str, tuple[Path, Path]], module: ModuleType) -> None:
    for _, folder in exported.values():
        text = (folder / f"{MODULE}.py").read_text(encoding="utf-8")
        assert not [line for line in text.splitlines() if line.lstrip().startswith(("from dlm", "import dlm"))]
    text = (exported["full, tied"][1] / f"{MODULE}.py").read_text(encoding="utf-8")
    wanted = {
        instruction.argval
        for code in codes(compile(text, MODULE, "exec"))
        for instruction in dis.get_instructions(code)
        if instruction.opname == "LOAD_GLOBAL"
    }
    assert len(wanted) > 100
    assert wanted - vars(module).keys() - vars(builtins).keys() == set()


def test_an_older_transformers_is_refused_before_it_computes_something_else(
    exported: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (exported["llama"][1] / f"{MODULE}.py").read_text(encoding="utf-8")
    monkeypatch.setattr(transformers, "__version__", "4.57.1")
    older = ModuleType("older")
    monkeypatch.setitem(sys.modules, "older", older)
    with pytest.raises(ImportError, match=r"needs transformers 5 or later, not 4\.57\.1"):
        exec(compile(text, "older", "exec"), older.__dict__)


@pytest.mark.parametrize("kind", ["remasking", "attention_bias"])
def test_it_has_every_built_in_component_with_its_defaults(module: ModuleType, kind: str) -> None:
    from dlm_plugins.registry import Registry

    names = {entry.name for entry in Registry.discover(disable=["all"]).entries(kind)}
    assert set(module.COMPONENTS[kind]) == names
    for name in names:
        ours, theirs = component(kind, name), module.component(kind, name)
        assert repr(theirs) == repr(ours)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"steps": 0}, "steps must be > 0"),
        ({"temperature": -1.0}, "temperature must be >= 0"),
        ({"gen_length": "many"}, "many|not supported"),
        ({"remasking": "treshold"}, "no 'treshold'; available: .*threshold"),
        ({"remasking": {"name": "threshold", "threshold": 2.0}}, "threshold must be <= 1"),
        ({"remasking": {"name": "threshold", "bar": 0.5}}, "bar"),
        ({"cache": {"name": "prompt", "refresh_every": 2}}, "has no effect on the exact cache 'prompt'"),
        ({"cache": "quick"}, "cache: there is no 'quick'; available: auto, off"),
        ({"eos": "halt"}, "eos: there is no 'halt'; available: stop"),
        ({"suppress_tokens": [3, -1]}, "suppress_tokens must be >= 0"),
        ({"num_beams": 4}, "num_beams"),
    ],
)
def test_wrong_settings_are_refused_there_as_here(module: ModuleType, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(module.UserInputError, match=reason):
        module.settings_of(settings)


def test_what_a_folder_cannot_bring_along_is_refused(tmp_path: Path) -> None:
    foreign = write_model(
        tmp_path / "foreign",
        attention_bias_component={"name": "builtin:per_layer", "plan": ["acme:sliding"]},
        noise_shows_mask=False,
    )
    with pytest.raises(ModelError, match=r"attention bias acme:sliding .*; it has never seen the mask") as refused:
        export_hugging_face(foreign, tmp_path / "hf")
    assert "training.block_attention.bias" in str(refused.value)
    assert not (tmp_path / "hf").exists()
    (foreign / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="dlm merge"):
        export_hugging_face(foreign, tmp_path / "hf")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", r"1 tensors are missing \(model\.norm\.weight\)"),
        ("shape", r"model\.norm\.weight is \[3\], not \[16\]"),
        ("name", "no file named model.safetensors"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(tmp_path: Path, damage: str, reason: str) -> None:
    model = write_model(tmp_path / "model")
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.ones(3)
    if damage == "missing":
        del tensors["model.norm.weight"]
    if damage == "name":
        file.rename(model / "other.safetensors")
    else:
        save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=reason):
        export_hugging_face(model, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_the_configuration_says_how_it_is_loaded(exported: dict[str, tuple[Path, Path]]) -> None:
    for case, name in (("full, tied", "Qwen3LLadaForMaskedLM"), ("llama", "DiffusionLlamaForCausalLM")):
        source, folder = exported[case]
        before, after = (json.loads((each / "config.json").read_text()) for each in (source, folder))
        assert after["auto_map"]["AutoModelForMaskedLM"] == f"{MODULE}.{name}"
        assert after["architectures"] == [name]
        changed = {key for key in after if before.get(key) != after[key]}
        assert changed <= {"auto_map", "architectures", "is_causal", "use_cache"}

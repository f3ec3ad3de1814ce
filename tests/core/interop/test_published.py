"""``dlm convert`` of published diffusion models: tiny random checkpoints in each layout, against a forward by hand."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import metadata_load
from safetensors.torch import load_file, save_file
from torch import Tensor

import dlm
from dlm.errors import ModelError
from dlm.interop.convert import convert
from dlm.interop.layout_configs import plain_config
from dlm.interop.layouts import block_length_of, layout_of
from dlm.interop.sdar import export_sdar
from dlm_cli.main import cli

from .conftest import END, TURN_END, qwen_tokenizer
from .forward import block_causal, full, logits_of, stored

HEADS, KV_HEADS, WIDTH, INNER, DEPTH, ROWS = 4, 2, 16, 24, 2, 151936
QWEN: dict[str, Any] = {
    "attention_dropout": 0.0,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": 64,
    "max_window_layers": 28,
    "num_attention_heads": HEADS,
    "num_hidden_layers": DEPTH,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "sliding_window": None,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": ROWS,
}
LLADA: dict[str, Any] = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": WIDTH,
    "embedding_size": ROWS,
    "eos_token_id": 126081,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "mask_token_id": 126336,
    "max_sequence_length": 64,
    "mlp_hidden_size": INNER,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "n_heads": HEADS,
    "n_kv_heads": HEADS,
    "n_layers": DEPTH,
    "pad_token_id": 126081,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "vocab_size": ROWS,
    "weight_tying": False,
}
LLADA_NAMES = {
    "model.embed_tokens": "model.transformer.wte",
    "model.norm": "model.transformer.ln_f",
    "lm_head": "model.transformer.ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


@attrs.frozen(kw_only=True)
class Case:
    """A published layout, and what is known of its models."""

    config: dict[str, Any]
    mask: int
    tokenizer: Callable[[], Any]
    model_class: str
    qk_norm: bool = False
    qkv_bias: bool = False
    head: bool = True
    kv_heads: int = KV_HEADS
    block: int | None = None
    shift: bool = False
    ends: tuple[int, ...] = (END, TURN_END)
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def eps(self) -> float:
        return float(self.config["rms_norm_eps"])


def a2d(name: str, **more: Any) -> dict[str, Any]:
    return {**QWEN, "model_type": name, "architectures": [f"A2D{name[4:].title()}LMHeadModel"], **more}


CASES: dict[str, Case] = {
    "sdar": Case(
        config={
            **QWEN,
            "model_type": "sdar",
            "architectures": ["SDARForCausalLM"],
            "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig"},
            "attention_bias": False,
            "head_dim": 8,
            "block_size": 4,
            "mask_token_id": 151669,
            "fuse_cross_entropy": True,
            "tie_word_embeddings": False,
        },
        mask=151669,
        tokenizer=lambda: qwen_tokenizer("<|MASK|>"),
        model_class="Qwen3LLadaForMaskedLM",
        qk_norm=True,
        block=4,
    ),
    "a2d-qwen3 mdlm": Case(
        # The flag says tied, the file has a head of its own: the file is right.
        config=a2d("a2d-qwen3", head_dim=8, tie_word_embeddings=True),
        mask=102,  # its programs add the token at the next free id when they run
        tokenizer=lambda: qwen_tokenizer(None),
        model_class="Qwen3LLadaForMaskedLM",
        qk_norm=True,
        options={"layout": "a2d-mdlm"},
    ),
    "a2d-qwen3 bd3lm": Case(
        config=a2d("a2d-qwen3", head_dim=8, tie_word_embeddings=True),
        mask=151669,
        tokenizer=lambda: qwen_tokenizer("<|mask|>"),
        model_class="Qwen3LLadaForMaskedLM",
        qk_norm=True,
        block=3,
        options={"layout": "a2d-bd3lm", "block_length": 3},
    ),
    "a2d-qwen2 bd3lm": Case(
        config=a2d("a2d-qwen2", tie_word_embeddings=True),
        mask=151665,
        tokenizer=lambda: qwen_tokenizer("<|mask|>", 151665),
        model_class="Qwen2ForCausalLM",
        qkv_bias=True,
        block=3,
        options={"layout": "a2d-bd3lm", "block_length": 3},
    ),
    "a2d-llama mdlm": Case(
        config=a2d("a2d-llama", tie_word_embeddings=False, eos_token_id=128009),
        mask=103,
        tokenizer=lambda: qwen_tokenizer(None, **{"<|eot_id|>": 128009}),
        model_class="LlamaForCausalLM",
        ends=(128009, END, TURN_END),
        options={"layout": "a2d-mdlm"},
    ),
    "open-dllm": Case(
        config={**QWEN, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True},
        mask=151665,
        tokenizer=lambda: qwen_tokenizer("<M>", 151665),
        model_class="Qwen2ForCausalLM",
        qkv_bias=True,
        head=False,
        shift=True,
        options={"layout": "open-dllm"},
    ),
    "Fast_dLLM_Qwen": Case(
        config={
            **QWEN,
            "model_type": "Fast_dLLM_Qwen",
            "architectures": ["Fast_dLLM_QwenForCausalLM"],
            "bd_size": 4,
            "conplemenrary_mask": True,
            "eos_token_id": TURN_END,
            "layer_types": ["full_attention"] * DEPTH,
            "tie_word_embeddings": True,
        },
        mask=151665,
        tokenizer=lambda: qwen_tokenizer("|<MASK>|", 151665),
        model_class="Qwen2ForCausalLM",
        qkv_bias=True,
        head=False,
        block=4,
        shift=True,
        ends=(TURN_END, END),
    ),
    "Dream": Case(
        config={
            **QWEN,
            "model_type": "Dream",
            "architectures": ["DreamModel"],
            "mask_token_id": 151666,
            "tie_word_embeddings": False,
            "use_mrope": False,
        },
        mask=151666,
        tokenizer=lambda: qwen_tokenizer("<|mask|>", 151666),
        model_class="Qwen2ForCausalLM",
        qkv_bias=True,
        shift=True,
    ),
    "llada": Case(
        config=LLADA,
        mask=126336,
        tokenizer=lambda: qwen_tokenizer(None, **{"<|mdm_mask|>": 126336, "<|eot_id|>": 126348}),
        model_class="LlamaForCausalLM",
        kv_heads=HEADS,
        ends=(126081, END, 126348),
    ),
}


def tensors_of(case: Case) -> dict[str, Tensor]:
    """Random weights by Qwen's names."""
    size, kv_size = WIDTH // HEADS if not case.qk_norm else 8, case.kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, WIDTH), "model.norm.weight": (WIDTH,)}
    if case.head:
        shapes["lm_head.weight"] = (ROWS, WIDTH)
    for index in range(DEPTH):
        layer: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (WIDTH,),
            "post_attention_layernorm.weight": (WIDTH,),
            "self_attn.q_proj.weight": (HEADS * size, WIDTH),
            "self_attn.k_proj.weight": (kv_size * size, WIDTH),
            "self_attn.v_proj.weight": (kv_size * size, WIDTH),
            "self_attn.o_proj.weight": (WIDTH, HEADS * size),
            "mlp.gate_proj.weight": (INNER, WIDTH),
            "mlp.up_proj.weight": (INNER, WIDTH),
            "mlp.down_proj.weight": (WIDTH, INNER),
        }
        if case.qk_norm:
            layer |= {"self_attn.q_norm.weight": (size,), "self_attn.k_norm.weight": (size,)}
        if case.qkv_bias:
            layer |= {
                f"self_attn.{part}_proj.bias": (HEADS * size if part == "q" else kv_size * size,) for part in "qkv"
            }
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    generator = torch.Generator().manual_seed(7)
    tensors = {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: tensor + 1 if "norm" in name else tensor for name, tensor in tensors.items()}


def published_name(case: Case, name: str) -> str:
    if case.config["model_type"] != "llada":
        return name
    for plain, theirs in LLADA_NAMES.items():
        name = name.replace(f"{plain}.weight", f"{theirs}.weight")
    return name.replace("model.layers.", "model.transformer.blocks.")


def write(folder: Path, case: Case, config: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Write the checkpoint as it is published, in two files; its tensors by Qwen's names."""
    folder.mkdir()
    tensors = tensors_of(case)
    parts = [sorted(tensors)[::2], sorted(tensors)[1::2]]
    weight_map = {}
    for number, names in enumerate(parts):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        save_file({published_name(case, name): tensors[name] for name in names}, folder / file, {"format": "pt"})
        weight_map |= {published_name(case, name): file for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(case.config if config is None else config))
    (folder / "LICENSE").write_text("theirs")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Theirs\n")
    (folder / "LICENSES").mkdir()
    case.tokenizer().save_pretrained(folder)
    return tensors


@pytest.mark.parametrize("name", CASES)
def test_a_published_model_is_read_as_it_was_meant(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    tensors = write(tmp_path / "theirs", case)
    report = convert(tmp_path / "theirs", tmp_path / "ours", **case.options)
    assert (report.model_class, report.mask_token_id) == (case.model_class, case.mask)
    written: dict[str, Tensor] = {}
    for file in (tmp_path / "ours").glob("*.safetensors"):
        written |= load_file(file)
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[key], tensors[key]) for key in tensors)
    assert (tmp_path / "ours" / "LICENSE").read_text() == "theirs"
    assert metadata_load(tmp_path / "ours" / "README.md") == {"license": "mit", "tags": ["dlm"]}
    assert (tmp_path / "ours" / "LICENSES").is_dir()
    model = dlm.load(tmp_path / "ours", dtype="float64")
    config = model.config
    assert (config.mask_token_id, config.logit_shift, config.eos_token_id) == (case.mask, case.shift, list(case.ends))
    blocks = (getattr(config, "block_length", None), getattr(config, "block_origin", None))
    assert blocks == ((case.block, "document") if case.block else (None, None))
    ids = torch.tensor([3, 14, 15, 92, case.mask, 6, case.mask, case.mask, 35, 8])
    visible = full(len(ids)) if case.block is None else block_causal(len(ids), case.block)
    shape = {"heads": HEADS, "kv_heads": case.kv_heads, "eps": case.eps, "theta": 500000.0}
    expected = logits_of({key: tensor.double() for key, tensor in tensors.items()}, ids, visible, **shape)
    mask = torch.zeros(10, 10, dtype=torch.float64).masked_fill(~visible, -torch.inf)[None, None]
    with torch.no_grad():
        assert torch.allclose(
            model(ids[None], attention_mask=mask).logits[0], expected, atol=1e-5 * float(expected.abs().max())
        )
    assert_decodes_alike(model, case, tensors, shape)


ODD_VALUES: list[Any] = [None, True, -1, 0, 3, 7.5, "wide", [], [3], {}, {"rope_type": 3}, 10**9, float("nan"), 1e300]


@pytest.mark.parametrize("name", [each for each in CASES if not each.startswith("a2d") or "bd3lm" in each])
def test_no_damaged_configuration_is_a_traceback(name: str) -> None:
    case, refused = CASES[name], 0
    for key in {*case.config, "rope_parameters", "layer_types", "architectures"}:
        for value in ODD_VALUES:
            settings = {**case.config, key: value}
            try:
                layout = layout_of(settings, case.options.get("layout"), "config.json")
                if layout is not None:  # another model_type: an ordinary checkpoint
                    block_length_of(layout, settings, case.options.get("block_length"), "config.json")
                    plain_config(layout, settings, "config.json", has_head=case.head)
            except ModelError as error:
                refused += 1
                message = str(error)
                assert message.startswith("config.json"), (key, value)
                assert "\n" not in message
                assert any(each in message for each in (key, *case.config, "hidden size", "blocks")), (key, value)
    assert refused > len(case.config)


@pytest.mark.parametrize("said", ["abc", True, [126336], 1.5])
def test_a_mask_that_is_no_id_is_refused(tmp_path: Path, said: Any) -> None:
    write(tmp_path / "theirs", CASES["llada"], {**LLADA, "mask_token_id": said})
    with pytest.raises(ModelError, match=r"mask_token_id is .*; it must be the id of a token"):
        convert(tmp_path / "theirs", tmp_path / "ours")


def test_generation_settings_that_are_no_json_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "theirs", CASES["sdar"])
    (tmp_path / "theirs" / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json: not readable"):
        convert(tmp_path / "theirs", tmp_path / "ours", **CASES["sdar"].options)


def test_a_tokenizer_configuration_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "theirs", CASES["sdar"])
    (tmp_path / "theirs" / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"theirs/tokenizer_config\.json: not readable"):
        convert(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize("damage", ["quantised", "no tokenizer"])
def test_errors_name_the_source_and_no_folder_that_is_gone(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "theirs", CASES["sdar"])
    for file in (tmp_path / "theirs").glob("*.safetensors" if damage == "quantised" else "tokenizer*"):
        if damage == "quantised":
            save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(file).items()}, file)
        else:
            file.unlink()
    with pytest.raises(ModelError) as refused:
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert str(refused.value).startswith(f"{tmp_path / 'theirs'}: ")
    assert "partial" not in str(refused.value)


def assert_decodes_alike(model: Any, case: Case, tensors: Mapping[str, Tensor], shape: Mapping[str, Any]) -> None:
    """Six tokens after a prompt of five, one at a time where the model is most certain, by hand and by the sampler."""
    wide = {key: tensor.double() for key, tensor in tensors.items()}
    ids = torch.tensor([5, 6, 7, 8, 9] + [case.mask] * 6)
    block = case.block or len(ids)
    for stop in range(block, len(ids) + block, block):
        end = min(stop, len(ids))
        while bool((ids[:end] == case.mask).any()):
            visible = full(end) if case.block is None else block_causal(end, block)
            logits = logits_of(wide, ids[:end], visible, **shape)
            logits = torch.cat((logits[:1], logits[:-1])) if case.shift else logits
            logits[:, case.mask] = -torch.inf
            confidence, token = logits.softmax(-1).max(-1)
            best = confidence.where(ids[:end] == case.mask, -1).argmax()
            ids[best] = token[best]
    sequences = dlm.generate(model, torch.tensor([[5, 6, 7, 8, 9]]), gen_length=6, eos="free").sequences
    assert sequences[0].tolist() == ids.tolist()


def test_sdar_comes_in_and_goes_out_as_it_was(tmp_path: Path) -> None:
    case = CASES["sdar"]
    write(tmp_path / "theirs", case)
    convert(tmp_path / "theirs", tmp_path / "ours")
    export_sdar(tmp_path / "ours", tmp_path / "again")
    first, again = stored(tmp_path / "theirs"), stored(tmp_path / "again")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    same = case.config.keys() - {"fuse_cross_entropy"}
    assert {key: config[key] for key in same} == {key: case.config[key] for key in same}


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "a2d that does not say": ("a2d-qwen3 mdlm", {}, {}, "--as a2d-mdlm or --as a2d-bd3lm"),
    "no block length": ("sdar", {"block_size": None}, {}, "--block-length N"),
    "two block lengths": ("sdar", {}, {"block_length": 8}, "says blocks of 4, --block-length says 8"),
    "blocks where there are none": ("Dream", {}, {"block_length": 8}, "has no blocks"),
    "another layout": ("sdar", {}, {"layout": "dream"}, "model_type is sdar; --as dream reads Dream"),
    "unknown layout": ("sdar", {}, {"layout": "sdra"}, "known are sdar"),
    "experts": ("sdar", {"model_type": "sdar_moe"}, {}, "sdar_moe (SDARForCausalLM) is a mixture of experts"),
    "LLaDA2": ("sdar", {"model_type": "llada2_moe"}, {}, "a mixture of experts"),
    "LLaDA-MoE": ("llada", {"architectures": ["LLaDAMoEModelLM"]}, {}, "a mixture of experts"),
    "random noise": ("sdar", {"model_type": "diffusion_gemma"}, {}, "no mask model"),
    "no rope_theta": ("Dream", {"rope_theta": None}, {}, "rope_theta is missing"),
    "scaled rope": ("Dream", {"rope_scaling": {"type": "yarn", "factor": 2}}, {}, "rope_scaling is"),
    "windows": ("Dream", {"use_sliding_window": True}, {}, "use_sliding_window is True"),
    "mrope": ("Dream", {"use_mrope": True}, {}, "use_mrope is True"),
    "no shape": ("Dream", {"num_key_value_heads": None}, {}, "num_key_value_heads missing"),
    "two masks": ("Dream", {"mask_token_id": 151665}, {}, "which token is the mask?"),
    "untrained mask": ("Dream", {}, {"mask_token": "<new>"}, "the tokenizer has no '<new>'"),
    "alibi": ("llada", {"alibi": True}, {}, "alibi is True, which means another model"),
    "layer norm": ("llada", {"layer_norm_type": "default"}, {}, "layer_norm_type is 'default'"),
    "bias": ("llada", {"include_qkv_bias": True}, {}, "include_qkv_bias is True"),
    "table": ("llada", {"embedding_size": 151999}, {}, "embedding_size 151999"),
    "switch left out": ("llada", {"block_type": None}, {}, "block_type missing"),
}
OTHER_MODELS = {
    "block_type": "sequential",
    "activation_type": "gelu",
    "rope": False,
    "attention_layer_norm": True,
    "bias_for_layer_norm": True,
    "include_bias": True,
    "scale_logits": True,
    "input_emb_norm": True,
    "multi_query_attention": True,
    "block_group_size": 2,
    "rope_scaling": {"type": "yarn", "factor": 2},
}
REFUSED |= {
    f"llada {key}": ("llada", {key: value}, {}, f"{key} is {value!r}, which means another model")
    for key, value in OTHER_MODELS.items()
}


@pytest.mark.parametrize(("name", "changes", "options", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_mapped_says_why(
    tmp_path: Path, name: str, changes: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    case = attrs.evolve(CASES[name], head=False)
    config = {
        key: value for key, value in {**case.config, **changes}.items() if value is not None or key not in changes
    }
    config["tie_word_embeddings"] = config["weight_tying"] = True
    write(tmp_path / "theirs", case, config)
    with pytest.raises(ModelError) as refused:
        convert(tmp_path / "theirs", tmp_path / "ours", **options)
    assert reason in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    case = CASES["llada"]
    write(tmp_path / "theirs", case)
    extra = {"model.transformer.blocks.0.q_norm.weight": torch.ones(4)}
    index = json.loads((tmp_path / "theirs" / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys(extra, "extra.safetensors")
    (tmp_path / "theirs" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(extra, tmp_path / "theirs" / "extra.safetensors")
    with pytest.raises(ModelError, match=r"q_norm\.weight has no place"):
        convert(tmp_path / "theirs", tmp_path / "ours")


def test_a_plain_qwen2_stays_an_ordinary_conversion(tmp_path: Path) -> None:
    write(tmp_path / "theirs", CASES["open-dllm"])
    assert convert(tmp_path / "theirs", tmp_path / "ours").published is None
    assert getattr(dlm.load(tmp_path / "ours").config, "logit_shift", False) is False
    with pytest.raises(ModelError, match="--block-length 4 is for published"):
        convert(tmp_path / "theirs", tmp_path / "again", block_length=4)


def test_a_tokenizer_class_of_their_own_gives_way_to_the_familys(tmp_path: Path) -> None:
    write(tmp_path / "theirs", CASES["Dream"])
    path = tmp_path / "theirs" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings |= {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization.DreamTokenizer", None]},
    }
    path.write_text(json.dumps(settings))
    assert convert(tmp_path / "theirs", tmp_path / "ours").mask_token_id == 151666


def test_the_command_says_what_it_recognised(tmp_path: Path) -> None:
    write(tmp_path / "theirs", CASES["sdar"])
    result = CliRunner().invoke(cli, ["convert", "--src", str(tmp_path / "theirs"), "--dst", str(tmp_path / "ours")])
    assert result.exit_code == 0, result.output
    assert (
        "sdar: builtin:block_causal, blocks from the start of the text; predicts in place; blocks of 4" in result.output
    )
    assert "not carried  fuse_cross_entropy" in result.output
    analysis = CliRunner().invoke(cli, ["analyze", str(tmp_path / "theirs"), str(tmp_path / "ours")])
    assert analysis.exit_code == 0, analysis.output

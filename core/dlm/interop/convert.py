"""Convert a checkpoint (autoregressive, published diffusion, GGUF; local, hub) to one of ``dlm``, weights unchanged."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from huggingface_hub import snapshot_download
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from dlm.errors import ModelError
from dlm.interop.published import Published, recognise, unpack_published
from dlm.model.adapter_files import refuse_adapters
from dlm.model.analyze import Comparison, Status, analyze
from dlm.model.body_and_head import num_parameters
from dlm.model.checkpoint_sources import foreign_code, quiet_transformers, resolve_source, searched
from dlm.model.checkpoint_tensors import check_weights, open_tensors
from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig
from dlm.model.copy_weights import copy_weights, vocabulary_tensor_names
from dlm.model.foreign_config import load_model_config
from dlm.model.gguf import gguf_file_of, unpack_gguf
from dlm.model.load_model import load_model, make_bidirectional, say_if_replaced
from dlm.model.new_folder import check_destination, published, scratch_beside
from dlm.model.notices import CARD, NOTICES, copy_notices, write_card
from dlm.model.tokenizer import ensure_mask_token, load_tokenizer, num_ids, rows_needed
from dlm.user_paths import user_path

_NOT_CARRIED_OVER = ("model_type", "architectures", "transformers_version", "is_causal", "use_cache", "auto_map")


@attrs.frozen(kw_only=True)
class ConversionReport:
    """What a conversion did."""

    source: str
    destination: str
    model_class: str
    """Class of the converted model."""
    mask_token: str
    mask_token_id: int
    mask_token_added: bool
    """False: the tokenizer had it."""
    num_rows_before: int
    """Rows of the embedding in the source."""
    num_rows_after: int
    num_tensors: int
    num_parameters: int
    dtypes: tuple[str, ...]
    """Dtypes of the tensors, as safetensors names them."""
    published: Published | None = None
    """What was recognised where the source is a diffusion model already."""


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    mask_token: str | None = None,
    layout: str | None = None,
    block_length: int | None = None,
    trust_remote_code: bool = False,
) -> ConversionReport:
    """Convert a checkpoint.

    A Qwen3 becomes a ``Qwen3LLadaForMaskedLM``; another decoder keeps its class, and its configuration says that it is
    bidirectional. The weight files are copied, and read back and compared with the source. The mask token gets an id
    inside the embedding where there is a free row (Qwen3: 151669); otherwise the embedding grows by as little as it
    can, with the mean of the old rows.

    A published diffusion model (SDAR, Dream, LLaDA, ...; see ``dlm.interop.layouts``) is recognised, and its own names
    become those of Qwen3, Qwen2 or Llama; its mask token, attention, blocks and logit shift are recorded.

    Args:
        src: Folder with ``config.json``, safetensors and a tokenizer, a name on the Hugging Face hub, or a GGUF file:
            its path, or ``pkg://package/file.gguf`` inside an installed package.
        dst: Folder to write; absent or empty. It appears whole or not at all.
        mask_token: Text of the mask token, reused where the tokenizer has it; None: the one that the tokenizer
            declares, else ``<|mask|>``.
        layout: Name of the published layout, where its files do not tell (``open-dllm``, ``a2d-bd3lm``, ...).
        block_length: Tokens in a block of a published model whose files do not say it.
        trust_remote_code: Whether code from the checkpoint may run; it is copied along.

    Raises:
        ModelError: ``dst`` is not empty, the source cannot be read or converted, or what was written does not verify.
    """
    destination = user_path(dst)
    check_destination(destination)
    with _local_source(src, destination) as source:
        refuse_adapters(source)
        found = recognise(source, layout)
        if found is None:
            _refuse_published_options(layout, block_length)
            return _convert_folder(src, source, source, destination, mask_token, trust_remote_code=trust_remote_code)
        with scratch_beside(destination) as plain, _said_of(source, plain):
            published_model = unpack_published(source, plain, *found, mask_token=mask_token, block_length=block_length)
            report = _convert_folder(src, source, plain, destination, None, trust_remote_code=False)
        return attrs.evolve(report, published=published_model)


def _refuse_published_options(layout: str | None, block_length: int | None) -> None:
    for option, value in (("--as", layout), ("--block-length", block_length)):
        if value is not None:
            raise ModelError(
                f"{option} {value} is for published diffusion models; the source is an ordinary checkpoint"
            )


def _convert_folder(
    src: str | Path, home: Path, source: Path, destination: Path, mask_token: str | None, *, trust_remote_code: bool
) -> ConversionReport:
    """Convert what is in ``source`` in the names of plain transformers; its card is in ``home``."""
    config = load_model_config(str(source), trust_remote_code=trust_remote_code, local_files_only=True)
    check_weights(source)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    num_ids_before = num_ids(tokenizer)
    mask_id = ensure_mask_token(tokenizer, mask_token)
    mask_token = str(tokenizer.mask_token)
    old_rows = int(config.get_text_config().vocab_size)
    new_rows = rows_needed(old_rows, tokenizer, mask_id)
    with open_tensors(source) as stored:
        names = list(stored.slices)
    resized: set[str] = set()
    if new_rows != old_rows:
        resized = vocabulary_tensor_names(config, names, trust_remote_code=trust_remote_code)
    converted = converted_config(config, mask_token=mask_token, mask_token_id=mask_id, num_rows=new_rows)
    with published(destination) as folder:
        copy_weights(source, folder, resized=resized, num_rows=new_rows)
        _write_rest(source, folder, converted, tokenizer, with_code=trust_remote_code)
        write_card(home, folder, f"Converted by `dlm convert` from {src}", _hub_name(src))
        with _said_of(src, folder):
            comparison = _verify_weights(source, folder, resized)
            model = _verify_model(folder, mask_id, trust_remote_code=trust_remote_code)
    return ConversionReport(
        source=str(src),
        destination=str(destination),
        model_class=type(model).__name__,
        mask_token=mask_token,
        mask_token_id=mask_id,
        mask_token_added=num_ids(tokenizer) != num_ids_before,
        num_rows_before=old_rows,
        num_rows_after=new_rows,
        num_tensors=len(names),
        num_parameters=num_parameters(model)[0],
        dtypes=tuple(sorted({tensor.dtype_b for tensor in comparison.tensors if tensor.dtype_b is not None})),
    )


def converted_config(
    config: PreTrainedConfig, *, mask_token: str, mask_token_id: int, num_rows: int
) -> PreTrainedConfig:
    """The configuration of the converted model; ``config`` may be changed.

    Args:
        config: Configuration of the source.
        mask_token: Text of the mask token.
        mask_token_id: Its id, below ``num_rows``.
        num_rows: Rows of the embedding.
    """
    if config.model_type in ("qwen3", Qwen3LLadaConfig.model_type):
        fields: dict[str, Any] = {key: value for key, value in config.to_dict().items() if key not in _NOT_CARRIED_OVER}
        fields |= {"vocab_size": num_rows, "mask_token": mask_token, "mask_token_id": mask_token_id}
        say_if_replaced(config, mask_token_id)
        return Qwen3LLadaConfig(**fields, architectures=["Qwen3LLadaForMaskedLM"])
    config.get_text_config().vocab_size = num_rows
    make_bidirectional(config, mask_token_id=mask_token_id)
    config.mask_token = mask_token
    return config


@contextmanager
def _said_of(source: str | Path, folder: Path) -> Iterator[None]:
    """Errors about a temporary folder, which is gone when they are read, name what it was made of."""
    try:
        yield
    except ModelError as error:
        if str(folder) not in str(error):
            raise
        raise ModelError(str(error).replace(str(folder), str(source))) from error


@contextmanager
def _local_source(src: str | Path, destination: Path) -> Iterator[Path]:
    """The folder of a checkpoint: downloaded if ``src`` is a name on the hub, made for a while if it is a GGUF file."""
    gguf_file = gguf_file_of(src)
    if gguf_file is not None:
        with scratch_beside(destination) as folder, _said_of(src, folder):
            unpack_gguf(gguf_file, folder)
            yield folder
        return
    source, is_folder = resolve_source(src)
    if is_folder:
        yield Path(source)
        return
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py", CARD, *NOTICES]
    with foreign_code(f"{searched(source)}: not to be had"):
        downloaded = snapshot_download(source, allow_patterns=patterns, ignore_patterns=["consolidated*"])
    yield Path(downloaded)


def _hub_name(src: str | Path) -> str | None:
    source, is_local = (str(src), True) if gguf_file_of(src) else resolve_source(src)
    return None if is_local else source


def _write_rest(
    source: Path, folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, *, with_code: bool
) -> None:
    """Write configuration and tokenizer, and copy the notices, and generation settings where the class can use them."""
    with quiet_transformers():
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    copy_notices(source, folder)
    patterns = []
    if with_code:
        patterns.append("*.py")
    if not isinstance(config, Qwen3LLadaConfig):
        patterns.append("generation_config.json")
    for pattern in patterns:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def _verify_weights(source: Path, folder: Path, resized: set[str]) -> Comparison:
    """Read both back and compare them, bit by bit except for the tensors that had to grow."""
    comparison = analyze(source, folder)
    for tensor in comparison.tensors:
        if not tensor.same and not (tensor.name in resized and tensor.status is Status.SHAPE):
            raise ModelError(f"{folder}: tensor {tensor.name} was not written as it was read ({tensor.status})")
    return comparison


def _verify_model(folder: Path, mask_id: int, *, trust_remote_code: bool) -> Any:
    """Load what was written, which proves that it is bidirectional, and check that the mask ids agree."""
    try:
        model = load_model(folder, trust_remote_code=trust_remote_code)
    except ModelError as error:
        if "sdpa" not in str(error):
            raise
        model = load_model(folder, attn_implementation="eager", trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    if model.config.mask_token_id != mask_id or tokenizer.mask_token_id != mask_id:
        raise ModelError(
            f"{folder}: the mask id should be {mask_id}, but the model says {model.config.mask_token_id} and the "
            f"tokenizer {tokenizer.mask_token_id}"
        )
    return model

"""A network as a folder that `load_network` reads, and the hash that says which weights a folder or hub id holds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils.hub import cached_file

from vigc.model.files.loading import DTYPES
from vigc.model.files.stored_tensors import first_line
from vigc.model.files.weight_files import find_weights, hash_files
from vigc.model.llava.network import LlavaNetwork
from vigc.model.network import Network
from vigc.model.weights.trainable_model import T, TrainableModel, renamed
from vigc.platform.records import ModelError

# What surrounds the weights: tokenizers, image processor, chat template. The two configurations are written anew, since
# they say how the weights are stored.
COMPANIONS = ("*.json", "*.model", "*.txt", "*.jinja", "qformer_tokenizer/*")
WRITTEN_ANEW = ("config.json", "generation_config.json", "*.index.json")
ORIGIN = "origin.json"
MAX_SHARD_SIZE = "5GB"


def base_hash(base: TrainableModel | str | Path) -> str:
    """sha256 of the weight files that a network was loaded from, or of those of a folder or hub id.

    Raises:
        ModelError: nothing is stored under that name, as for a network that was changed after loading.
    """
    name = str(base) if isinstance(base, str | Path) else base.name
    return hash_files(find_weights(locate(name)))


def locate(name: str) -> Path:
    """The folder that a model's files are in: itself, or where the hub's files were downloaded to.

    Raises:
        ModelError: neither a folder nor a downloaded hub id.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.absolute()
    try:
        config = cached_file(name, "config.json", local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name}: neither a model folder nor a downloaded hub id, so its weights have no hash. Save a network that "
            "was put together from several files with save_network and load it from there."
        ) from error
    return Path(str(config)).parent


def require_free(out: str | Path) -> None:
    """Raises ModelError when something is at `out` already."""
    if os.path.lexists(out):
        raise ModelError(f"{out} exists. Name a place where nothing is yet.")


def require_dtype(dtype: str | None) -> None:
    """Raises ModelError for an unknown one."""
    if dtype is not None and dtype not in DTYPES:
        raise ModelError(f"The dtype {dtype!r} is unknown; use {', '.join(DTYPES)}.")


def save_network(
    network: T, out: str | Path, origin: Mapping[str, Any] | None = None, *, dtype: str | None = None
) -> T:
    """Writes the whole model with its tokenizers and image processor; the folder appears when it is complete.

    Args:
        origin: what the weights were made of, as JSON; written to ORIGIN.
        dtype: a name of DTYPES, to which all weights of the network are changed first; None leaves them as they are.
    Returns:
        the network under the folder's name.
    Raises:
        ModelError: something is there already, adapters are still beside the weights, or it cannot be written.
    """
    require_free(out)
    if adapters := [name for name, _ in network.model.named_parameters() if ".lora_" in name]:
        raise ModelError(f"{network.name}: {len(adapters)} adapter tensors would be lost in {out}. Merge them first.")
    require_dtype(dtype)
    if dtype is not None:
        network.model.to(DTYPES[dtype])
    # A network that was made and not loaded has no folder to copy from.
    source = locate(network.tokenizer.name_or_path) if network.tokenizer.name_or_path else None
    target = Path(out).absolute()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        network.model.save_pretrained(temporary, max_shard_size=MAX_SHARD_SIZE)
        if source is None:
            _write_companions(network, temporary)
        else:
            _copy_companions(source, temporary)
        if origin is not None:
            (temporary / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{out}: the model cannot be written ({first_line(error)}). Choose another place.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return renamed(network, str(target))


def _copy_companions(source: Path, target: Path) -> None:
    for pattern in COMPANIONS:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and not any(file.match(name) for name in (*WRITTEN_ANEW, ORIGIN)):
                place = target / file.relative_to(source)
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, place)


def _write_companions(network: TrainableModel, target: Path) -> None:
    network.tokenizer.save_pretrained(target)
    processor: dict[str, Any] = {
        "image_processor_type": "BlipImageProcessor",
        "size": {"height": network.image_size, "width": network.image_size},
        "image_mean": network.image_mean,
        "image_std": network.image_std,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    if isinstance(network, Network):
        network.qformer_tokenizer.save_pretrained(target / "qformer_tokenizer")
    elif isinstance(network, LlavaNetwork):
        side = {"height": network.image_size, "width": network.image_size}
        processor |= {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}
        processor |= {"size": {"shortest_edge": network.image_size}, "do_center_crop": True, "crop_size": side}
        vision = network.model.config
        described = {
            "processor_class": "LlavaProcessor",
            "patch_size": vision.vision_config.patch_size,
            "vision_feature_select_strategy": vision.vision_feature_select_strategy,
            "num_additional_image_tokens": network.num_class_tokens,
            "image_token": network.chat.image_token,
        }
        (target / "processor_config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        (target / "chat_template.jinja").write_text(network.chat.template, encoding="utf-8")
    (target / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")


def language_model_folder(network: Network) -> Path:
    """The language model alone, as a folder that other programs load: weights and configuration, no tokenizer. It is
    written once for each set of weights into the user's cache (XDG_CACHE_HOME) and found there from then on.

    Raises:
        ModelError: it cannot be written.
    """
    model = network.language_model
    digest = hashlib.sha256(f"{network.dtype} {model.config.to_json_string()}".encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    target = cache / "vigc" / "language-models" / digest.hexdigest()[:32]
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if target.is_dir():
        return target
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary, max_shard_size=MAX_SHARD_SIZE)
        try:
            os.replace(temporary, target)
        except OSError:
            if not target.is_dir():  # else another actor was quicker, with the same
                raise
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{target}: the language model cannot be written ({first_line(error)}). XDG_CACHE_HOME names another place."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target

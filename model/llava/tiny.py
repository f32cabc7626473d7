"""A LLaVA-style model that two cores can train: the embedded model's eyes and words, put together as LLaVA does.

The eyes become a SigLIP tower, which has the same layers under other names and no class token (a CLIP tower would norm
what enters the first layer, and these weights know no such norm). The words become the language model as they are.
Between them stands a projector that knows nothing yet, so a model that was just put together is blind, as LLaVA is
before its first stage of training.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig
from transformers.conversion_mapping import get_model_conversion_mapping

from vigc.model.embedded import PATH
from vigc.model.llava.chat import ChatTemplate
from vigc.model.llava.network import LlavaNetwork
from vigc.model.network import Network, load_network
from vigc.model.prompts import PromptPack

NUM_POSITIONS = 2048  # of image, question and answer
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif message['role'] == 'user' %}{{ ' QUESTION ' + part['text'] }}"
    "{% else %}{{ ' ' + part['text'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'user' %}{{ ' ANSWER' if not loop.last or add_generation_prompt else '' }}{% endif %}"
    "{% endfor %}"
)


def tiny_llava(pack: PromptPack, seed: int) -> LlavaNetwork:
    """A fresh one; the seed decides the projector."""
    source = load_network(PATH, device="cpu", dtype="float32")
    torch.manual_seed(seed)
    model: Any = LlavaForConditionalGeneration(_config(source))
    # Stored under the names that folders on the hub have and vLLM knows (`vision_tower.vision_model`), as transformers
    # does with a model that was loaded from such a folder.
    model._weight_conversions = get_model_conversion_mapping(model, add_legacy=False)
    model.model.language_model.load_state_dict(source.language_model.model.state_dict())
    model.lm_head.load_state_dict(source.language_model.lm_head.state_dict())
    model.model.vision_tower.load_state_dict(_tower(source))
    template = TEMPLATE.replace("QUESTION", pack.question_tag).replace("ANSWER", pack.answer_tag)
    source.tokenizer.chat_template = template
    source.tokenizer.name_or_path = ""  # it is written beside the model, and not copied from the other one
    end = str(source.tokenizer.eos_token)
    return LlavaNetwork(
        model=model.eval(),
        tokenizer=source.tokenizer,
        chat=ChatTemplate(template, "<image>", end, source.tokenizer, "tiny"),
        image_mean=source.image_mean,
        image_std=source.image_std,
        name="tiny",
    )


def _config(source: Network) -> LlavaConfig:
    eyes = source.model.config.vision_config
    vision = SiglipVisionConfig(
        hidden_size=eyes.hidden_size,
        intermediate_size=eyes.intermediate_size,
        num_hidden_layers=eyes.num_hidden_layers,
        num_attention_heads=eyes.num_attention_heads,
        image_size=eyes.image_size,
        patch_size=eyes.patch_size,
        layer_norm_eps=eyes.layer_norm_eps,
        hidden_act=eyes.hidden_act,
        vision_use_head=False,
    )
    words = source.model.config.text_config.to_dict()
    text = LlamaConfig(**{**words, "tie_word_embeddings": False, "max_position_embeddings": NUM_POSITIONS})
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=int(source.model.config.image_token_id),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=(eyes.image_size // eyes.patch_size) ** 2,
        tie_word_embeddings=False,
    )


def _tower(source: Network) -> dict[str, torch.Tensor]:
    tower: dict[str, torch.Tensor] = {}
    for name, value in source.model.vision_model.state_dict().items():
        if name.endswith("position_embedding"):
            tower[f"{name}.weight"] = value[0, 1:]
        elif ".qkv." in name:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                tower[name.replace("qkv", f"{part}_proj")] = piece
        elif "class_embedding" not in name:
            tower[name.replace(".projection.", ".out_proj.")] = value
    return tower

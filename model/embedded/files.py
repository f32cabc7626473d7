"""The embedded model's tokenizer, and the folder it is written to."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vigc.model.embedded.scene_rows import TextMixture, make_texts
from vigc.model.embedded.shape import CLIP_MEAN, CLIP_STD, ModelShape, make_config, make_model
from vigc.model.network import Network
from vigc.model.prompts import PromptPack

SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
VOCABULARY = 1024
_TOKENIZER_SEED, _TOKENIZER_SCENES = 99, 2000


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over these texts; no text is unknown to it, and the little world's words are single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, bos, eos, image = SPECIAL
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=[image],
        padding_side="left",
    )


def fresh_network(shape: ModelShape, pack: PromptPack, seed: int) -> Network:
    """A network of this shape that knows nothing yet, with the tokenizer of the little world."""
    rows = (make_texts(_TOKENIZER_SEED, i, pack=pack, mixture=TextMixture()) for i in range(_TOKENIZER_SCENES))
    tokenizer = make_tokenizer(text for prompts, targets in rows for text in (*prompts, *targets))
    pad, bos, eos, image = (tokenizer.get_vocab()[token] for token in SPECIAL)
    torch.manual_seed(seed)
    size = len(tokenizer)
    model = make_model(make_config(shape, size, size, image_token_id=image, bos_id=bos, eos_id=eos, pad_id=pad))
    return Network(model, tokenizer, tokenizer, CLIP_MEAN, CLIP_STD, "embedded")

"""How a LLaVA-style model is spoken to: its own chat template, with an end mark behind each answer.

Training has to show the model exactly the text that `apply_chat_template` gives at inference, so the template itself is
rendered, turn by turn. LLaVA-1.5's own trainer puts the end mark behind each answer (conversation style "v1", arXiv
2310.03744), which the template of its transformers folder leaves out; where one is missing it is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from vigc.platform.records import ModelError

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
# Of LLaVA-1.5, for folders that bring none.
LLAVA_V1 = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass(frozen=True)
class ChatTemplate:
    """Renders a conversation about one image as text."""

    template: str
    image_token: str
    end: str  # what stands behind each answer
    tokenizer: PreTrainedTokenizerBase
    name: str

    def prompt(self, question: str) -> str:
        """What stands before the answer to the first question, with one image token."""
        return self._render([_asked(question, first=True)], True)

    def pieces(self, turns: Sequence[tuple[str, str]]) -> list[tuple[str, bool]]:
        """The conversation, cut into what the model reads (False) and what it says (True).

        Raises:
            ModelError: the template does not show a conversation as one text that grows with its turns.
        """
        cut: list[tuple[str, bool]] = []
        messages: list[dict[str, Any]] = []
        shown = ""
        for number, (question, answer) in enumerate(turns):
            messages.append(_asked(question, first=number == 0))
            prompt = self._render(messages, True)
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
            whole = self._render(messages, False)
            if not prompt.startswith(shown) or not whole.startswith(prompt):
                raise ModelError(
                    f"{self.name}: its chat template does not begin a conversation of {number + 1} turns as one of "
                    f"{max(1, number)}; it cannot be trained on."
                )
            said = whole[len(prompt) :].rstrip()
            said = said if said.startswith((" ", "\n")) or prompt[-1:].isspace() else f" {said}"
            cut += [(prompt[len(shown) :], False), (said if said.endswith(self.end) else said + self.end, True)]
            shown = whole
        return cut

    def _render(self, messages: list[dict[str, Any]], for_answer: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, tokenize=False, add_generation_prompt=for_answer
        )
        return str(text)


def _asked(question: str, *, first: bool) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "image"}] if first else []
    return {"role": "user", "content": [*content, {"type": "text", "text": question}]}


def read_chat_template(name: str, tokenizer: PreTrainedTokenizerBase, image_token: str = "<image>") -> ChatTemplate:
    """The chat template of a model folder or hub id."""
    from vigc.model.files.loading import read_part

    def read() -> str | None:
        from transformers.utils.hub import cached_file

        for file in TEMPLATE_FILES:
            found = Path(name) / file if Path(name).is_dir() else None
            if found is None:
                place = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
                found = Path(place) if place else None
            if found is None or not found.is_file():
                continue
            text = found.read_text(encoding="utf-8")
            if file.endswith(".jinja"):
                return text
            import json

            return str(json.loads(text)["chat_template"])
        return tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None

    template = read_part(name, "chat template", read)
    return ChatTemplate(template or LLAVA_V1, image_token, str(tokenizer.eos_token), tokenizer, name)

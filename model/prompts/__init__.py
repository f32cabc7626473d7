"""Prompt packs: every word that is said to the model, as data.

A pack holds one instruction per kind for generation, paraphrases for training, and the tags around question and answer.
The strings a set of weights was trained with are part of that model, so a pack is a file the user can replace
(`--prompts FILE`), never literals in code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Formatter

import yaml

from vigc.platform import plugins
from vigc.platform.records import ConfigError, Kind

DEFAULT = Path(__file__).with_name("default.yaml")
CHAT = Path(__file__).with_name("chat.yaml")  # for models that follow instructions in a chat


@dataclass(frozen=True, slots=True)
class KindPrompts:
    """The instruction of one kind, its paraphrases for training, and for knowledge questions the counts of their first
    words.
    """

    instruction: str
    paraphrases: tuple[str, ...] = ()
    style: str = ""  # how its answers are to be, where a question is asked without the instruction
    first_words: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PresencePrompt:
    """How the model is asked whether an object is there. The defaults suit models that were taught short answers."""

    question: str = "Question: Is there {object} in the picture? Short answer:"
    yes: str = "yes"
    no: str = "no"

    def about(self, category: str) -> str:
        """The prompt for one category; "monitor/tv" is asked for by its first name."""
        name = category.partition("/")[0]
        return self.question.format(object=f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}")


@dataclass(frozen=True, slots=True)
class ChatPhrases:
    """How a chat model is told what other models are made to do: to go on with an answer, and to leave words out."""

    go_on: str = "{prompt}\nThe answer so far: {answer}\nWrite only what follows in this answer."
    avoid: str = "Do not mention {words}."

    def continuing(self, prompt: str, answer: str) -> str:
        return self.go_on.format(prompt=prompt, answer=answer)

    def avoiding(self, prompt: str, words: Sequence[str]) -> str:
        return f"{prompt}\n{self.avoid.format(words=', '.join(words))}" if words else prompt


@dataclass(frozen=True, slots=True)
class PromptPack:
    """All prompts of one run."""

    name: str
    question_tag: str
    answer_tag: str
    short_answer: str  # holds {question}
    kinds: dict[Kind, KindPrompts]
    presence: PresencePrompt = PresencePrompt()
    correction: str = ""  # what VIC reads, with {question} and {style}; "": instruction and question with the tags
    first_word: str = (
        ""  # an {instruction} whose question is to begin with {word}; "": the question is begun in the prompt
    )
    chat: ChatPhrases = ChatPhrases()

    @property
    def hash(self) -> str:
        """sha256 over the content, so that two runs can be told apart by their prompts."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def vig_prompt(self, kind: Kind, first_word: str = "") -> str:
        """What VIG reads. With a first word the question is already begun, or is asked to begin with it
        (model/README.md, "Knowledge questions").
        """
        return self.worded(self.kind(kind).instruction, first_word)

    def worded(self, instruction: str, first_word: str = "") -> str:
        """An instruction, which may be a paraphrase, as `vig_prompt` gives it."""
        if not first_word:
            return instruction
        if self.first_word:
            return self.first_word.format(instruction=instruction, word=first_word)
        return f"{instruction} {self.begun(first_word)}"

    def begun(self, first_word: str) -> str:
        """What of VIG's output stands in its prompt already."""
        return f"{self.question_tag} {first_word}" if first_word and not self.first_word else ""

    def vic_prompt(self, instruction: str, question: str, style: str = "") -> str:
        """What VIC reads before the answer so far; an empty instruction leaves the bare tagged question."""
        if self.correction:
            return self.correction.format(question=question, style=style).strip()
        return f"{instruction} {self.question_tag} {question} {self.answer_tag}".strip()

    def kind(self, kind: Kind) -> KindPrompts:
        """Raises ConfigError where the pack has no prompts of this kind."""
        if kind not in self.kinds:
            raise ConfigError(
                f"The prompt pack {self.name!r} has no prompts for the kind {kind.value!r}; "
                f"it has {', '.join(self.kinds)}."
            )
        return self.kinds[kind]


def load_pack(path: str | Path | None = None) -> PromptPack:
    """Reads and checks a pack: a file, or the name of an installed plug-in's; None is the project's own.

    Raises:
        ConfigError: with file, line, what is wrong there and what is expected.
    """
    file = Path(path) if path is not None else DEFAULT
    if file.name == str(path) and not file.suffix and not file.exists():
        file = Path(plugins.load(plugins.PROMPTS, str(path)) or file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file}: the prompt pack cannot be read ({error}). Pass a YAML file like {DEFAULT.name}."
        ) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}:{line}: not valid YAML: {error.problem}.") from error
    return _Reader(file).pack(root)


_TEMPLATES = {"correction": ("question", "style"), "first_word": ("instruction", "word")}


class _Reader:
    """Walks the YAML nodes, which know their lines."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def fail(self, node: yaml.Node | None, problem: str) -> ConfigError:
        line = node.start_mark.line + 1 if node is not None else 1
        return ConfigError(f"{self.file}:{line}: {problem}")

    def pack(self, root: yaml.Node | None) -> PromptPack:
        fields = self.mapping(
            root,
            "the pack",
            {"name", "question_tag", "answer_tag", "short_answer", "presence", "kinds", *_TEMPLATES, "chat"},
            optional={"short_answer", "presence", *_TEMPLATES, "chat"},
        )
        templates = {
            name: self.template(fields[name], name, *_TEMPLATES[name]) for name in _TEMPLATES if name in fields
        }
        short_node = fields.get("short_answer")
        short = (
            self.text(short_node, "short_answer") if short_node is not None else "Question: {question} Short answer:"
        )
        if "{question}" not in short:
            raise self.fail(short_node, "short_answer must hold {question}, where the question goes.")
        names = {kind.value for kind in Kind}
        nodes = self.mapping(fields["kinds"], "kinds", names, optional=names)
        if not nodes:
            raise self.fail(fields["kinds"], f"kinds is empty; give at least one of {', '.join(sorted(names))}.")
        kinds = {Kind(name): self.kind(name, node) for name, node in nodes.items()}
        return PromptPack(
            name=self.text(fields["name"], "name"),
            question_tag=self.text(fields["question_tag"], "question_tag"),
            answer_tag=self.text(fields["answer_tag"], "answer_tag"),
            short_answer=short,
            kinds=kinds,
            presence=self.presence(fields.get("presence")),
            chat=self.chat(fields.get("chat")),
            **templates,
        )

    def chat(self, node: yaml.Node | None) -> ChatPhrases:
        if node is None:
            return ChatPhrases()
        fields = self.mapping(node, "chat", {"go_on", "avoid"})
        return ChatPhrases(
            self.template(fields["go_on"], "chat.go_on", "prompt", "answer"),
            self.template(fields["avoid"], "chat.avoid", "words"),
        )

    def template(self, node: yaml.Node, what: str, *places: str) -> str:
        """A text that holds {place} for each of the places and no others."""
        text = self.text(node, what)
        try:
            found = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
        except ValueError as error:
            raise self.fail(node, f"{what}: {error}; write {{{{ and }}}} for braces of the text.") from error
        if found != set(places):
            wanted = " and ".join(f"{{{place}}}" for place in places)
            raise self.fail(node, f"{what} must hold {wanted}, and nothing else in braces.")
        return text

    def presence(self, node: yaml.Node | None) -> PresencePrompt:
        if node is None:
            return PresencePrompt()
        fields = self.mapping(node, "presence", {"question", "yes", "no"})
        texts = {name: self.text(value, f"presence.{name}") for name, value in fields.items()}
        if "{object}" not in texts["question"]:
            raise self.fail(fields["question"], "presence.question must hold {object}, where 'a dog' goes.")
        return PresencePrompt(**texts)

    def kind(self, name: str, node: yaml.Node) -> KindPrompts:
        fields = self.mapping(
            node,
            name,
            {"instruction", "paraphrases", "style", "first_words"},
            optional={"paraphrases", "style", "first_words"},
        )
        style = self.text(fields["style"], f"{name}.style") if "style" in fields else ""
        paraphrases: tuple[str, ...] = ()
        if (items := fields.get("paraphrases")) is not None:
            if not isinstance(items, yaml.SequenceNode):
                raise self.fail(items, f"{name}.paraphrases must be a list of texts.")
            paraphrases = tuple(self.text(item, f"{name}.paraphrases") for item in items.value)
        words: dict[str, int] = {}
        if (counts := fields.get("first_words")) is not None:
            for word, count in self.mapping(counts, f"{name}.first_words", None).items():
                if not isinstance(count, yaml.ScalarNode) or not count.value.isdigit() or int(count.value) == 0:
                    raise self.fail(count, f"{name}.first_words.{word} must be a whole number above 0.")
                words[word] = int(count.value)
        return KindPrompts(self.text(fields["instruction"], f"{name}.instruction"), paraphrases, style, words)

    def mapping(
        self, node: yaml.Node | None, what: str, allowed: set[str] | None, optional: set[str] | None = None
    ) -> Mapping[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"{what} must be a mapping (key: value).")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if allowed is not None and key.value not in allowed:
                raise self.fail(key, f"unknown key {key.value!r} in {what}; known are {', '.join(sorted(allowed))}.")
            if key.value in found:
                raise self.fail(key, f"{key.value!r} stands twice in {what}.")
            found[key.value] = value
        missing = (allowed or set()) - (optional or set()) - found.keys()
        if missing:
            raise self.fail(node, f"{what} lacks {', '.join(sorted(missing))}.")
        return found

    def text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str" or not node.value.strip():
            raise self.fail(node, f"{what} must be a text that is not empty.")
        return str(node.value).strip()

"""Answers as commands print them: passages, their documents, and what has to be said of them."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from influence_assets.analysis.noise import FEWEST_SCORES
from influence_assets.cli.figures import counted
from influence_assets.escaping import visible
from influence_assets.report.excerpt import excerpt, words_of

if TYPE_CHECKING:
    from influence_assets.api.answer import Answer, Passage

WIDTH = 320
"""Characters of a passage that are shown."""


def print_answer(answer: "Answer", sort: str, console: Console, *, full: bool) -> None:
    """Print an answer.

    Args:
        answer: the answer.
        sort: how the scores were computed, as the end of the first line.
        console: where to.
        full: print passages whole, instead of an excerpt around the words that matter.
    """
    asked = f"[dim]{escape(visible(answer.prompt))}[/][bold]{escape(visible(answer.completion))}[/]"
    console.print(asked, soft_wrap=True)
    console.print(
        f"log-probability {answer.log_probability_nats:.2f} nats over {counted(answer.completion_tokens, 'token')}; "
        f"{answer.sequences:,} training sequences {sort}",
        soft_wrap=True,
    )
    for rank, passage in enumerate(answer.passages, start=1):
        console.print(_panel(answer, passage, rank, full=full))
    if answer.left_out:
        console.print(f"{counted(answer.left_out, 'later document')} left out, --unseen shows them.", highlight=False)
    if (noise := _noise(answer)) is not None:
        console.print(noise, soft_wrap=True, highlight=False)
    if any(passage.influence_nats < 0 for passage in answer.passages):
        console.print(
            "[yellow]![/] Negative scores are poor evidence: judged by retraining, they predicted almost nothing.",
            soft_wrap=True,
        )
    if any(map(answer.is_beyond, answer.passages)):
        console.print(
            f"[yellow]![/] The completion can gain {answer.remaining_nats:.3g} nats at most. Scores are first-order "
            "estimates: where they are larger, they rank passages and say nothing of sizes.",
            soft_wrap=True,
        )
    for caution in answer.cautions:
        console.print(f"[yellow]Caution:[/] {escape(visible(caution))}", soft_wrap=True, highlight=False)
    if answer.unsketched_shards:
        shards = escape(visible(", ".join(answer.unsketched_shards)))
        console.print(f"[yellow]Not compared, because they have no sketches yet:[/] {shards}")


def _noise(answer: "Answer") -> str | None:
    """Return what the noise of the scores says about those that are shown."""
    noise = answer.noise
    if noise is None:
        return None
    scores = counted(noise.scores, "estimate" if answer.is_estimated else "score")
    if noise.threshold is None:
        return f"Noise: not known from {scores}, fewer than {FEWEST_SCORES}; passages that rank low can be chance."
    return (
        f"Noise: {noise.above:,} of {scores} {'stands' if noise.above == 1 else 'stand'} above it, over "
        f"{noise.threshold:.3g} nats; smaller ones can be chance."
    )


def _panel(answer: "Answer", passage: "Passage", rank: int, *, full: bool) -> Panel:
    several = len(passage.documents) > 1
    documents = " + ".join(_document(document, with_part=several) for document in passage.documents)
    beyond = " !" if answer.is_beyond(passage) else ""
    within = " (within the noise)" if answer.is_above_noise(passage) is False else ""
    title = f"{rank}. {passage.influence_nats:+.3g} nats{beyond}{within} · {documents}"
    place = f"{visible(passage.shard_id)} · sequence {passage.sequence_index}"
    if (over := passage.over_members) is not None:
        place += f" · {over.members} models {over.influence_nats:+.3g} ({over.low_nats:+.3g} to {over.high_nats:+.3g})"
    return Panel(_body(passage, full=full), title=Text(title), subtitle=Text(place), title_align="left")


def _document(document: dict[str, Any], *, with_part: bool) -> str:
    """Return the document's name, its part of the score and whether it came later, on one line."""
    from influence_assets.api.answer import document_name

    name = " ".join(visible(document_name(document)).split())
    part = f" {document['influence_nats']:+.3g}" if with_part and document["influence_nats"] is not None else ""
    return name + part + (" (not trained on)" if document["trained_on"] is False else "")


def _body(passage: "Passage", *, full: bool) -> Text:
    split = passage.tokens
    tokens = [] if split is None else zip(split.starts, split.ends, split.influence_nats, strict=True)
    words = words_of(passage.text, tokens)
    shown = excerpt(passage.text, words, len(passage.text) if full else WIDTH)
    body = Text("… " if shown.start else visible(passage.before), "" if shown.start else "dim")
    for piece, influence in shown.pieces():
        style = "" if influence is None else "bold" if influence > 0 else "dim italic"
        body.append(visible(piece), style)
    is_whole = shown.end >= len(passage.text.rstrip())
    return body.append(visible(passage.after), "dim") if is_whole else body.append(" …")

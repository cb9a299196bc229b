"""The interface for other programs: the passages behind a question that is stored, or behind a new one."""

from influence_assets.api.answer import Answer, Passage, TokenSplit
from influence_assets.api.asking import ask
from influence_assets.api.strongest import strongest

__all__ = ["Answer", "Passage", "TokenSplit", "ask", "strongest"]

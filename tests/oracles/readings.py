"""The corpus and the questions of the small studies by the oracle's own reading of them."""

import hashlib

import numpy as np
import torch

from tests import studies
from tests.oracles.ekfac import Text

ROWS = {studies.COAST: studies.COAST_ROWS, studies.TRADES: studies.TRADES_ROWS}
QUESTIONS = [*studies.FIRST_ROWS, *studies.SECOND_ROWS]


def packed(tokenizer):
    """Documents one after the other with END behind each, cut every 16 tokens, shard by shard."""
    for shard, rows in ROWS.items():
        stream = [token for row in rows for token in [*tokenizer.encode(row["text"]).ids, 0]]
        for index, start in enumerate(range(0, len(stream), studies.LENGTH)):
            tokens = stream[start : start + studies.LENGTH]
            if len(tokens) > 1:
                named = f"{shard}\0{index}\0".encode() + np.array(tokens, "<i4").tobytes()
                key = int.from_bytes(hashlib.sha256(named).digest()[:8], "big") >> 1
                yield Text(torch.tensor(tokens), key=key)


def question(row, tokenizer):
    """These prompts end where a token of the whole text ends."""
    before, whole = (tokenizer.encode(text).ids for text in (row["prompt"], row["prompt"] + row["completion"]))
    assert whole[: len(before)] == before
    return Text(torch.tensor(whole), first=len(before))


def question_id(row):
    return hashlib.sha256(f"{row['prompt']}\0{row['completion']}".encode()).hexdigest()[:16]

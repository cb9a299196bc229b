"""Small corpora, and what they are cut into."""

import gzip
import json
from pathlib import Path

import zstandard

from influence_assets.corpus.measured_files import Digests
from influence_assets.corpus.slices import list_shards

PACKINGS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def shards_of(corpus):
    """The shards of a corpus, nothing remembered."""
    return list_shards(corpus, Digests(Path("/nonexistent/digests")))

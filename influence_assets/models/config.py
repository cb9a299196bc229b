"""A model's config.json, without what it may not decide."""

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

BUILT_IN = ("eager", "sdpa")
"""Implementations of attention and of experts that transformers itself has for every device and precision."""


def read_config(folder: Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the configuration in a folder.

    A config.json can name an implementation of attention or of experts by a repository of the hub, whose compiled code
    transformers would fetch and run. Only those are kept that transformers has; else it chooses one by itself.

    Args:
        folder: holds config.json.
        trust_remote_code: whether Python code beside it may run.
    """
    config: PretrainedConfig = AutoConfig.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for kind in ("_attn_implementation_internal", "_experts_implementation_internal"):
            named = getattr(part, kind, None)
            if named is not None and named not in BUILT_IN:
                setattr(part, kind, None)
    return config

"""What becomes of the memory that this process frees: kept for later, or given back to the system."""

import ctypes
import gc
import platform

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory(*, is_limited: bool = False) -> None:
    """Let this process keep the memory of freed tensors instead of returning it to the system.

    Otherwise glibc returns a pass's large tensors every time, and getting them back page by page takes about a fifth of
    a small model's training step. But what is kept lies in pieces between tensors that live on: where memory is
    limited, it is returned. Without glibc, nothing happens. The setting affects the whole process, so make it only in
    processes that compute.

    Args:
        is_limited: whether the study limits the memory of the process.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, (1 if is_limited else 32) * 2**20)
    libc.mallopt(_M_TRIM_THRESHOLD, (64 if is_limited else 512) * 2**20)


def release_unused() -> None:
    """Give back to the system what this process has freed, or could free.

    Tensors of an earlier pass can be in reference cycles, and glibc keeps freed memory for later.
    """
    gc.collect()
    release_freed()


def release_freed() -> None:
    """Give back to the system what this process has freed, which takes far less time than a batch."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)

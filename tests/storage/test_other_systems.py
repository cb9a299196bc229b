"""The package does not need what only Linux has."""

import ast
import errno
import subprocess
import sys
from pathlib import Path

import influence_assets

PACKAGE = Path(influence_assets.__file__).parent
LINUX_ALONE = {
    *("EADV", "EBADE", "EBADFD", "EBADR", "EBADRQC", "EBADSLT", "EBFONT", "ECHRNG", "ECOMM", "EDEADLOCK", "EDOTDOT"),
    *("EHWPOISON", "EISNAM", "EKEYEXPIRED", "EKEYREJECTED", "EKEYREVOKED", "EL2HLT", "EL2NSYNC", "EL3HLT", "EL3RST"),
    *("ELIBACC", "ELIBBAD", "ELIBEXEC", "ELIBMAX", "ELIBSCN", "ELNRNG", "EMEDIUMTYPE", "ENAVAIL", "ENOANO", "ENOCSI"),
    *("ENOKEY", "ENOMEDIUM", "ENONET", "ENOPKG", "ENOTNAM", "ENOTUNIQ", "EREMCHG", "EREMOTEIO", "ERESTART", "ERFKILL"),
    *("ESRMNT", "ESTRPIPE", "EUCLEAN", "EUNATCH", "EXFULL"),
}
"""Names of errors in Python's `errno` that macOS lacks."""

WITHOUT = """
import errno, importlib, sys
for name in sys.argv[1].split():
    if hasattr(errno, name):
        delattr(errno, name)
for module in sys.argv[2].split():
    importlib.import_module(module)
"""


def modules_with_errno():
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Name) and node.id == "errno" for node in ast.walk(tree)):
            yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_no_module_needs_an_error_that_only_linux_has():
    modules = list(modules_with_errno())
    assert "influence_assets.storage.artifacts.file_checks" in modules
    assert hasattr(errno, "EUCLEAN") or sys.platform != "linux"
    command = [sys.executable, "-c", WITHOUT, " ".join(sorted(LINUX_ALONE)), " ".join(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

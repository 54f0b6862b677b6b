"""Resolves import paths such as `package.module:NAME` and `folder/file.py:NAME`, for values in config files.

Standard library only, so that every part of the project can use it for its extension points.
"""

import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from operator import attrgetter
from pathlib import Path
from types import ModuleType

_SYNTAX = "package.module:NAME or path/to/file.py:NAME"
_NAME = r"[^\W\d]\w*"
_DOTTED_NAME = re.compile(rf"{_NAME}(?:\.{_NAME})*")


class ImportPathError(ValueError):
    """An import path that cannot be resolved. The message is one line: what is wrong, where, and what to do."""


def import_object(path: str, base: Path) -> object:
    """Import the object that an import path refers to.

    Importing runs the module's code, so only resolve paths from trusted sources, such as the user's own config file.

    Args:
        path: `package.module:NAME`, imported as by `import package.module`, or `path/to/file.py:NAME`. `NAME` may be
            dotted (`Class.method`).
        base: Folder that a relative file path starts from, usually the folder of the config file. Unused for modules.

    Returns:
        The object. A file is loaded once per process, whatever path leads to it, under a name in `sys.modules` that
        depends on its absolute path only. Its classes and functions can therefore be pickled, but only a process that
        has called this function for the same file can unpickle them.

    Raises:
        ImportPathError: The path is malformed, the module or file does not exist, its code raised, or it has no such
            attribute. The original error is the cause.
    """
    location, separator, name = path.rpartition(":")
    is_file = location.endswith(".py")
    if not separator or not _DOTTED_NAME.fullmatch(name) or not (is_file or _DOTTED_NAME.fullmatch(location)):
        raise ImportPathError(f"{path!r} is not an import path: write {_SYNTAX}")
    module = _load_file(location, base) if is_file else _import_module(location)
    try:
        return attrgetter(name)(module)
    except AttributeError as error:
        close = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"define {name} there, or correct the name after the colon"
        raise ImportPathError(f"{location} has no attribute {name!r}: {hint}") from error


def import_module(path: str) -> ModuleType:
    """Import `package.module`, or the file at an absolute path that ends in .py, as `import_object` does.

    Raises:
        ImportPathError: The path is malformed, the module or file does not exist, or its code raised.
    """
    if path.endswith(".py"):
        return _load_file(path, Path())
    if not _DOTTED_NAME.fullmatch(path):
        raise ImportPathError(f"{path!r} is not a module: write package.module or path/to/file.py")
    return _import_module(path)


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A missing dependency of an existing module is a fault in that module's code, reported below with its line.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            advice = "install its package, add its folder to PYTHONPATH, or write path/to/file.py:NAME"
            raise ImportPathError(f"no module named {error.name!r}: {advice}") from error
        raise _code_failed(name, error) from error
    except Exception as error:
        raise _code_failed(name, error) from error


def _load_file(location: str, base: Path) -> ModuleType:
    file = (base / location).resolve()
    # The digest of the path keeps two files of one name apart; the stem keeps tracebacks and reprs readable.
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:12]
    name = f"import_path_{digest}_{re.sub(r'[^A-Za-z0-9]', '_', file.stem)}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        raise ImportPathError(f"no file {file}: correct the path; a relative one starts from {base.resolve()}")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # a name that ends in .py always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Registered before its code runs, as the import system does: dataclasses and pickle look their module up here.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _code_failed(str(file), error) from error
    return module


def _code_failed(location: str, error: Exception) -> ImportPathError:
    """The error for a module whose own code raised, with the line of the module where it did."""
    # The first frame that does not belong to the import machinery is the module's own. A SyntaxError has none, but its
    # text names file and line.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_import_machinery(frame.filename)]
    where = f" ({frames[0].filename}:{frames[0].lineno})" if frames else ""
    message = " ".join(str(error).split())
    return ImportPathError(f"importing {location} failed: {type(error).__name__}: {message}{where}: fix its code")


def _is_import_machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (__file__, importlib.__file__)

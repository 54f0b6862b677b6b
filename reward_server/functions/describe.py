"""`python -m reward_server.functions.describe MODULE`: prints the reward functions of a module as JSON.

Exit code 2, with one line on what is wrong, if it cannot be used.
"""

import hashlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from reward_server.functions.module import load
from reward_server.functions.signatures import SignatureError, reward_functions
from reward_server.import_path import ImportPathError


def main() -> int:
    """Import, look, print; returns the exit code."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the module prints when it is imported is no answer
    try:
        module = load(sys.argv[1])
        functions = [asdict(function) for function in reward_functions(module)]
    except (ImportPathError, SignatureError) as error:
        answer.write(f"{error}\n")
        answer.close()
        return 2
    digest = hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest()[:12]
    answer.write(json.dumps({"functions": functions, "version": digest}) + "\n")
    answer.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

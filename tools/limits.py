"""What a row's value may never pass, and what is aimed at: from kt_kernel/methods.py.

That file is read alone: the package needs torch, which what publishes results does without.
"""

import importlib.util
import sys
from pathlib import Path

from benchmarks.presets import FORMATS, PRESETS

ROOT = Path(__file__).resolve().parent.parent
TARGET_PRESET = "S1"  # the shape that the targets are for
MOST_BYTES = 1.02  # over the format's own; small presets are mostly the pages' rounding


def load_methods():
    """The module kt_kernel/methods.py."""
    name = "kt_kernel_methods"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "kt_kernel" / "methods.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look there
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def limit(row):
    """The user's limit of an error in percent, at every preset; None for what is no such error."""
    method = load_methods().METHODS.get(row.param("method"))
    if row.suite != "RelativeError" or method is None or "kernel" in row.metric:
        return None
    return percent(method.forward_limit if row.metric == "track_output" else method.backward_limit)


def target(row):
    """What is aimed at, in the row's unit, or None; of errors it is for TARGET_PRESET."""
    module, form = load_methods(), FORMATS.get(row.param("method"))
    method = module.METHODS.get(row.param("method"))
    if row.metric == "track_bytes_per_weight" and form:
        return MOST_BYTES * form.bytes_per_weight
    if row.suite != "RelativeError" or method is None:
        return None
    if row.metric == "track_kernel_error":
        return percent(module.TARGET_KERNEL)
    if "lora" in row.metric:
        return percent(method.target_grad_lora)
    named = {"track_output": method.target_output, "track_grad_input": method.target_grad_input}
    return percent(named.get(row.metric))


def ceiling(row):
    """What makes a row worse whatever it was before: the target on S1, the limit elsewhere."""
    full_size = row.param("preset") in PRESETS and not row.param("preset").startswith("quick-")
    if row.suite != "RelativeError":
        return target(row) if full_size else None
    aimed_at = target(row) if row.param("preset") == TARGET_PRESET else None
    return aimed_at or limit(row)


def percent(fraction):
    """In percent, as the benchmarks are."""
    return None if fraction is None else 100 * fraction

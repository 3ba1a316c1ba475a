"""Keeps the architecture's rules, which no linter knows: `python tools/check_structure.py`.

1. csrc/ops names no format, csrc/ops and csrc/formats name no instruction set (comments may): an
   operator is written once, and a new format or instruction set touches neither.
2. Nothing under csrc prints, ends the process or reads the environment; csrc/dispatch.cpp alone
   reads KT_KERNEL_ISA.
3. No source file has more than 400 lines.
4. In the built extension, AVX code lies in functions of anonymous namespaces only. A weak function,
   such as one of std:: that was compiled for AVX, may be chosen by the linker for code that runs on
   every CPU, and ends the process there with SIGILL.

Prints one line for each fault; exit code 1 if there are any.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES = 400
FOLDERS = ("csrc", "kt_kernel", "benchmarks", "tests", "tools", "examples", "scripts", ".ci")
SUFFIXES = (".h", ".cpp", ".py", ".pyi", ".sh", "")

COMMENT = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])')|//[^\n]*|/\*.*?\*/""", re.DOTALL)
# Names of C++ and of tensors' dtypes; a format may be called so as well.
TYPE_NAME = re.compile(r"\bu?int\d+_t\b|\bDType::\w+")
INTRINSIC = re.compile(r"\b_mm\d*_\w+|\b_tile_\w+|\b__m\d+\w*")
FORBIDDEN = re.compile(
    r"\b(?:v?f?printf|puts|cout|cerr|clog|abort|_?[Ee]xit|quick_exit|terminate|(?:secure_)?getenv)\b"
)
# Every VEX, EVEX or AMX instruction has a name with v or one of the registers that came with them.
AVX = re.compile(r"^(?:\{\w+\} )?v[a-z]|%[xyz]mm(?:1[6-9]|2\d|3[01])|%[yzt]mm\d|%k[0-7]\b")


def code_lines(path: Path) -> list[str]:
    """The file's lines, comments blanked."""

    def blank(match: re.Match[str]) -> str:
        return match[1] or "\n" * match[0].count("\n")

    return COMMENT.sub(blank, path.read_text(encoding="utf-8")).splitlines()


def registered(registry: Path, macro: str) -> set[str]:
    """All names that the entries X(...) of a list in csrc/registry.h give."""
    text = registry.read_text(encoding="utf-8").replace("\\\n", " ")
    body = re.search(rf"#define {macro}\(X\)(.*)", text)
    if body is None:
        raise SystemExit(f"{registry}: no list {macro}")
    entries = re.findall(r"\bX\(([^)]*)\)", body[1])
    return {name.strip(' "') for entry in entries for name in entry.split(",")}


def foreign_names(root: Path) -> Iterator[str]:
    """Rule 1."""
    csrc = root / "csrc"
    formats = registered(csrc / "registry.h", "KT_FORMATS")
    formats |= {path.stem for path in csrc.glob("formats/*.h")}
    isas = registered(csrc / "registry.h", "KT_ISAS")
    isas |= {path.stem for path in csrc.glob("isa/*.cpp")}
    for folder, names in (("ops", formats | isas), ("formats", isas)):
        wanted = re.compile("|".join(map(re.escape, sorted(names))), re.IGNORECASE)
        for path in sorted(csrc.glob(f"{folder}/**/*.*")):
            for number, line in enumerate(code_lines(path), 1):
                code = TYPE_NAME.sub("", line)
                for match in filter(None, (wanted.search(code), INTRINSIC.search(code))):
                    yield f"{path.relative_to(root)}:{number}: csrc/{folder} names {match[0]}"


def forbidden_calls(root: Path) -> Iterator[str]:
    """Rule 2."""
    dispatch = root / "csrc" / "dispatch.cpp"
    for path in sorted(root.glob("csrc/**/*.*")):
        for number, line in enumerate(code_lines(path), 1):
            for call in FORBIDDEN.findall(line):
                if path != dispatch or call != "getenv":
                    yield f"{path.relative_to(root)}:{number}: {call}: throw an exception instead"


def long_files(root: Path) -> Iterator[str]:
    """Rule 3."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES:
                count = len(path.read_text(encoding="utf-8").splitlines())
                if count > MOST_LINES:
                    yield f"{path.relative_to(root)}: {count} lines, at most {MOST_LINES}"


def shared_avx(objects: Path) -> Iterator[str]:
    """Rule 4, for an extension or object file that was not stripped."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(objects)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    function, found, told = "", False, ""
    for line in text.splitlines():
        if line.endswith(">:"):
            function = line.split("<", 1)[1][:-2]
        elif AVX.search(line.partition("\t")[2]):
            found = True
            if "(anonymous namespace)" not in function and function != told:
                told = function
                yield f"{objects.name}: {function} has AVX code and may be linked into any other"
    if not found:
        yield f"{objects.name}: no AVX code found: is it the extension?"


def main() -> None:
    """All rules on this tree, the fourth on what is built in place."""
    faults = [*foreign_names(ROOT), *forbidden_calls(ROOT), *long_files(ROOT)]
    built = sorted((ROOT / "kt_kernel").glob("kt_kernel_ext*.so"))
    for extension in built:
        faults += shared_avx(extension)
    if not built:
        print("the extension is not built in place: its code was not looked at (make build)")
    print("\n".join(faults), end="\n" if faults else "")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

"""Files of words, in the forms that people keep concepts in: read as they are meant, or refused in one line.

Lines (numbered, with bullets, quoted, after WordNet ids), tables with or without a header, JSON, YAML and lists and
dictionaries as Python prints them. Notes say what was removed or chosen; what could mean two things is refused.
"""

from __future__ import annotations

import ast
import csv
import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from contralens.checks import first_line, shown
from contralens.errors import InputError

TEXT_HEADERS = {
    "concept", "concepts", "label", "labels", "class", "classes", "class name", "class names", "classname", "name",
    "names", "category", "categories", "category name", "label name", "display name", "displayname", "text", "word",
    "words", "synset", "caption", "captions", "description",
}  # fmt: skip
"""What people call the column of texts, with spaces for underscores."""
_OTHER_HEADERS = {
    "", "id", "ids", "index", "idx", "wnid", "wnids", "number", "no", "no.", "nr", "#", "class id", "category id",
    "label id", "class index", "imagenet id", "synset id", "synset", "mid", "count", "frequency", "freq",
    "supercategory", "definition", "gloss", "key", "target", "score", "split", "color", "colour", "unnamed: 0",
}  # fmt: skip
_WNID = re.compile(r"n\d{8}")
_INDEX = re.compile(r"\d+")
Words = tuple[list[str], list[str]]
"""Texts, and notes on what was removed or chosen."""


def read_words(path: Path, column: int | str | None) -> Words:
    """The texts of a file, and notes.

    Args:
        column: of a table: its number from 0, its name in the first row, or None: the only column of texts.

    Raises:
        InputError: the file cannot be read, or its form leaves open what the concepts are.
    """
    suffix = path.suffix.lower()
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"vocabulary {path} is not UTF-8 text (byte {e.start}); save it as UTF-8") from e
    except OSError as e:
        raise InputError(f"vocabulary {path} cannot be read: {e.strerror}") from e
    if suffix in (".csv", ".tsv"):
        return _table(text, path, "," if suffix == ".csv" else "\t", column)
    content = _content(text, path, suffix)
    if content is not None:
        return of_content(content, path)
    lines = [line for line in text.splitlines() if line.strip()]
    for delimiter in "\t,":
        cells = list(csv.reader(lines, delimiter=delimiter))
        even = len({len(row) for row in cells}) == 1 and len(cells[0]) > 1
        if even and (delimiter == "\t" or _is_header(cells[0])):
            return _table(text, path, delimiter, column)
    return _of_lines(text.splitlines(), path)


# --- tables ---


def _table(text: str, path: Path, delimiter: str, column: int | str | None) -> Words:
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error as e:
        raise InputError(f"vocabulary {path} cannot be read as a table: {e}") from e
    start = 0
    notes: list[str] = []
    if isinstance(column, str) and column not in (rows[0] if rows else []) and column.isdecimal():
        column = int(column)
    if isinstance(column, str):
        header = rows[0] if rows else []
        if column not in header:
            raise InputError(f"vocabulary {path} has no column {column!r}; its first row is {', '.join(header)}")
        column, start = header.index(column), 1
    elif column is None:
        column, start, notes = _text_column(rows, path)
    short = next((n for n, row in enumerate(rows, 1) if row and len(row) <= column), None)
    if short is not None:
        raise InputError(f"vocabulary {path}, line {short}: there is no column {column} (counted from 0)")
    return [row[column] if row else "" for row in rows[start:]], notes


def _text_column(rows: Sequence[Sequence[str]], path: Path) -> tuple[int, int, list[str]]:
    """The column of texts, the first row that counts, and notes."""
    full = [row for row in rows if any(cell.strip() for cell in row)]
    if not full:
        return 0, 0, []
    uneven = next((row for row in full if len(row) != len(full[0])), None)
    if uneven is not None:
        line = rows.index(uneven) + 1
        raise InputError(
            f"vocabulary {path}: line {line} has {len(uneven)} columns, the first {len(full[0])}: put texts with a "
            'comma in quotes ("crane, bird"), or save it as .txt, one concept a line'
        )
    header = _is_header(full[0]) and len(full) > 1
    start = rows.index(full[0]) + 1 if header else 0
    names = [cell.strip() for cell in full[0]] if header else [str(n) for n in range(len(full[0]))]
    body = full[1:] if header else full
    texts = [n for n in range(len(names)) if not all(_is_key(row[n]) for row in body)]
    notes = [f"the first row was read as a header: {', '.join(names)}"] if header else []
    called = [n for n in texts if header and _head(names[n]) in TEXT_HEADERS]
    if len(called) == 1 or len(texts) == 1:
        chosen = (called if len(called) == 1 else texts)[0]
        if len(names) > 1:
            notes.append(f"of {len(names)} columns, {names[chosen]!r} was read")
        return chosen, start, notes
    if header:
        raise InputError(
            f"vocabulary {path} has the columns {', '.join(names)}: name the one with the concepts, as in "
            f"{path.name}:{names[(called or texts or [0])[0]]}"
        )
    if len(names) > 1:
        notes.append(
            f"of {len(names)} columns without a known header, the first was read, including its first row; to choose "
            f"another, write {path.name}:1"
        )
    return 0, 0, notes


def _head(cell: str) -> str:
    return cell.strip().casefold().replace("_", " ").replace("-", " ")


def _is_header(row: Sequence[str]) -> bool:
    heads = [_head(cell) for cell in row]
    alone = {"concept", "concepts", "label", "labels", "class", "classes", "class name", "name", "names", "category"}
    known = alone if len(heads) == 1 else TEXT_HEADERS | _OTHER_HEADERS
    return all(head in known for head in heads) and any(head in TEXT_HEADERS for head in heads)


def _is_key(cell: str) -> bool:
    """Whether a cell is an index, a WordNet id or empty: no text."""
    cell = cell.strip()
    return not cell or bool(_WNID.fullmatch(cell)) or bool(re.fullmatch(r"[-+]?\d+(\.\d+)?", cell))


# --- JSON, YAML, Python ---


def _content(text: str, path: Path, suffix: str) -> Any:
    """What JSON, YAML or a printed Python list or dictionary stands for; None for other text."""
    if suffix == ".jsonl":
        return [_json(line, path, n) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if suffix in (".yaml", ".yml"):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise InputError(f"vocabulary {path} is not valid YAML: {first_line(e)}") from e
    stripped = text.strip()
    if suffix != ".json" and stripped[:1] + stripped[-1:] not in ("[]", "{}"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            return ast.literal_eval(stripped)  # as Python prints it: {0: 'tench', 1: 'goldfish'}
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise InputError(
                f"vocabulary {path} begins like JSON but is not valid ({first_line(error)}): fix it, or write "
                "one concept a line"
            ) from None


def _json(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as e:
        raise InputError(f"vocabulary {path}, line {number} is not valid JSON ({first_line(e)})") from e


def of_content(content: Any, path: Path | str) -> Words:
    """The texts of a list, or of a dictionary of classes, indices or ids, and notes; see `read_words`."""
    if isinstance(content, Mapping):
        return _of_mapping(content, path)
    if not isinstance(content, list | tuple | set):
        raise InputError(f"vocabulary {path} must hold a list of concepts; got {shown(content)}")
    items = sorted(content, key=str) if isinstance(content, set) else list(content)
    if all(isinstance(item, str) for item in items):
        return items, []
    if all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
        pairs = [(str(item[0]), item[1]) for item in items]
        if all(_is_key(key) and isinstance(text, str) for key, text in pairs):
            return [text for _, text in pairs], ["an index or id next to each concept was ignored"]
    if items and all(isinstance(item, Mapping) for item in items):
        return _of_records(items, path)
    odd = next((item for item in items if not isinstance(item, str)), None)
    raise InputError(f"vocabulary {path}: a list of concepts must hold texts; got {shown(odd)}")


def _of_records(items: Sequence[Mapping[Any, Any]], path: Path | str) -> Words:
    """A list of objects, such as COCO's categories: the texts under the one key that is known to name things."""
    shared = [key for key in items[0] if all(isinstance(item.get(key), str) for item in items)]
    called = [key for key in shared if _head(str(key)) in TEXT_HEADERS]
    best = [key for key in called if _head(str(key)) in ("name", "concept", "label", "class")] or called or shared
    if len(best) != 1:
        keys = ", ".join(str(key) for key in items[0])
        raise InputError(
            f"vocabulary {path} is a list of objects with {keys}: it is unclear which is the concept; write a list "
            "of texts"
        )
    return [item[best[0]] for item in items], [f"of each object, {str(best[0])!r} was read"]


def _of_mapping(content: Mapping[Any, Any], path: Path | str) -> Words:
    keys, values = [str(key) for key in content], list(content.values())
    if isinstance(content.get("categories"), list) and not all(isinstance(v, list) for v in values):
        return of_content(content["categories"], path)
    coco = content.get("categories")
    if isinstance(coco, list) and coco and all(isinstance(item, Mapping) for item in coco):
        return _of_records(coco, path)
    numbered = bool(keys) and all(_is_key(key) for key in keys)
    if numbered and all(isinstance(value, str) for value in values):
        return values, ["an index or id next to each concept was ignored"]
    if numbered and all(_is_named(value) for value in values):
        return [value[1] for value in values], ["an index and an id next to each concept were ignored"]
    lists = all(isinstance(v, list | tuple) and all(isinstance(text, str) for text in v) for v in values)
    if values and lists:
        return [text for value in values for text in value], [
            f"read as {len(keys):,} classes with their concepts; the classes themselves are not used as concepts"
        ]
    if values and all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return keys, ["an index after each concept was ignored"]
    if values and all(isinstance(value, str) for value in values):
        raise InputError(
            f"vocabulary {path} gives a text for each text ({shown(keys[0])}: {shown(values[0], 40)}): it is "
            "unclear which are the concepts; write a list of them"
        )
    raise InputError(
        f"vocabulary {path}: JSON must be a list of concepts, or a list of them for each class; under "
        f"{shown(keys[0]) if keys else 'nothing'} it has {shown(values[0], 40) if values else 'nothing'}"
    )


def _is_named(value: Any) -> bool:
    """[id, name], as in imagenet_class_index.json."""
    pair = isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], str)
    return pair and _is_key(str(value[0])) and not _is_key(value[1])


# --- lines ---


def _of_lines(lines: list[str], path: Path) -> Words:
    """Lines without the bullets, numbers, ids and quotes that all of them have."""
    notes: list[str] = []
    for _ in range(4):
        for strip in (_quotes, _bullets, _wnids, _numbers, _numbers_behind):
            full = [line.strip() for line in lines if line.strip()]
            made = strip(full, path) if len(full) > 1 else None
            if made is not None:
                bare, note = made
                rest = iter(bare)
                lines = [next(rest) if line.strip() else "" for line in lines]
                notes.append(note)
                break
        else:
            break
    return lines, notes


Stripped = tuple[list[str], str] | None


def _all(pattern: str, lines: Sequence[str]) -> list[re.Match[str]] | None:
    found = [match for line in lines if (match := re.fullmatch(pattern, line))]
    return found if len(found) == len(lines) else None


def _quotes(lines: Sequence[str], path: Path) -> Stripped:
    found = _all(r"(['\"])(.*)\1\s*,?", lines)
    return ([match[2] for match in found], "quotes and commas around the lines were removed") if found else None


def _bullets(lines: Sequence[str], path: Path) -> Stripped:
    found = _all(r"[-*+\u2022\u2023\u00b7\u2013]\s+(.*)", lines)
    return ([match[1] for match in found], "bullets were removed") if found else None


def _wnids(lines: Sequence[str], path: Path) -> Stripped:
    if all(_WNID.fullmatch(line) for line in lines):
        raise InputError(
            f"vocabulary {path} holds WordNet ids only ({lines[0]}, ...), which no encoder reads: give their names, or "
            "the built-in vocabulary imagenet"
        )
    found = _all(r"(n\d{8})[\s,:]+(\S.*)", lines)
    if not found:
        return None
    first = [match[2].split(",")[0].strip() for match in found]
    more = sum("," in match[2] for match in found)
    also = f"; of {more:,} with several names the first was kept" if more else ""
    return first, f"WordNet ids were removed{also}"


def _numbers(lines: Sequence[str], path: Path) -> Stripped:
    found = _all(r"(\d+)\s*[.):]\s*(\D.*)", lines)
    if found and _rises(found):
        return [match[2] for match in found], "the numbers of a numbered list were removed"
    found = _all(r"(\d+)[\s,]+(\S.*)", lines)
    if not found or not _rises(found):
        return None
    bare = [match[2] for match in found]
    numbers = [int(match[1]) for match in found]
    if len({text.casefold() for text in bare}) < len(bare):  # 1 person, 2 people, 3 people
        return None
    if len(lines) > 2 and numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1:
        return bare, "numbers that count the lines were removed"
    if len(lines) < 3:
        return None
    raise InputError(
        f"vocabulary {path}: every line begins with a number ({shown(lines[0], 40)}, {shown(lines[1], 40)}): if it is "
        "an index, remove it; if it belongs to the concept, write the file as a JSON list"
    )


def _numbers_behind(lines: Sequence[str], path: Path) -> Stripped:
    found = _all(r"(\D.*?)[\s,:]+(\d+)", lines)
    if not found or len(lines) < 3:
        return None
    numbers = [int(match[2]) for match in found]
    if numbers[0] not in (0, 1) or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return None
    return [match[1] for match in found], "numbers that count the lines were removed at their ends"


def _rises(found: Sequence[re.Match[str]]) -> bool:
    numbers = [int(match[1]) for match in found]
    return all(a < b for a, b in itertools.pairwise(numbers))

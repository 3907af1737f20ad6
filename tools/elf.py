"""What a shared library of Linux asks of the machine that it runs on."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

MACHINES = {62: "x86_64", 183: "aarch64"}
SYMTAB, STRTAB, DYNAMIC, VERNEED = 2, 3, 6, 0x6FFFFFFE
NEEDED = 1


@dataclass
class Library:
    """One library: its machine, the libraries it loads, and the versions of symbols by library."""

    machine: str
    needed: list[str] = field(default_factory=list)
    versions: dict[str, list[str]] = field(default_factory=dict)
    is_stripped: bool = True


@dataclass
class Section:
    name: str
    kind: int
    content: bytes
    link: int


def text_at(strings: bytes, offset: int) -> str:
    """Return the text that begins at an offset of a table of strings."""
    return strings[offset : strings.index(b"\0", offset)].decode()


def read_library(content: bytes) -> Library:
    """Read an ELF file of 64 bits, little end first.

    Raises
    ------
    ValueError
        It is no such file.
    """
    if content[:6] != b"\x7fELF\x02\x01":
        raise ValueError("expected an ELF file of 64 bits with the little end first")
    machine = struct.unpack_from("<H", content, 18)[0]
    library = Library(MACHINES.get(machine, f"machine {machine}"))
    sections = read_sections(content)
    for section in sections:
        if section.kind == SYMTAB or section.name.startswith(".debug"):
            library.is_stripped = False
        elif section.kind == DYNAMIC:
            strings = sections[section.link].content
            for tag, value in struct.iter_unpack("<qQ", section.content):
                if tag == NEEDED:
                    library.needed.append(text_at(strings, value))
        elif section.kind == VERNEED:
            strings = sections[section.link].content
            for file, version in wanted_versions(section.content, strings):
                library.versions.setdefault(file, []).append(version)
    return library


def read_sections(content: bytes) -> list[Section]:
    """Return all sections with their names."""
    (start,) = struct.unpack_from("<Q", content, 40)
    size, count, names_at = struct.unpack_from("<HHH", content, 58)
    headers = [struct.unpack_from("<IIQQQQII", content, start + size * i) for i in range(count)]
    names = headers[names_at]
    strings = content[names[4] : names[4] + names[5]]
    return [
        Section(text_at(strings, name), kind, content[offset : offset + length], link)
        for name, kind, _, _, offset, length, link, _ in headers
    ]


def wanted_versions(content: bytes, strings: bytes) -> Iterator[tuple[str, str]]:
    """Yield a library and a version of its symbols, such as GLIBC_2.17, for each that is wanted."""
    at = 0
    while True:
        _, count, file, first, following = struct.unpack_from("<HHIII", content, at)
        entry = at + first
        for _ in range(count):
            *_, name, step = struct.unpack_from("<IHHII", content, entry)
            yield text_at(strings, file), text_at(strings, name)
            entry += step
        if following == 0:
            return
        at += following

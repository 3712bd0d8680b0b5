"""ELAN (`.eaf`): annotations in tiers, as XML."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from mmerc.errors import ConversationError
from mmerc.transcripts.rows import Row, short
from mmerc.transcripts.tiers import Annotation, Tier, moment, tier_rows


class _Document(NamedTuple):
    """What annotations and tiers refer to, by id."""

    path: Path
    slots: Mapping[str, str | None]  # times; None for what ELAN has not aligned
    aligned: Mapping[str, ET.Element]  # annotations with times of their own
    above: Mapping[str, str]  # annotation → the annotation that it depends on
    parents: Mapping[str, str]  # tier → the tier that it depends on, "" for none


def elan_rows(path: Path, text: str) -> Iterator[Row]:
    """Yield the utterances of the independent tiers of an ELAN file.

    Tiers that depend on another are left out, or hold its labels (`mmerc.transcripts.tiers`). Times are
    those of ELAN's time line.
    """
    root = _parsed(path, text)
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        raise ConversationError(f"{path}: times are in {units}: save the file with milliseconds")
    elements = root.findall("TIER")
    document = _Document(
        path,
        {slot.get("TIME_SLOT_ID", ""): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")},
        {found.get("ANNOTATION_ID", ""): found for found in root.iter("ALIGNABLE_ANNOTATION")},
        {r.get("ANNOTATION_ID", ""): r.get("ANNOTATION_REF", "") for r in root.iter("REF_ANNOTATION")},
        {tier.get("TIER_ID", ""): tier.get("PARENT_REF", "") for tier in elements},
    )
    return tier_rows(path, [_tier(document, element) for element in elements])


def _parsed(path: Path, text: str) -> ET.Element:
    if "<!DOCTYPE" in text:  # without one, XML can neither name other files nor grow by entities
        raise ConversationError(f"{path}: a document type (<!DOCTYPE) is refused: ELAN writes none")
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise ConversationError(f"{path} is not XML: {error}") from None
    if root.tag != "ANNOTATION_DOCUMENT":
        raise ConversationError(f"{path} is not of ELAN: its root is {short(root.tag)}")
    return root


def _tier(document: _Document, element: ET.Element) -> Tier:
    name = element.get("TIER_ID", "")
    where = f"tier {short(name)}"
    parent = _top(f"{document.path}: {where}", name, document.parents)
    tier = Tier(
        name=name,
        annotations=[],
        participant=element.get("PARTICIPANT", "").strip(),
        parent="" if parent == name else parent,
        kind=element.get("LINGUISTIC_TYPE_REF", ""),
    )
    if tier.parent and not tier.holds_labels:
        return tier
    for annotation in element.iterfind("ANNOTATION/*"):
        if text := " ".join((annotation.findtext("ANNOTATION_VALUE") or "").split()):
            name = annotation.get("ANNOTATION_ID", "")
            place = f"{where}, annotation {short(name)}"
            tier.annotations.append(Annotation(place, *_times(document, place, name), text))
    return tier


def _times(document: _Document, place: str, name: str) -> tuple[float, float]:
    """Return the times of an annotation, or of the one that it depends on."""
    where = f"{document.path}: {place}"
    found = document.aligned.get(_top(where, name, document.above))
    slots = (None if found is None else found.get(f"TIME_SLOT_REF{end}") for end in (1, 2))
    times = [document.slots.get(slot or "") for slot in slots]
    if times[0] is None or times[1] is None:
        raise ConversationError(f"{where}: it has no time: align it in ELAN")
    return moment(where, times[0], 1), moment(where, times[1], 1)


def _top(where: str, name: str, above: Mapping[str, str]) -> str:
    """Return the first of what `name` depends on, through any number of steps."""
    for _ in range(len(above) + 1):
        if not above.get(name):
            return name
        name = above[name]
    raise ConversationError(f"{where}: it depends on itself")

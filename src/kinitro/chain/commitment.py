"""The text a miner commits on chain: read strictly, as hostile input, and written in one form (contracts section 6)."""

import json
import re

from kinitro.errors import ConfigurationError, InvalidCommitment
from kinitro.types import PolicyRef

MAX_COMMITMENT_BYTES = 128
MAX_REPO_LENGTH = 96
"""HuggingFace's own limit."""

_REVISION = re.compile(r"[0-9a-f]{40}")
# HuggingFace's rule: letters, digits, `-`, `_`, `.`; neither `-` nor `.` at an end of a part.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}/{_PART}")
_FORMS = 'Commit {"m":"user/repo","r":"<40-hex revision>"}: `kinitro miner commit` writes it.'


def parse_commitment(text: str) -> PolicyRef:
    """Reads either form, the JSON object or `user/repo:revision`.

    Raises `InvalidCommitment` with the reason for its owner: too long, not ASCII, not one of the forms, a duplicate,
    missing or unknown key, a repo id that HuggingFace would not allow, or a revision that is not a full lower-case one.
    """
    _check_size(text)
    repo, revision = _read_json(text) if text.lstrip().startswith("{") else _read_short(text)
    problem = _repo_problem(repo) or _revision_problem(revision)
    if problem:
        raise _refusal(problem)
    return PolicyRef(repo, revision)


def commitment_text(info: object) -> str:
    """The text of a commitment as decoded from storage, `{"fields": [{"Raw12": "0x..."}, ...]}`. Never fails.

    Plain fields in a row are one text. What is not UTF-8 is shown as hex. A sealed commitment or a hash has no text
    that could name a policy: what it is stands there instead.
    """
    fields = info.get("fields") if isinstance(info, dict) else None
    parts = [_plain(field) for field in fields] if isinstance(fields, (list, tuple)) else [None]
    if None in parts:
        return "(not a plain text: sealed, a hash, or of a kind unknown here)"
    content = b"".join(part for part in parts if part is not None)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"0x{content.hex()}"


def format_commitment(ref: PolicyRef) -> str:
    """Writes the JSON form.

    Raises `ConfigurationError`, with the fix, when the repo id or revision is not valid or the text would not fit.
    """
    problem = _repo_problem(ref.repo)
    if problem:
        raise ConfigurationError(f"Not a HuggingFace repo id: {problem}.", advice="Use --repo user/name.")
    problem = _revision_problem(ref.revision)
    if problem:
        raise ConfigurationError(
            f"Not a full revision: {problem}.",
            advice="Give the commit's 40 hex digits, as the repo's history page shows them; a branch or tag can move.",
        )
    text = json.dumps({"m": ref.repo, "r": ref.revision}, separators=(",", ":"))
    if len(text) > MAX_COMMITMENT_BYTES:
        raise ConfigurationError(
            f"The commitment would take {len(text)} bytes; the chain holds {MAX_COMMITMENT_BYTES}.",
            advice=f"Rename the repo to at most {len(ref.repo) - len(text) + MAX_COMMITMENT_BYTES} characters "
            "(user/name together).",
        )
    return text


def _plain(field: object) -> bytes | None:
    """The bytes of a `Raw` field; None for any other."""
    if not isinstance(field, dict) or len(field) != 1:
        return None
    ((kind, value),) = field.items()
    if not isinstance(kind, str) or not kind.startswith("Raw") or not isinstance(value, str):
        return None
    try:
        return bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        return None


def _refusal(problem: str) -> InvalidCommitment:
    return InvalidCommitment(f"The commitment can't be read: {problem}.", advice=_FORMS)


def _check_size(text: str) -> None:
    if not text.strip():
        raise _refusal("it is empty")
    if len(text) > MAX_COMMITMENT_BYTES:
        raise _refusal(f"it is longer than {MAX_COMMITMENT_BYTES} bytes")
    if not text.isascii():
        raise _refusal("it holds characters that are not ASCII")


def _read_json(text: str) -> tuple[str, str]:
    try:
        # Duplicate keys would let two readers see two policies in one text.
        fields = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise _refusal("it starts like JSON but is not") from None
    if not isinstance(fields, dict) or set(fields) != {"m", "r"}:
        raise _refusal('it must have the keys "m" and "r" and no other')
    repo, revision = fields["m"], fields["r"]
    if not isinstance(repo, str) or not isinstance(revision, str):
        raise _refusal('"m" and "r" must be strings')
    return repo, revision


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _refusal("a key appears twice")
    return fields


def _read_short(text: str) -> tuple[str, str]:
    repo, colon, revision = text.partition(":")
    if not colon:
        raise _refusal("it is neither JSON nor user/repo:revision")
    return repo, revision


def _repo_problem(repo: str) -> str | None:
    if len(repo) > MAX_REPO_LENGTH:
        return f"the repo id is longer than {MAX_REPO_LENGTH} characters"
    allowed = _REPO.fullmatch(repo) and ".." not in repo and "--" not in repo and not repo.lower().endswith(".git")
    return None if allowed else f"{repo!a} is not a repo id of the form user/name"


def _revision_problem(revision: str) -> str | None:
    if _REVISION.fullmatch(revision):
        return None
    return f"the revision {revision[:64]!a} is not 40 lower-case hex digits"

"""What names and numbers may be, as the description says it: from the rules that the views apply.

The types themselves have no limits: decoding would refuse what does not fit in words of its own,
before the view can say what to write instead.

Format: JSON Schema's ``pattern`` (ECMA-262), which looks anywhere in a text.
"""

from __future__ import annotations

import re
from typing import Any

from core import images, names, scaling
from core.sealedbox import FINGERPRINT as FINGERPRINT_FORM
from core.stackvalues import ENV_NAME
from core.store.settled import MOST_DEAD
from forges import known
from forges.github.manifest import LOGIN
from gateway.asynchronous import MADE_ID
from gateway.functionlogs import INSTANCE, MOST_LINES
from gateway.releases import MAX_LIST

Limit = dict[str, Any]


def _whole(pattern: re.Pattern[str], **more: Any) -> Limit:
    text = re.sub(r"\(\?P<\w+>", "(?:", pattern.pattern)
    return {"pattern": f"^(?:{text})$", **more}


LABEL = _whole(names.LABEL)
FUNCTION = _whole(re.compile(rf"{names.LABEL.pattern}(?:\.{names.LABEL.pattern})?"))
"""``name`` or ``name.namespace``."""
REPOSITORY = _whole(names.REPOSITORY)
COMMIT = _whole(names.COMMIT)
RELEASE = _whole(names.RELEASE)
ROLLBACK = _whole(names.ROLLBACK)
NUMBER = {"pattern": "^[0-9]{1,10}$"}
TOKEN = _whole(names.TOKEN)
CALL = _whole(MADE_ID)
FINGERPRINT = _whole(FINGERPRINT_FORM)
REPLICA = _whole(INSTANCE)
FORGE: Limit = {"enum": list(known.NAMES)}
LINES = {"minimum": -MOST_LINES, "maximum": MOST_LINES}
LISTED = {"minimum": 1, "maximum": MAX_LIST}
LETTERS = {"minimum": 1, "maximum": MOST_DEAD}
ORGANIZATION = _whole(LOGIN)
_SECRET = _whole(names.SECRET, maxLength=253)
_IMAGE = _whole(images.NAME, maxLength=images.LONGEST)
_VARIABLE = _whole(ENV_NAME)
_TEXT = {"pattern": r"^[^\x00-\x1f\x7f]+$", "maxLength": 317}
"""Name of a label or an annotation."""

_BODIES: dict[str, dict[str, Limit]] = {
    "FunctionDeployment": {
        "service": LABEL,
        "namespace": LABEL,
        "image": _IMAGE,
        "secrets": _SECRET,
        "envVars": _VARIABLE,
        "labels": _TEXT,
        "annotations": _TEXT,
    },
    "FunctionDeletion": {"functionName": FUNCTION, "namespace": LABEL},
    "Scale": {
        "serviceName": FUNCTION,
        "namespace": LABEL,
        "replicas": {"minimum": 0, "maximum": scaling.MAX_REPLICAS},
    },
    "Namespace": {"name": LABEL, "labels": _TEXT, "annotations": _TEXT},
    "Given": {"name": _SECRET, "namespace": LABEL},
    "Named": {"name": _SECRET, "namespace": LABEL},
    "Variables": {"namespace": LABEL},
    "TokenWanted": {"namespace": LABEL},
    "Start": {"namespace": LABEL, "repository": REPOSITORY, "commit": COMMIT},
    "Back": {"namespace": LABEL, "function": LABEL, "repository": REPOSITORY, "to": RELEASE},
    "Approval": {"commit": COMMIT},
    "Artifacts": {"commit": COMMIT},
    "Artifact": {"name": LABEL},
}


def put_into(components: dict[str, Any]) -> None:
    """Adds the limits to the schemas of the bodies."""
    for body, fields in _BODIES.items():
        for field, limit in fields.items():
            _narrow(components[body]["properties"][field], limit)


def _narrow(schema: dict[str, Any], limit: Limit) -> None:
    """A list's limit is that of its values, an object's that of its names."""
    for each in schema.get("anyOf", [schema]):
        if each["type"] == "array":
            each["items"].update(limit)
        elif each["type"] == "object":
            each["propertyNames"] = limit
        elif each["type"] != "null":
            each.update(limit)

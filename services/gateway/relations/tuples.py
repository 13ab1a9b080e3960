"""Objects, users and relation tuples, as callers write them: `user:anna` `editor` `project:claims`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.gateway.relations.model import Kind, Model
from services.meshkit.core.errors import Invalid

MAX_ID: Final = 128
EVERYONE: Final = "*"
_SIGNS_OF_IDS: Final = frozenset("_-.@+")
_SIGNS_OF_NAMES: Final = frozenset("_-./")
_OBJECT: Final = "must be `type:id`; an id is 1 to 128 letters, digits and `_-.@+`"
_USER: Final = f"{_OBJECT}; or `type:*` for everyone, or `type:id#relation`"


@dataclass(frozen=True, slots=True, order=True)
class Object:
    """A thing, or a person: `project:claims`, `user:anna`."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


@dataclass(frozen=True, slots=True, order=True)
class User:
    """Whom a tuple names: one, everyone of a type (id `*`), or all who have a relation to an object."""

    type: str
    id: str
    relation: str = ""

    @property
    def kind(self) -> Kind:
        """What a model must have in its list for this user."""
        return Kind(self.type, self.relation, everyone=self.id == EVERYONE)

    @property
    def object(self) -> Object:
        """The object before `#`, or the one user."""
        return Object(self.type, self.id)

    def __str__(self) -> str:
        return f"{self.type}:{self.id}#{self.relation}" if self.relation else f"{self.type}:{self.id}"


@dataclass(frozen=True, slots=True)
class Node:
    """A relation to an object: `project:claims#editor`."""

    object: Object
    relation: str

    def __str__(self) -> str:
        return f"{self.object}#{self.relation}"


@dataclass(frozen=True, slots=True)
class RelationTuple:
    """One fact: this user has this relation to this object."""

    user: User
    relation: str
    object: Object
    #: None until it is stored.
    write_time: datetime | None = None

    def __str__(self) -> str:
        return f"{self.user} {self.relation} {self.object}"


def parse_object(text: str, *, field: str) -> Object:
    """Reads `type:id`. Raises: Invalid."""
    type_name, colon, name = text.partition(":")
    if not (colon and _is_name(type_name, 254) and _is_id(name)):
        raise Invalid(field, _OBJECT)
    return Object(type_name, name)


def parse_user(text: str, *, field: str) -> User:
    """Reads `type:id`, `type:*` or `type:id#relation`. Raises: Invalid."""
    rest, hash_sign, relation = text.partition("#")
    type_name, colon, name = rest.partition(":")
    everyone = name == EVERYONE and not hash_sign
    if not (colon and _is_name(type_name, 254) and (everyone or _is_id(name))):
        raise Invalid(field, _USER)
    if hash_sign and not _is_name(relation, 50):
        raise Invalid(field, _USER)
    return User(type_name, name, relation)


def parse_relation(text: str, *, field: str) -> str:
    """Reads the name of a relation. Raises: Invalid."""
    if not _is_name(text, 50):
        raise Invalid(field, "must be the name of a relation, 1 to 50 letters, digits and `_-./`")
    return text


def check_place(model: Model, written: RelationTuple, *, field: str) -> None:
    """Refuses a tuple that the model has no place for. Raises: Invalid, naming the field."""
    check_relation(model, written.relation, written.object, field=field)
    direct = model.direct(written.object.type, written.relation)
    if direct is None:
        sentence = f"`{written.relation}` of `{written.object.type}` follows from others and cannot be written"
        raise Invalid(f"{field}.relation", sentence)
    if written.user.kind not in direct.kinds:
        sentence = f"`{written.relation}` of `{written.object.type}` takes {direct}, not `{written.user.kind}`"
        raise Invalid(f"{field}.user", sentence)
    if written.user == User(written.object.type, written.object.id, written.relation):
        raise Invalid(field, f"`{written}` says what is so anyway")


def check_relation(model: Model, relation: str, thing: Object, *, field: str = "") -> None:
    """Refuses a relation that the model does not have. Raises: Invalid, naming the field."""
    prefix = f"{field}." if field else ""
    if thing.type not in model.types:
        known = ", ".join(f"`{name}`" for name in model.types)
        raise Invalid(f"{prefix}object", f"the model has no type `{thing.type}`; its types are {known}")
    if model.expression(thing.type, relation) is None:
        known = ", ".join(f"`{name}`" for name in model.types[thing.type]) or "none"
        raise Invalid(f"{prefix}relation", f"type `{thing.type}` has no relation `{relation}`; it has {known}")


def _is_name(text: str, most: int) -> bool:
    return 1 <= len(text) <= most and all(one.isascii() and (one.isalnum() or one in _SIGNS_OF_NAMES) for one in text)


def _is_id(text: str) -> bool:
    return 1 <= len(text) <= MAX_ID and all(one.isascii() and (one.isalnum() or one in _SIGNS_OF_IDS) for one in text)

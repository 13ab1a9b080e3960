"""What the content of a request may be trusted with: nobody at a door can say that for themselves."""

from typing import Final

from services.meshkit.content import Confidentiality, Integrity, Label

#: What whoever holds the key says, whatever role they say it in.
SAID: Final = Label(integrity=Integrity.USER, confidentiality=Confidentiality.TENANT, sources=frozenset({"user:door"}))
#: What they say that a tool said, and what a model made of that.
BROUGHT: Final = Label(
    integrity=Integrity.UNTRUSTED, confidentiality=Confidentiality.TENANT, sources=frozenset({"tool:door"})
)

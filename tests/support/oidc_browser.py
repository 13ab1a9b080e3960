"""A person with a browser: follows links, keeps cookies, fills in the provider's own forms.

As a program it is a browser for commands that open one: `BROWSER="python -m tests.support.oidc_browser EMAIL %s"`.
"""

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from typing import Final
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, OpenerDirector, ProxyHandler, build_opener

_TIMEOUT_SECONDS: Final = 10.0
_MOST_FORMS: Final = 8


@dataclass(slots=True)
class Form:
    """A form of a page, with what it holds already."""

    action: str
    values: dict[str, str] = field(default_factory=dict[str, str])
    #: Buttons with a name.
    buttons: dict[str, str] = field(default_factory=dict[str, str])


class _Forms(HTMLParser):
    """Finds the forms of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name, value = given.get("name"), given.get("value") or ""
        if tag == "form":
            self.found.append(Form(given.get("action") or ""))
        elif tag == "input" and self.found and name:
            self.found[-1].values[name] = value
        elif tag == "button" and self.found and name:
            self.found[-1].buttons[name] = value


class Person:
    """Somebody with a mail address, at the provider of `provider.mjs`."""

    def __init__(self, email: str) -> None:
        self.email = email
        self._browser: OpenerDirector = build_opener(HTTPCookieProcessor(CookieJar()), ProxyHandler({}))

    def sign_in(self, page: str, *, refuses: bool = False) -> str:
        """Opens a page and does what its forms ask, until there are no more. Gives the text of the last page.

        Args:
            refuses: turns down what the sign-in asks for.
        """
        address, text = self._open(page)
        for _ in range(_MOST_FORMS):
            forms = _Forms()
            forms.feed(text)
            if not forms.found:
                return text
            form = forms.found[0]
            if refuses and "abort" in text:
                address, text = self._open(urljoin(address, f"{address}/abort"))
                continue
            address, text = self._open(urljoin(address, form.action), self._filled(form))
        raise AssertionError(f"the provider goes on asking: {text}")

    def _filled(self, form: Form) -> dict[str, str]:
        values = {**form.values}
        if "login" in values:
            values |= {"login": self.email, "password": "anything"}
        if "confirm" in form.buttons or "confirm" in values:
            values["confirm"] = "yes"
        return values

    def _open(self, page: str, form: dict[str, str] | None = None) -> tuple[str, str]:
        data = None if form is None else urlencode(form).encode()
        try:
            with self._browser.open(page, data=data, timeout=_TIMEOUT_SECONDS) as answer:
                return answer.url, answer.read().decode()
        except HTTPError as refusal:
            with refusal:
                return refusal.url or page, refusal.read().decode()


if __name__ == "__main__":
    Person(sys.argv[1]).sign_in(sys.argv[2])

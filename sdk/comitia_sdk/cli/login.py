"""`comitia login`, `comitia logout`: people, by the provider of their tenant."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed

if TYPE_CHECKING:
    from comitia.gateway.v1.user_service_pb2 import GetLoginOptionsResponse
    from comitia_sdk.login.device import DeviceCode
    from comitia_sdk.login.provider import Provider, ProviderTokens

_KEY: Final = "COMITIA_API_KEY"
#: A browser that has not failed by then has opened.
_BROWSER_SECONDS: Final = 2.0


def login(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant to sign in to.")],
    device: Annotated[
        bool, typer.Option("--device", help="Show a code to enter on another device, instead of opening a browser.")
    ] = False,
    issuer: Annotated[
        str,
        typer.Option(metavar="URL", help="Provider to sign in at, where the tenant has several.", show_default=False),
    ] = "",
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only show the page's address; open it yourself on this machine.")
    ] = False,
) -> None:
    """Signs you in by your tenant's OpenID Connect provider.

    You stay signed in as long as the provider allows; the tokens lie in your folder of settings, readable by you alone.

    Examples:

      comitia login acme

      comitia login acme --device

      COMITIA_URL=https://mesh.example.com comitia login acme --issuer https://accounts.example.com
    """
    from comitia_sdk.context import find_context
    from comitia_sdk.login.provider import discover
    from comitia_sdk.login.stored import Logins, StoredLogin, find_config_dir
    from comitia_sdk.sync import Client

    url = find_context().url
    with Client(url) as mesh:
        option = _chosen(mesh.users.login_options(tenant), tenant=tenant, issuer=issuer)
        provider = discover(option.issuer)
        tokens = (
            _by_device(provider, option.client_id) if device else _by_browser(provider, option.client_id, no_browser)
        )
        given = mesh.users.exchange(tenant, tokens.id_token)
    kept = StoredLogin(
        tenant=tenant,
        issuer=option.issuer,
        client_id=option.client_id,
        token_endpoint=provider.token_endpoint,
        id_token=tokens.id_token,
        refresh_token=tokens.refresh_token,
        access_token=given.access_token,
        expires=given.expire_time.seconds,
    )
    Logins(find_config_dir(os.environ)).put(url, kept)
    with Client(url, access_token=given.access_token) as mesh:
        me = mesh.identity.whoami()
    typer.echo(f"signed in to {tenant} as {me.email}")
    if os.environ.get(_KEY):
        typer.echo(f"{_KEY} is set and goes first; unset it to work as {me.email}", err=True)


def logout() -> None:
    """Forgets your sign-in to the mesh.

    Your provider may still know you in the browser; sign out there too on a machine that others use.

    Example:  comitia logout
    """
    from comitia_sdk.context import find_context
    from comitia_sdk.login.stored import Logins, find_config_dir

    url = find_context().url
    was = Logins(find_config_dir(os.environ)).remove(url)
    typer.echo(f"signed out of {url}" if was else f"nobody was signed in to {url}")


def _chosen(
    options: "Sequence[GetLoginOptionsResponse.Option]", *, tenant: str, issuer: str
) -> "GetLoginOptionsResponse.Option":
    if not options:
        raise CommandFailed(
            f"there is no way to sign in to {tenant!r}; check the name, or let an administrator of the tenant run "
            "`comitia issuer add`"
        )
    found = [option for option in options if option.issuer == issuer] if issuer else list(options)
    names = ", ".join(dict.fromkeys(option.issuer for option in options))
    if not found:
        raise CommandFailed(f"{issuer} is no provider of {tenant!r}; it has {names}", code=EXIT_USAGE)
    if len({option.issuer for option in found}) > 1:
        raise CommandFailed(f"{tenant!r} has several providers; choose one with --issuer: {names}", code=EXIT_USAGE)
    return found[0]


def _by_browser(provider: "Provider", client_id: str, no_browser: bool) -> "ProviderTokens":
    from comitia_sdk.login.browser import sign_in

    def show(page: str) -> None:
        if no_browser or not _opened(page):
            typer.echo(f"Open this page in a browser on this machine:\n\n  {page}\n", err=True)
            typer.echo("On a machine without a browser, use --device.", err=True)
        else:
            typer.echo("Your browser shows where to sign in. If it does not, open this page:", err=True)
            typer.echo(f"\n  {page}\n", err=True)

    return sign_in(provider, client_id, show=show)


def _by_device(provider: "Provider", client_id: str) -> "ProviderTokens":
    from comitia_sdk.cli.output import plain
    from comitia_sdk.login.device import sign_in

    def show(code: "DeviceCode") -> None:
        minutes = max(1, round(code.seconds / 60))
        typer.echo(f"Open {plain(code.page)} on any device and enter the code", err=True)
        typer.echo(f"\n  {plain(code.code)}\n", err=True)
        if code.whole_page:
            typer.echo(f"or open {plain(code.whole_page)}", err=True)
        typer.echo(f"The code is good for {minutes} minutes. Waiting ...", err=True)

    return sign_in(provider, client_id, show=show)


def _opened(page: str) -> bool:
    """Opens a page in the browser; False where there is none."""
    import threading
    import webbrowser

    answer: list[bool] = []

    def work() -> None:
        try:
            answer.append(webbrowser.open(page))
        except (webbrowser.Error, OSError):
            answer.append(False)

    # Some browsers run until the person closes them, and the answer has to be received meanwhile.
    opening = threading.Thread(target=work, daemon=True)
    opening.start()
    opening.join(_BROWSER_SECONDS)
    return answer != [False]

"""Comitia inside an application that speaks ASGI: FastAPI, Starlette, Django, Quart, or none of them.

from comitia_sdk.asgi import ComitiaAuth, ComitiaMount, require

app.add_middleware(ComitiaAuth)        # tokens and API keys of Comitia open the routes of the application
app.mount("/ai", ComitiaMount())       # and the API of the mesh stands under /ai/v1, for the same callers
"""

from comitia_sdk.asgi.auth import ComitiaAuth
from comitia_sdk.asgi.mount import ComitiaMount, IdToken
from comitia_sdk.asgi.principal import Principal, require
from comitia_sdk.secret import Secret

__all__ = ["ComitiaAuth", "ComitiaMount", "IdToken", "Principal", "Secret", "require"]

"""Puts the sign-in of people together; a part of the wiring."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.gateway.clients.id_tokens import IdTokenVerifier
from services.gateway.clients.issuer_keys import IssuerKeys
from services.gateway.clients.outward_json import outward_json
from services.gateway.storage.people_reader import SqlLoginDirectory, SqlPeopleReader
from services.gateway.storage.people_work import SqlBeginPeopleWork
from services.gateway.transport.user_servicer import UserServicer, registration
from services.gateway.usecases.change_user import RemoveUser, SetUserRoles
from services.gateway.usecases.invite_user import InviteUser
from services.gateway.usecases.sign_in import SignIn
from services.gateway.usecases.trust_issuer import DistrustIssuer, TrustIssuer
from services.gateway.wiring.ground import Ground
from services.meshkit.grpc.server import Registration
from services.meshkit.telemetry.metrics import show_size


@asynccontextmanager
async def people(on: Ground) -> AsyncGenerator[Registration]:
    """Gives the service of people."""
    settings, clock, ids = on.settings, on.clock, on.ids
    async with outward_json() as source:
        keys = IssuerKeys(
            source,
            clock=clock,
            may_be_local=settings.oidc_reach_local,
            fresh_seconds=settings.oidc_keys_seconds,
            outage_seconds=settings.oidc_outage_seconds,
        )
        show_size("oidc_issuers", keys)
        begin = SqlBeginPeopleWork(on.app)
        servicer = UserServicer(
            sign_in=SignIn(
                directory=SqlLoginDirectory(on.maintenance),
                id_tokens=IdTokenVerifier(keys, clock=clock),
                begin=begin,
                signer=on.signing.ring,
                clock=clock,
                ids=ids,
                most_users=settings.max_users,
            ),
            invite_user=InviteUser(begin=begin, clock=clock, ids=ids, most=settings.max_users),
            set_user_roles=SetUserRoles(begin=begin, clock=clock),
            remove_user=RemoveUser(begin=begin, clock=clock),
            trust_issuer=TrustIssuer(begin=begin, issuers=keys, clock=clock, ids=ids, most=settings.max_oidc_issuers),
            distrust_issuer=DistrustIssuer(begin=begin),
            people=SqlPeopleReader(on.app),
        )
        yield registration(servicer)

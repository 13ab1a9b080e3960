"""Relations through the whole mesh: refused with a sentence that says what is missing, granted, taken away."""

import time

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.errors import ComitiaError, PermissionDenied
from comitia_sdk.sync import Client
from tests.support.mesh import RunningMesh


def start(client: Client, project: str = "claims") -> session_pb2.Session:
    return client.sessions.start("Rivers", agents=["Athena"], max_rounds=1, metadata={"project": project})


def until_refused(client: Client, session_id: str) -> ComitiaError:
    """Reads a session until that is refused, at most the 5 s that a relation may live on, and some for the machine."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            client.sessions.get(session_id)
        except PermissionDenied as error:
            return error
        time.sleep(0.2)
    raise AssertionError("the session can still be read")


def test_a_project_is_its_editors_once_a_relation_was_written(mesh: RunningMesh) -> None:
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        admin_key = operator.tenants.create("relations").admin_api_key
    with Client(mesh.url, api_key=admin_key) as admin:
        admin.agents.create("Athena")
        made = admin.identity.create_key("worker")
        me = f"user:{made.api_key.api_key_id}"
        with Client(mesh.url, api_key=made.secret) as worker:
            start(worker, "before-any-relation")
            admin.access.grant("user:anna@example.com", "admin", "project:claims")
            with pytest.raises(PermissionDenied, match=f"{me} is not editor of project:claims") as raised:
                start(worker)
            assert raised.value.reason == "RELATION_MISSING"
            assert "would grant it" in raised.value.message
            admin.access.grant("organization:acme", "parent", "project:claims")
            admin.access.grant(me, "admin", "organization:acme")
            admin.access.grant(me, "viewer", "project:claims")
            time.sleep(1.1)
            second = start(worker)
            found = admin.access.check(me, "editor", "project:claims")
            assert found.allowed
            assert "through `admin from parent`" in found.explanation[0]
            assert second.session_id in {session.session_id for session in worker.sessions.list()}
            admin.access.revoke(me, "viewer", "project:claims")
            assert until_refused(worker, second.session_id).reason == "RELATION_MISSING"
            assert second.session_id not in {session.session_id for session in worker.sessions.list()}
            start(worker, project="")

"""What lies sealed in a row comes back as it was."""

from services.memory.transport.convert import ProtoPayload, memory_to_proto
from services.meshkit.content import BlobPart, CallContext, CallId, Part, ToolCallPart, text_part
from tests.support.memory_table import USER, a_memory


def test_parts_and_context_survive_the_row() -> None:
    parts = (
        text_part("Ban cars.", USER),
        Part(ToolCallPart(tool_call_id="1", name="add", arguments={"a": [1, {"b": None}]}), USER),
        Part(BlobPart(blob_id="b", media_type="image/png", size_bytes=10, owner="tools"), USER),
    )
    context = CallContext(
        call_id=CallId(run_id="run_1", path="rounds/1/Athena", attempt_group=2, index=3),
        budget_ids=("budget_1",),
        agent_name="Athena",
        agent_version="1.0.0",
        project="peace",
        residency_region="eu",
    )
    codec = ProtoPayload()
    assert codec.decode(codec.encode(parts, context)) == (parts, context)


def test_a_memory_outside_sessions_names_none_and_never_expires() -> None:
    message = memory_to_proto(a_memory())
    assert message.session_id == ""
    assert not message.HasField("expire_time")
    assert not message.embedded

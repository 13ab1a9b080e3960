from google.protobuf import struct_pb2

from comitia.orchestrator.v1 import worker_service_pb2 as pb
from comitia_sdk.worker.stream import WorkStream
from comitia_sdk.worker.values import MAX_OUTPUT_BYTES


async def test_outcomes_travel_in_frames_that_the_mesh_takes_however_large_they_are_together() -> None:
    stream = WorkStream(pb.WorkerHello(worker="w", steps=["s"], credits=40))
    output = struct_pb2.Value(string_value="x" * (MAX_OUTPUT_BYTES - 8))
    for lease_id in range(1, 41):
        stream.answer(lease_id, pb.StepOutcome(output=output))
    stream.end()
    _, *frames = [frame async for frame in stream]

    assert [one.lease_id for frame in frames for one in frame.outcomes.outcomes] == list(range(1, 41))
    assert max(frame.ByteSize() for frame in frames) <= 4 * 1024 * 1024

// Makes steps `shout`, `swell` and `fail` of workflows, with nothing but the protos: no code of Comitia's own.
//
//   node worker.mjs <edge host:port> <folder of the protos> <folder of google's protos> <pool>
//
// COMITIA_TOKEN holds an access token. Prints `ready`, then a line for each step; SIGTERM stops it in order.

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [target, protos, google, pool] = process.argv.slice(2);
const CREDITS = 4;
const MAX_OUTPUT_BYTES = 256 * 1024;

const definition = await protoLoader.load("comitia/orchestrator/v1/worker_service.proto", {
  includeDirs: [protos, google],
  keepCase: true,
  longs: String,
  arrays: true,
  objects: true,
  oneofs: true,
});
const { WorkerService } = grpc.loadPackageDefinition(definition).comitia.orchestrator.v1;

// JSON, as google.protobuf.Value carries it. Types of Google come with protobufjs, which spells their fields its own way.
const read = (value) => {
  switch (value.kind) {
    case "structValue":
      return Object.fromEntries(Object.entries(value.structValue.fields).map(([name, field]) => [name, read(field)]));
    case "listValue":
      return value.listValue.values.map(read);
    case "nullValue":
      return null;
    default:
      return value[value.kind];
  }
};
const write = (found) => {
  if (found === null || found === undefined) return { nullValue: 0 };
  if (Array.isArray(found)) return { listValue: { values: found.map(write) } };
  switch (typeof found) {
    case "object":
      return { structValue: { fields: Object.fromEntries(Object.entries(found).map(([k, v]) => [k, write(v)])) } };
    case "number":
      return { numberValue: found };
    case "boolean":
      return { boolValue: found };
    default:
      return { stringValue: found };
  }
};

const steps = {
  shout: async ({ text }) => ({ text: text.toUpperCase(), by: "node" }),
  swell: async ({ text }) => text.repeat(1_000_000),
  fail: async ({ text }) => {
    throw Object.assign(new Error(`cannot ${text}`), { reason: "NODE_SAYS_NO", permanent: true });
  },
};

const identity = new grpc.Metadata();
identity.set("authorization", `Bearer ${process.env.COMITIA_TOKEN}`);
const client = new WorkerService(target, grpc.credentials.createInsecure());
const stream = client.Work(identity);
const open = new Set();
const revoked = new Set();

const encoded = WorkerService.service.Work.requestSerialize;
const checked = (output) => {
  if (encoded({ outcomes: { outcomes: [{ output }] } }).length > MAX_OUTPUT_BYTES) {
    const message = `the output has more than ${MAX_OUTPUT_BYTES} bytes; store it elsewhere and give a reference to it`;
    throw Object.assign(new Error(message), { reason: "OUTPUT_TOO_LARGE", permanent: true });
  }
  return output;
};

const make = async (lease) => {
  const outcome = { lease_id: lease.lease_id };
  open.add(lease.lease_id);
  try {
    outcome.output = checked(write(await steps[lease.name](read(lease.input))));
  } catch (error) {
    outcome.failure = { reason: error.reason ?? "", message: error.message, permanent: error.permanent ?? false };
  }
  open.delete(lease.lease_id);
  // Whatever it says of a lease that was revoked only gives the credit back.
  console.log(JSON.stringify({ step: lease.name, path: lease.path, revoked: revoked.delete(lease.lease_id) }));
  stream.write({ outcomes: { outcomes: [outcome] } });
};

stream.on("metadata", () => console.log("ready"));
stream.on("data", (told) => {
  told.revoked_lease_ids.forEach((id) => revoked.add(id));
  told.leases.forEach(make);
});
stream.on("error", (error) => {
  console.error(`${grpc.status[error.code] ?? error.name}: ${error.details ?? error.message}`);
  process.exitCode = 1;
  client.close();
});
stream.on("end", () => client.close());
process.on("SIGTERM", () => stream.write({ draining: {} }));
// Signs of life, more often than any step of ours asks for.
setInterval(() => open.size && stream.write({ heartbeats: { lease_ids: [...open] } }), 5_000).unref();
stream.write({ hello: { worker: `node-${process.pid}`, pool, steps: Object.keys(steps), credits: CREDITS } });

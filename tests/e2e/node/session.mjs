// Starts a session and follows it to its end, with nothing but the protos: no code of Comitia's own.
//
//   node session.mjs <edge host:port> <folder of the protos> <folder of google's protos> <agent> <topic>
//
// COMITIA_TOKEN holds an access token. Each event is printed as one line of JSON.

import { randomUUID } from "node:crypto";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [target, protos, google, agent, topic] = process.argv.slice(2);

const definition = await protoLoader.load("comitia/orchestrator/v1/session_service.proto", {
  includeDirs: [protos, google],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { SessionService } = grpc.loadPackageDefinition(definition).comitia.orchestrator.v1;
const client = new SessionService(target, grpc.credentials.createInsecure());
const identity = new grpc.Metadata();
identity.set("authorization", `Bearer ${process.env.COMITIA_TOKEN}`);

const deadline = () => ({ deadline: Date.now() + 20_000 });
const start = (request) =>
  new Promise((resolve, reject) => {
    client.StartSession(request, identity, deadline(), (error, answer) => (error ? reject(error) : resolve(answer)));
  });

try {
  const { session } = await start({
    topic,
    mode: "SESSION_MODE_DEBATE",
    agents: [agent],
    max_rounds: 1,
    request_id: randomUUID(),
  });
  for await (const event of client.WatchSession({ session_id: session.session_id }, identity, deadline())) {
    console.log(JSON.stringify({ sequence: event.sequence, kind: event.event, [event.event]: event[event.event] }));
  }
} catch (error) {
  console.error(`${grpc.status[error.code] ?? error.name}: ${error.details ?? error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}

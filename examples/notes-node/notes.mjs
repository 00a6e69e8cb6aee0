// mod-notes: a module with nothing of Uplift in it but plain HTTP. Start it with
//   node notes.mjs --gateway http://127.0.0.1:9130 --port 9140
// It registers itself, holds its requests while it migrates a tenant (UPDATE … RESUME), is told of holds, and leaves with DISCONNECT.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

const { values: given } = parseArgs({
  options: {
    gateway: { type: "string", default: process.env.UPLIFT_GATEWAY_URL ?? "http://127.0.0.1:9130" },
    token: { type: "string", default: process.env.UPLIFT_INSTANCE_TOKEN ?? "" },
    port: { type: "string", default: "9140" }, // 0: a free one, which the first line of output names
  },
});
const ID = "mod-notes-1.0.0";
const DESCRIPTOR = {
  id: ID,
  name: "Example: notes, in Node",
  provides: [
    { id: "notes", version: "1.0", handlers: [{ methods: ["GET", "POST"], pathPattern: "/notes", permissionsRequired: [] }] },
    {
      id: "_lifecycle", version: "1.0", interfaceType: "system",
      handlers: [{ methods: ["POST"], pathPattern: "/_/lifecycle", permissionsRequired: [] }],
    },
  ],
};
let instance; // id of this process at the gateway
const notes = new Map(); // tenant -> [{text}], after the migration [{text, words}]
const pushed = []; // what the gateway told us
const quiet = new Set(); // tenants whose data nobody may touch in the background

// -- what we say to the gateway ---------------------------------------------------------------------------------------------
async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json", ...(given.token && { Authorization: `Bearer ${given.token}` }) };
  for (;;) {
    const answer = await fetch(given.gateway + path, { method, headers, body: body && JSON.stringify(body) }).catch(() => null);
    if (answer && answer.status < 500) {
      if (answer.ok) return { location: answer.headers.get("Location"), body: await answer.json() };
      throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    }
    await sleep(200); // the gateway is not there, or is being replaced: ask again, with the same hold id
  }
}
const signal = (event, more) => ask("POST", `/_/lifecycle/${ID}`, { event, instance, ...more });

async function register(url) {
  instance = `${ID}-${url.slice("http://".length)}`;
  await ask("POST", "/_/proxy/modules?check=false", DESCRIPTOR);
  await ask("POST", "/_/discovery/modules", { srvcId: ID, instId: instance, url });
  await signal("RESUME");
}

// Change a tenant's data while nothing else is at work on it. If `change` fails the hold stays, on purpose: the data may be half changed.
async function updating(tenant, change) {
  const hold = `notes-${randomUUID()}`; // chosen by us: sent twice it is still one hold
  const { location } = await signal("UPDATE", { tenant, hold, ttl: 600, reason: "notes get their words counted" });
  let state;
  do ({ body: state } = await ask("GET", `${location}&wait=20`)); // DELAY: requests are still at work
  while (state.lifecycle === "DELAY");
  if (state.state !== "HELD") throw new Error(`hold ${hold} was taken away; nothing was changed`);
  await change();
  await signal("RESUME", { hold });
  return hold;
}

// -- what we answer ---------------------------------------------------------------------------------------------------------
async function answer(request, url, body) {
  const tenant = request.headers["x-okapi-tenant"];
  const mine = notes.get(tenant) ?? notes.set(tenant, []).get(tenant);
  switch (`${request.method} ${url.pathname}`) {
    case "GET /admin/health":
      return [200, "OK"];
    case "POST /_/lifecycle": { // the gateway tells us; 2xx means that we have acted on it
      const event = JSON.parse(body);
      pushed.push(event);
      if (event.event === "UPDATE") quiet.add(event.tenant);
      if (event.event === "RESUME") quiet.delete(event.tenant);
      return [204];
    }
    case "GET /notes":
      return [200, mine];
    case "POST /notes":
      mine.push({ text: JSON.parse(body).text });
      return [201, mine.at(-1)];
    case "GET /admin/pushed":
      return [200, pushed];
    case "POST /admin/migration": // not in the descriptor: a request through the gateway would wait for its own end
      return [200, { hold: await updating(tenant, async () => {
        await sleep(1000 * Number(url.searchParams.get("seconds") ?? 0)); // as long as a real one would take
        for (const note of mine) note.words = note.text.split(/\s+/).filter(Boolean).length;
      }) }];
    default:
      return [404, "not here"];
  }
}

const server = createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  const found = answer(request, new URL(request.url, "http://here"), body).catch((error) => [500, String(error)]);
  const [status, value] = await found;
  response.writeHead(status, typeof value === "object" ? { "Content-Type": "application/json" } : {});
  response.end(typeof value === "object" ? JSON.stringify(value) : value);
});

server.listen(Number(given.port), "127.0.0.1", async () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  await register(url); // only now: who registers must answer
  console.log(`${ID} answers at ${url}`);
});

for (const name of ["SIGTERM", "SIGINT"])
  process.once(name, async () => {
    await signal("DISCONNECT", { grace: 10 }).catch((error) => console.error(String(error))); // answered when our requests have ended
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
